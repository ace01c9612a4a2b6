"""Releases of git repositories elsewhere, and the channels that name them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from abupdate.disk.layout import Slot
from abupdate.paths import Paths
from abupdate.publish import channels
from abupdate.release.tag import format_payload
from abupdate.release.version import Version
from abupdate.run import Argument, Result
from abupdate.signing.signature import sign
from abupdate.signing.signers import TrustFiles
from abupdate.store.repository import Repository
from abupdate.update import trust
from tests.slots.device import Device, make_release, snapshot
from tests.slots.gitserver import packet, peer, smart, static
from tests.slots.rootfs import make_rootfs
from tests.slots.webserver import Site, serving

LARGE = 400_000
_WHO = "author A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n"
DAY = 86400


@pytest.fixture
def device(plain_device: Device) -> Device:
    """A device with release 1, whose publisher has released 5 and 6 since.

    All have the same large file; 6 has a small one more.
    """
    device = plain_device
    if not device.top.joinpath("6.bundle").exists():
        for version in "56":
            rootfs = make_rootfs(device.top / f"rootfs{version}", version)
            shutil.copy(
                device.top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers"
            )
            (rootfs / "usr/large").write_bytes(random.Random(0).randbytes(LARGE))
            make_release(device, rootfs, version)
    return device


@pytest.fixture
def copies(device: Device) -> Iterator[Path]:
    """A folder that the store's user can read."""
    folder = device.top / "copies"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


_FOLLOWED = {"release": "1", "sequence": 1, "valid_until": 1, "digest": "x", "seen": 1}


def _followed(**other: object) -> str:
    return json.dumps({"stable": {**_FOLLOWED, **other}})


def promote(device: Device, version: str, *more: str, channel: str = "stable") -> None:
    repo = ("--repo", device.publisher, "--version", version)
    key = ("--key", device.top / "keys/release")
    device.publish("promote", *repo, "--channel", channel, *key, *more)


def forget_channels(device: Device) -> None:
    repository = Repository(device.publisher)
    for ref in repository.refs("refs/tags/channel/"):
        repository.delete_ref(ref)


