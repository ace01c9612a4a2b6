"""Releases of git repositories elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from abupdate.disk.layout import Slot
from abupdate.release.tag import format_payload
from abupdate.release.version import Version
from abupdate.run import Argument, Result
from abupdate.signing.signature import sign
from abupdate.store.repository import Repository
from tests.slots.apart import start_apart
from tests.slots.device import LARGE, Device, Refused, within_memory
from tests.slots.gitserver import packet, peer, smart, static
from tests.slots.webserver import Site, serving

_WHO = "author A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n"


@pytest.fixture
def device(newer_device: Device) -> Device:
    """Release 1 runs, 5 and 6 are out."""
    return newer_device


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
    device: Device, source: str, code: int, says: str, refused: Refused
) -> None:
    refused(source.format(publisher=device.publisher), code, says)


def test_a_neighbour_serves_its_store(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    """Release 5, which a device got from its publisher, is fetched from that device."""
    assert device.run("install", "--no-arm", device.top / "5.bundle") == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    neighbour = start_apart(device, "", "serve", "--listen", "127.0.0.1", "--port", str(port))
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
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert pushed.returncode
        children = Path(f"/proc/{neighbour.pid}/task/{neighbour.pid}/children")
        daemons = children.read_text().split()
        neighbour.terminate()
        assert neighbour.wait(30) == 143
    finally:
        neighbour.kill()
        neighbour.communicate()
    assert daemons
    assert not any(Path(f"/proc/{pid}").exists() for pid in daemons)


def test_a_peer_that_is_silent_is_given_up(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """git itself would wait for it, and no other source were asked."""
    device.configure("source.stall=1")
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


def test_a_peer_that_talks_much(
    device: Device, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    """Neither memory nor terminal are its own."""
    with peer(_talk) as url, within_memory(30_000):
        refused(f"{url}#release/6", 9, "cannot be fetched")
        assert device.run("install", f"{url}#release/6") == 9
    assert "\x1b" not in capsys.readouterr().err


def test_trees_that_name_each_other(device: Device, copies: Path, refused: Refused) -> None:
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
    with within_memory(30_000):
        refused(f"{bomb.path}#release/6", 8, "files and folders")
        device.configure('source.unsigned_branches=["dev"]')
        refused(f"{bomb.path}#branch/dev", 8, "files and folders")


def test_a_release_of_very_many_further_signers(
    device: Device, copies: Path, refused: Refused
) -> None:
    """Asked for before they are fetched: each would be a file here."""
    crowd = copies / "crowd.git"
    shutil.copytree(device.publisher, crowd)
    oid = Repository(crowd).resolve(Version("6").ref)
    refs = sorted(f"{Version('6').ref}+s{number}" for number in range(50_000))
    with (crowd / "packed-refs").open("a") as file:
        file.writelines(f"{oid} {ref}\n" for ref in refs)
    began = time.monotonic()
    with within_memory(30_000):
        refused(f"{crowd}#release/6", 9, "8 further signers at most")
    assert time.monotonic() - began < 10
    assert device.run("install", f"{crowd}#release/5") == 0


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


SSH = """\
#!/bin/sh
# The real one reads the options; then what the other host would do is done here.
{real} -G "$@" > {top}/asked || exit 255
for command; do :; done
export GIT_CONFIG_GLOBAL={top}/safe
exec sh -c "$command"
"""


@pytest.mark.parametrize("known", [False, True])
def test_over_ssh(device: Device, known: bool, refused: Refused) -> None:
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
    device.configure(f"source.ssh_key={top}/key", f"source.known_hosts={top}/known")
    subprocess.run(["mount", "--bind", program, "/usr/bin/ssh"], check=True)
    try:
        source = f"git@releases.example:{device.publisher}#release/6"
        assert device.run("install", source) == 0
        asked = (top / "asked").read_text()
        assert f"identityfile {top}/key\n" in asked
        assert f"stricthostkeychecking {'true' if known else 'false'}\n" in asked
        assert "batchmode yes" in asked
        assert device.run("verify", "B") == 0
        refused("ssh://releases.example/no/such#release/6", 9, "cannot be fetched")
    finally:
        subprocess.run(["umount", "/usr/bin/ssh"], check=True)
        shutil.rmtree(top)
