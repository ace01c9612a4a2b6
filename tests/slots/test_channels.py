"""Channels: the signed word on which release devices should run."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from abupdate.disk.layout import Slot
from abupdate.publish import channels
from abupdate.release.version import Version
from abupdate.signing.signers import TrustFiles
from abupdate.store.repository import Repository
from abupdate.update import trust
from tests.slots.device import Device, Refused, snapshot
from tests.slots.gitserver import smart
from tests.slots.rootfs import make_rootfs

DAY = 86400


@pytest.fixture
def device(newer_device: Device) -> Device:
    """Release 1 runs, 5 and 6 are out."""
    return newer_device


_FOLLOWED = {"release": "1", "sequence": 1, "valid_until": 1, "digest": "x", "seen": 1}


def _followed(**other: object) -> str:
    return json.dumps({"stable": {**_FOLLOWED, **other}})


def promote(device: Device, version: str, *more: str) -> None:
    repo = ("--repo", device.publisher, "--version", version)
    key = ("--key", device.top / "keys/release")
    device.publish("promote", *repo, "--channel", "stable", *key, *more)


def forget_channels(device: Device) -> None:
    repository = Repository(device.publisher)
    for ref in repository.refs("refs/tags/channel/"):
        repository.delete_ref(ref)


@pytest.fixture(autouse=True)
def no_channels(device: Device) -> Iterator[None]:
    forget_channels(device)
    yield
    forget_channels(device)


def test_a_device_follows_it(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_what_is_not_believed_is_not_fetched(device: Device, refused: Refused) -> None:
    promote(device, "6")
    (device.paths.state / "trust").mkdir(exist_ok=True)
    (device.paths.state / "trust/revoked").write_bytes(
        (device.top / "keys/release.pub").read_bytes()
    )
    with smart(device.publisher) as (url, asked):
        refused(f"{url}#channel/stable", 6, "revokes")
    assert asked.sent < 8000


@pytest.mark.row("U33")
def test_an_old_one_is_not_taken_again(
    device: Device, capsys: pytest.CaptureFixture[str], copies: Path, refused: Refused
) -> None:
    promote(device, "6")
    old, other = copies / "old.git", copies / "other.git"
    for copy in (old, other):
        shutil.copytree(device.publisher, copy)
    promote(device, "6")
    assert device.run("install", f"{device.publisher}#channel/stable") == 0
    refused(f"{old}#channel/stable", 7, "has sequence 1")
    channels.promote(
        Repository(other), "stable", Version("5"), device.top / "keys/release",
        int(time.time()) + DAY, tagger="A <a@b>",
    )  # fmt: skip
    refused(f"{other}#channel/stable", 7, "two tags of sequence 2")
    sources = [f"{place}#channel/stable" for place in (old, other, device.publisher)]
    assert device.run("install", *sources) == 0
    assert capsys.readouterr().err.count("The next source is asked.") == 2


@pytest.mark.row("U33")
def test_a_stale_one_is_told_in_every_status(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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
    device: Device, monkeypatch: pytest.MonkeyPatch, binary: bool, refused: Refused
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
    refused(source, 7, "and 9007199254740992 (release 6) was seen")
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
def test_of_another_product(device: Device, refused: Refused) -> None:
    rootfs = make_rootfs(device.top / "foreign", "9")
    repo = ("--repo", device.publisher, "--version", "9")
    device.publish("commit", rootfs, *repo, "--compatible", "other-product")
    device.publish("sign", *repo, "--key", device.top / "keys/release")
    promote(device, "9")
    says = "channel stable is for 'other-product'"
    refused(f"{device.publisher}#channel/stable", 7, says)


def test_info_keeps_nothing(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
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
    device: Device, capsys: pytest.CaptureFixture[str], text: str, refused: Refused
) -> None:
    """Told by status; what a channel says is then neither believed nor forgotten."""
    promote(device, "6")
    (device.paths.state / "trust").mkdir(exist_ok=True)
    (device.paths.state / "trust/channels").write_text(text)
    assert device.run("status") == 0
    assert "should hold the channels" in capsys.readouterr().out
    refused(f"{device.publisher}#channel/stable", 11, "remove the file")


def test_another_release_behind_its_name(
    device: Device, capsys: pytest.CaptureFixture[str], copies: Path, refused: Refused
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
    refused(f"{mirror}#release/6", 6, "its own name is release/5")