def refused(
    device: Device, source: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    before = snapshot(device)
    assert device.run("install", source) == code
    said = " ".join(capsys.readouterr().err.split())
    assert says in said, said
    assert snapshot(device) == before
    assert list((device.paths.state / "spool").iterdir()) == []


Kind = Callable[[Device], AbstractContextManager[tuple[str, Callable[[], int]]]]


@contextmanager
def _file(device: Device) -> Iterator[tuple[str, Callable[[], int]]]:
    path = device.top / "delta.bundle"
    repo = ("--repo", device.publisher, "--version", "6")
    device.publish("bundle", *repo, "--since", "5", "-o", path)
    yield str(path), lambda: path.stat().st_size


@contextmanager
def _http(device: Device) -> Iterator[tuple[str, Callable[[], int]]]:
    with _file(device) as (path, _), serving(Site(Path(path).read_bytes())) as site:
        yield site.url, lambda: site.sent


@contextmanager
def _smart(device: Device) -> Iterator[tuple[str, Callable[[], int]]]:
    with smart(device.publisher) as (url, asked):
        yield f"{url}#release/6", lambda: asked.sent


@contextmanager
def _static(device: Device) -> Iterator[tuple[str, Callable[[], int]]]:
    with static(device.publisher) as (url, asked):
        yield f"{url}#release/6", lambda: asked.sent


@contextmanager
def _folder(device: Device) -> Iterator[tuple[str, Callable[[], int]]]:
    yield f"{device.publisher}#release/6", lambda: 0


@pytest.mark.row("S20", "S21")
@pytest.mark.parametrize("kind", [_file, _http, _smart, _static, _folder])
def test_from_any_kind_of_source_the_same_and_only_what_is_missing(
    device: Device,
    kind: Kind,
) -> None:
    """Release 5 is in the store: of 6 the large file is not sent again."""
    assert device.run("install", "--no-arm", device.top / "5.bundle") == 0
    with kind(device) as (source, sent):
        assert device.run("install", source) == 0
        assert sent() < LARGE / 10
    assert device.state().trial == Slot.B
    store, signed = device.machine.store(), Repository(device.publisher)
    for name in (Version("6").ref, f"{Version('6').ref}^{{commit}}"):
        assert store.resolve(name) == signed.resolve(name)
    entry = device.machine.records.history()[-1]
    assert (entry.release, entry.detail["source"]) == ("6", source)
    assert entry.detail["transferred"] < LARGE / 10
    assert device.run("verify", "B") == 0
    assert list((device.paths.state / "spool").iterdir()) == []


def test_an_empty_store_gets_all_of_it(device: Device) -> None:
    with static(device.publisher) as (url, _):
        assert device.run("install", f"{url}#release/5") == 0
    assert device.run("verify", "B") == 0


class TestChannel:
    @pytest.fixture(autouse=True)
    def no_channels(self, device: Device) -> Iterator[None]:
        forget_channels(device)
        yield
        forget_channels(device)

    def test_a_device_follows_it(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        promote(device, "5")
        with smart(device.publisher) as (url, _):
            source = f"{url}#channel/stable"
            assert device.run("install", source) == 0
            assert device.machine.records.history()[-1].release == "5"
            promote(device, "6")
            assert device.run("install", source) == 0
            device.boot(Slot.B, "trial")
            assert device.run("confirm") == 0
            capsys.readouterr()
            assert device.run("install", source) == 3
            assert "is what runs now" in capsys.readouterr().err
        assert device.run("status") == 0
        assert "Channel" not in capsys.readouterr().out

    @pytest.mark.row("S56")
    def test_what_is_not_believed_is_not_fetched(
        self, device: Device, capsys: pytest.CaptureFixture[str]
    ) -> None:
        promote(device, "6")
        (device.paths.state / "trust").mkdir(exist_ok=True)
        (device.paths.state / "trust/revoked").write_bytes(
            (device.top / "keys/release.pub").read_bytes()
        )
        with smart(device.publisher) as (url, asked):
            refused(device, f"{url}#channel/stable", 6, "revokes", capsys)
        assert asked.sent < 8000

    @pytest.mark.row("U33")
    def test_an_old_one_is_not_taken_again(
        self, device: Device, capsys: pytest.CaptureFixture[str], copies: Path
    ) -> None:
        promote(device, "6")
        old, other = copies / "old.git", copies / "other.git"
        for copy in (old, other):
            shutil.copytree(device.publisher, copy)
        promote(device, "6")
        assert device.run("install", f"{device.publisher}#channel/stable") == 0
        refused(device, f"{old}#channel/stable", 7, "has sequence 1", capsys)
        channels.promote(
            Repository(other), "stable", Version("5"), device.top / "keys/release",
            int(time.time()) + DAY, tagger="A <a@b>",
        )  # fmt: skip
        refused(device, f"{other}#channel/stable", 7, "two tags of sequence 2", capsys)
        sources = [f"{place}#channel/stable" for place in (old, other, device.publisher)]
        assert device.run("install", *sources) == 0
        assert capsys.readouterr().err.count("The next source is asked.") == 2

    @pytest.mark.row("U33")
    def test_a_stale_one_is_told_in_every_status(
        self, device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is taken all the same: a device whose publisher has gone goes on."""
        promote(device, "6", "--days", "1")
        later = time.time() + 2 * DAY
        monkeypatch.setattr("abupdate.update.channels.time.time", lambda: later)
        assert device.run("install", f"{device.publisher}#channel/stable") == 0
        assert "Channel stable is stale" in " ".join(capsys.readouterr().err.split())
        for _ in range(2):
            assert device.run("status") == 0
            assert "Channel stable was to be trusted as news until" in capsys.readouterr().out
        monkeypatch.undo()
        promote(device, "6")
        assert device.run("install", f"{device.publisher}#channel/stable") == 0
        assert device.run("status") == 0
        assert "Channel" not in capsys.readouterr().out

    @pytest.mark.parametrize("binary", [False, True])
    def test_what_a_revoked_key_said_does_not_count(
        self,
        device: Device,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        binary: bool,
    ) -> None:
        """Its thief has used up the sequence; the publisher goes on with another key."""
        keys, lists = device.top / "keys", [device.top / name for name in ("signers", "revoked")]
        if not (keys / "dave").exists():
            device.publish("keygen", "--out", device.top / "dave", "--name", "dave")
            shutil.copy(device.top / "dave/dave", keys / "dave")
        folders = ("keys", "dave")
        lists[0].write_text(
            "".join((device.top / one / "allowed_signers").read_text() for one in folders)
        )
        lists[1].write_text("")
        monkeypatch.setattr(trust, "trust_files", lambda _: TrustFiles((lists[0],), (lists[1],)))
        monkeypatch.setattr(channels, "current", lambda *_: SimpleNamespace(sequence=2**53 - 1))
        repo = ("--repo", device.publisher, "--version", "6", "--channel", "stable")
        device.publish("promote", *repo, "--key", keys / "dave")
        source = f"{device.publisher}#channel/stable"
        assert device.run("install", "--no-arm", source) == 0
        monkeypatch.setattr(channels, "current", lambda *_: None)
        promote(device, "6")
        refused(device, source, 7, "and 9007199254740992 (release 6) was seen", capsys)
        stolen = device.top / "dave/dave.pub"
        if binary:
            subprocess.run(["ssh-keygen", "-k", "-q", "-f", lists[1], stolen], check=True)
        else:
            shutil.copy(stolen, lists[1])
        for _ in range(2):
            assert device.run("install", "--no-arm", source) == 0
        text = (device.paths.state / "trust/channels").read_text()
        assert '"sequence": 1,' in text

    @pytest.mark.row("U33")
    def test_of_another_product(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        rootfs = make_rootfs(device.top / "foreign", "9")
        repo = ("--repo", device.publisher, "--version", "9")
        device.publish("commit", rootfs, *repo, "--compatible", "other-product")
        device.publish("sign", *repo, "--key", device.top / "keys/release")
        promote(device, "9")
        says = "channel stable is for 'other-product'"
        refused(device, f"{device.publisher}#channel/stable", 7, says, capsys)

    def test_info_keeps_nothing(self, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
        promote(device, "6")
        before = snapshot(device)
        assert device.run("info", f"{device.publisher}#channel/stable") == 0
        assert "6 for" in capsys.readouterr().out
        assert snapshot(device) == before

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "5",
            "[" * 20_000,
            '{"a": 5}',
            _followed(valid_until=10**30),
            _followed(more=1),
            *(_followed(**{key: None}) for key in _FOLLOWED),
        ],
    )
    def test_a_record_that_rots(
        self, device: Device, capsys: pytest.CaptureFixture[str], text: str
    ) -> None:
        """Told by status; what a channel says is then neither believed nor forgotten."""
        promote(device, "6")
        (device.paths.state / "trust").mkdir(exist_ok=True)
        (device.paths.state / "trust/channels").write_text(text)
        assert device.run("status") == 0
        assert "should hold the channels" in capsys.readouterr().out
        refused(device, f"{device.publisher}#channel/stable", 11, "remove the file", capsys)

    def test_another_release_behind_its_name(
        self, device: Device, capsys: pytest.CaptureFixture[str], copies: Path
    ) -> None:
        """A mirror gives another release of that version than the channel says."""
        promote(device, "6")
        mirror = copies / "mirror.git"
        shutil.copytree(device.publisher, mirror)
        git = ["git", "--git-dir", str(mirror)]
        other = subprocess.run(
            [*git, "rev-parse", "refs/tags/release/5"], check=True, stdout=subprocess.PIPE
        ).stdout.decode()
        subprocess.run([*git, "update-ref", "refs/tags/release/6", other.strip()], check=True)
        before = snapshot(device)[:2]
        assert device.run("install", f"{mirror}#channel/stable") == 9
        assert "another one than its channel" in " ".join(capsys.readouterr().err.split())
        assert snapshot(device)[:2] == before  # what the channel says is kept: it is good
        refused(device, f"{mirror}#release/6", 6, "its own name is release/5", capsys)


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("http://127.0.0.1:1/r.git#release/6", 9, "cannot be fetched"),
        ("{publisher}#release/77", 9, "cannot be fetched"),
        ("{publisher}#channel/none", 9, "cannot be fetched"),
        ("{publisher}#main", 2, "Write REMOTE#release/VERSION"),
        ("{publisher}#channel/../x", 2, "A channel's name is"),
        ("{publisher}#release/1+bob", 2, "A version is"),
        ("ext::sh -c date#release/6", 2, "A git repository was expected"),
        ("-oProxyCommand=x@y:z#release/6", 2, "No such option"),
        ("ssh://-oProxyCommand=x/y#release/6", 9, "cannot be fetched"),
        ("/no/such/folder#release/6", 2, "A git repository was expected"),
        ("https://me:secret@127.0.0.1:1/r.git#release/6", 9, "https://me@127.0.0.1:1/r.git"),
        ("https://token@127.0.0.1:1/r.git#release/6", 9, "abupdate: https://127.0.0.1:1/r.git#"),
    ],
)
def test_what_cannot_be_fetched_leaves_no_trace(
    device: Device, source: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(device, source.format(publisher=device.publisher), code, says, capsys)


def test_a_neighbour_serves_its_store(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    """Release 5, which a device got from its publisher, is fetched from that device."""
    assert device.run("install", "--no-arm", device.top / "5.bundle") == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = os.fork()
    if child == 0:
        os._exit(device.run("serve", "--listen", "127.0.0.1", "--port", str(port)))
    try:
        url = f"git://127.0.0.1:{port}/store.git"
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
                break
            time.sleep(0.1)
        assert device.run("install", f"{url}#release/5") == 0
        assert device.machine.records.history()[-1].detail["source"] == f"{url}#release/5"
        pushed = subprocess.run(
            ["git", "--git-dir", device.publisher, "push", url, "refs/tags/release/6"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert pushed.returncode
    finally:
        daemons = Path(f"/proc/{child}/task/{child}/children").read_text().split()
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
    assert daemons
    assert not any(Path(f"/proc/{pid}").exists() for pid in daemons)


def test_a_peer_that_is_silent_is_given_up(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """git itself would wait for it, and no other source were asked."""
    cmdline = device.paths.cmdline
    cmdline.write_text(cmdline.read_text().strip() + " abupdate.source.stall=1\n")
    over = threading.Event()
    with peer(lambda _: over.wait()) as url:
        assert device.run("install", f"{url}#release/6", device.top / "6.bundle") == 0
    over.set()
    assert "nothing came for 6 seconds" in " ".join(capsys.readouterr().err.split())


def _talk(connection: socket.socket) -> None:
    """Says that it has release 6, and then what git passes on to people."""
    connection.recv(65536)
    name = b"ab" * 32 + b" refs/tags/release/6\0side-band-64k ofs-delta object-format=sha256"
    connection.sendall(packet(name) + b"0000")
    connection.recv(65536)
    connection.sendall(packet(b"NAK\n"))
    for _ in range(1024):
        connection.sendall(packet(b"\x02" + b"\x1b[31mred" * 6000 + b"\n"))


def test_a_peer_that_talks_much(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither memory nor terminal are its own."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    with peer(_talk) as url:
        refused(device, f"{url}#release/6", 9, "cannot be fetched", capsys)
        assert device.run("install", f"{url}#release/6") == 9
    assert "\x1b" not in capsys.readouterr().err
    assert _peak() - before < 30_000


def test_trees_that_name_each_other(
    device: Device, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine small objects, and a hundred million paths: told before they are all listed."""
    bomb = Repository.create(copies / "bomb.git")
    blob = bytes.fromhex(bomb.write_object("blob", b"x"))
    tree = bomb.write_object("tree", b"100644 f\0" + blob)
    for _ in range(8):
        inside = bytes.fromhex(tree)
        tree = bomb.write_object("tree", b"".join(b"40000 %d\0" % n + inside for n in range(10)))
    commit = bomb.write_object("commit", f"tree {tree}\n{_WHO}\nx\n".encode())
    payload = format_payload(
        commit=commit, version=Version("6"), manifest_sha256="0" * 64, compatible="testbox",
        tagger="A <a@b>", tagger_time=1,
    )  # fmt: skip
    raw = sign(payload, device.top / "keys/release")
    bomb.set_ref(Version("6").ref, bomb.write_object("tag", raw))
    bomb.set_ref("refs/heads/dev", commit)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    refused(device, f"{bomb.path}#release/6", 8, "files and folders", capsys)
    cmdline = device.paths.cmdline
    cmdline.write_text(cmdline.read_text().strip() + ' abupdate.source.unsigned_branches=["dev"]\n')
    refused(device, f"{bomb.path}#branch/dev", 8, "files and folders", capsys)
    assert _peak() - before < 30_000


def test_a_signal_while_the_quarantine_is_deleted(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would lie there, as large as the release, until the next install."""
    owner, spool = Repository.as_owner, device.paths.state / "spool"
    stopped: list[object] = []

    def as_owner(self: Repository, *argv: Argument, stdin: bytes | None = None) -> Result:
        full = argv[:2] == ("rm", "-rf") and any(spool.glob("*/objects/pack/*"))
        if full and not stopped:
            stopped.append(argv)
            os.kill(os.getpid(), signal.SIGTERM)
        return owner(self, *argv, stdin=stdin)

    monkeypatch.setattr(Repository, "as_owner", as_owner)
    assert device.run("info", f"{device.publisher}#release/6") == 143
    assert stopped
    assert list(spool.iterdir()) == []


def _peak() -> int:
    """The most memory, in KiB, that this process had."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1])


class TestBranch:
    """Development: what nobody has signed, where the device's owner wants it."""

    @pytest.fixture
    def source(self, device: Device) -> str:
        rootfs = device.top / "rootfs-dev"
        if not rootfs.exists():
            make_rootfs(rootfs, "7-dev.1")
            shutil.copy(device.top / "keys/allowed_signers", rootfs / "usr/lib/abupdate")
        repo = ("--repo", device.publisher, "--version", "7-dev.1", "--floor", "7-dev.1")
        device.publish("commit", rootfs, *repo, "--compatible", "testbox", "--branch", "dev")
        return f"{device.publisher}#branch/dev"

    @pytest.mark.row("S16")
    def test_refused_where_it_is_not_asked_for(
        self, device: Device, source: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refused(device, source, 7, "Nobody signs a branch, and this device takes none", capsys)
        assert device.run("status") == 0
        assert "NOBODY" not in capsys.readouterr().out

    @pytest.mark.row("S16")
    def test_taken_and_shouted_about_where_it_is(
        self, device: Device, source: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cmdline = device.paths.cmdline
        wanted = ' abupdate.source.unsigned_branches=["dev"]\n'
        cmdline.write_text(cmdline.read_text().strip() + wanted)
        assert device.run("install", source) == 0
        assert "NOBODY HAS SIGNED branch dev" in " ".join(capsys.readouterr().err.split())
        assert device.run("status") == 0
        assert "NOBODY HAS SIGNED release 7-dev.1 of slot B" in capsys.readouterr().out
        device.run("doctor")
        assert "store-" not in capsys.readouterr().out
        entry = device.machine.records.history()[-1]
        assert (entry.release, entry.detail["signer"]) == ("7-dev.1", "NOBODY (branch dev)")
        assert device.run("verify", "B") == 0
        device.boot(Slot.B, "trial")
        assert device.run("confirm") == 0
        assert not (device.paths.state / "trust/floor").exists()
        assert device.run("store", "prune") == 0
        assert device.run("verify", "B") == 0
        capsys.readouterr()
        cmdline.write_text(cmdline.read_text().strip() + wanted)
        assert device.run("status") == 0
        assert "Releases of branch dev are taken though NOBODY SIGNS" in capsys.readouterr().out
        # The owner's word is for one branch, and not for tags that are bad.
        refused(device, source.replace("dev", "other"), 7, "takes dev without", capsys)
        assert device.run("install", device.top / "6.bundle", "--allow-downgrade") == 0
        assert device.run("status") == 0
        assert "NOBODY HAS SIGNED release 7-dev.1 of slot B" in capsys.readouterr().out

    def test_shouted_about_however_it_is_written(
        self, device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = device.top / "dev.toml"
        path.write_text('[source]\n"unsigned\\u005fbranches" = ["dev"]\n')
        monkeypatch.setattr(Paths, "config_files", lambda _: [path])
        assert device.run("status") == 0
        assert "Releases of branch dev are taken though NOBODY SIGNS" in capsys.readouterr().out

    def test_another_product(
        self, device: Device, source: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rootfs = make_rootfs(device.top / "rootfs-devx", "8-dev")
        repo = ("--repo", device.publisher, "--version", "8-dev", "--branch", "dev")
        device.publish("commit", rootfs, *repo, "--compatible", "otherbox")
        cmdline = device.paths.cmdline
        wanted = ' abupdate.source.unsigned_branches=["dev"]\n'
        cmdline.write_text(cmdline.read_text().strip() + wanted)
        refused(device, source, 7, "is for 'otherbox'", capsys)


SSH = """\
#!/bin/sh
# The real one reads the options; then what the other host would do is done here.
{real} -G "$@" > {top}/asked || exit 255
for command; do :; done
export GIT_CONFIG_GLOBAL={top}/safe
exec sh -c "$command"
"""


@pytest.mark.parametrize("known", [False, True])
def test_over_ssh(device: Device, known: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """With a key of its own; a host that is not known is asked unless some are."""
    top = device.top / "ssh"
    top.mkdir()
    real, program = top / "real", top / "ssh"
    shutil.copy("/usr/bin/ssh", real)
    program.write_text(SSH.format(real=real, top=top))
    program.chmod(0o755)
    (top / "asked").touch()
    (top / "asked").chmod(0o666)
    (top / "safe").write_text("[safe]\n\tdirectory = *\n")
    (top / "key").touch()
    if known:
        (top / "known").touch()
    cmdline = device.paths.cmdline
    more = f"abupdate.source.ssh_key={top}/key abupdate.source.known_hosts={top}/known"
    cmdline.write_text(f"{cmdline.read_text().strip()} {more}\n")
    subprocess.run(["mount", "--bind", program, "/usr/bin/ssh"], check=True)
    try:
        source = f"git@releases.example:{device.publisher}#release/6"
        assert device.run("install", source) == 0
        asked = (top / "asked").read_text()
        assert f"identityfile {top}/key\n" in asked
        assert f"stricthostkeychecking {'true' if known else 'false'}\n" in asked
        assert "batchmode yes" in asked
        assert device.run("verify", "B") == 0
        refused(device, "ssh://releases.example/no/such#release/6", 9, "cannot be fetched", capsys)
    finally:
        subprocess.run(["umount", "/usr/bin/ssh"], check=True)
        shutil.rmtree(top)
