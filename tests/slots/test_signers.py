"""Releases that more than one signer must stand for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from abupdate.bundle.candidate import cosignatures
from abupdate.bundle.read import Incoming
from abupdate.events import Events
from abupdate.release.version import Version
from abupdate.signing.signers import TrustFiles
from abupdate.store.repository import Repository
from abupdate.update import trust
from tests.slots.device import Device, Refused, make_release, snapshot
from tests.slots.rootfs import make_rootfs

RELEASE = Version("7")


@pytest.fixture
def device(plain_device: Device) -> Iterator[Device]:
    """Asks for two signers, and knows release, bob and carol."""
    device = plain_device
    keys = device.top / "keys"
    if not (keys / "bob").exists():
        for name in ("bob", "carol"):
            device.publish("keygen", "--out", device.top / name, "--name", name)
            shutil.copy(device.top / name / name, keys / name)
        make_release(device, make_rootfs(device.top / "rootfs7", "7"), "7")
    device.configure("trust.min_signers=2")
    yield device
    repository = Repository(device.publisher)
    for signer in cosignatures(repository, RELEASE):
        repository.delete_ref(f"{RELEASE.ref}+{signer}")


@pytest.fixture(autouse=True)
def trusted(device: Device, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The running release is read-only: the lists are elsewhere for once."""
    lines = [
        (device.top / folder / "allowed_signers").read_text() for folder in ("keys", "bob", "carol")
    ]
    path = device.top / "all_signers"
    path.write_text("".join(lines))
    monkeypatch.setattr(trust, "trust_files", lambda _paths: TrustFiles((path,)))
    return path


def cosign(device: Device, name: str, key: str | None = None) -> None:
    repo = ("--repo", device.publisher, "--version", "7")
    device.publish("sign", *repo, "--key", device.top / "keys" / (key or name), "--cosigner", name)


def bundled(device: Device) -> Path:
    path = device.top / "7.bundle"
    device.publish("bundle", "--repo", device.publisher, "--version", "7", "-o", path)
    return path


def test_one_is_too_few(device: Device, refused: Refused) -> None:
    refused(bundled(device), 6, "should have 2 signers, and 1 of its signatures can be believed")


def test_two_are_enough_and_both_are_told(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a bundle, and again from the store and from the publisher's repository."""
    cosign(device, "bob")
    assert device.run("install", bundled(device)) == 0
    assert device.machine.records.history()[-1].detail["signer"] == "release, bob"
    for source in ("release/7", f"{device.publisher}#release/7"):
        assert device.run("install", source) == 0
        assert device.machine.records.history()[-1].detail["signer"] == "release, bob"
    capsys.readouterr()
    device.publish("log", "--repo", device.publisher)
    assert " and bob" in capsys.readouterr().out
    repo = ("--allowed-signers", device.top / "all_signers")
    device.publish("verify", device.top / "7.bundle", *repo)
    assert "release, bob, SHA256:" in capsys.readouterr().out


def test_the_same_key_under_two_names(device: Device, trusted: Path, refused: Refused) -> None:
    line = trusted.read_text().splitlines()[0]
    trusted.write_text(f"{line}\nbob{line.removeprefix('release')}\n")
    cosign(device, "bob", key="release")
    refused(bundled(device), 6, "1 of its signatures can be believed")


def test_all_of_them_are_known_from_the_first_bytes(device: Device) -> None:
    """Also where their tags are so alike that git would make them deltas of each other."""
    for name in ("bob", "carol"):
        cosign(device, name)
    with bundled(device).open("rb") as file:
        incoming = Incoming(file, device.machine.store(), 1 << 30, Events())
        assert incoming.statement is not None
        assert incoming.statement.cosigned.keys() == {"bob", "carol"}


def test_a_tag_under_another_name(device: Device, refused: Refused) -> None:
    cosign(device, "bob", key="carol")
    refused(bundled(device), 6, "release/7+bob: it is signed by carol.")


def test_an_unlisted_further_signer_takes_nothing_away(
    device: Device, trusted: Path, refused: Refused
) -> None:
    cosign(device, "bob")
    cosign(device, "carol")
    trusted.write_text("".join(trusted.read_text().splitlines(keepends=True)[:2]))
    assert device.run("install", bundled(device)) == 0
    assert list(cosignatures(device.machine.store(), RELEASE)) == ["bob"]
    trusted.write_text(trusted.read_text().splitlines()[0])
    device.boot(device.booted, "normal")
    device.configure("trust.min_signers=2")
    refused(bundled(device), 6, "which is not in the list of signers")


def test_a_signer_signs_once(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    cosign(device, "bob")
    repo = (
        "--repo",
        str(device.publisher),
        "--version",
        "7",
        "--key",
        str(device.top / "keys/bob"),
    )
    assert device.run("publish", "sign", *repo, "--cosigner", "bob") == 3
    assert device.run("publish", "sign", *repo, "--cosigner", "a b") == 2
    assert device.run("publish", "sign", *repo, "--cosigner", "x.lock") == 2
    assert "Traceback" not in capsys.readouterr().err


def refs_of(device: Device) -> set[str]:
    return set(cosignatures(device.machine.store(), RELEASE))


def test_what_is_not_believed_stays_outside(device: Device, trusted: Path) -> None:
    """A mirror can add tags to a bundle: they neither join the store nor replace one of it."""
    cosign(device, "bob")
    cosign(device, "carol")
    assert device.run("install", "--no-arm", bundled(device)) == 0
    before = cosignatures(device.machine.store(), RELEASE)
    Repository(device.publisher).delete_ref(f"{RELEASE.ref}+bob")
    cosign(device, "bob", key="release")
    cosign(device, "nobody", key="release")
    assert device.run("install", "--no-arm", bundled(device)) == 0
    assert cosignatures(device.machine.store(), RELEASE) == before
    lines = trusted.read_text().splitlines(keepends=True)
    trusted.write_text("".join(lines[:2]))
    assert device.run("install", "--no-arm", "release/7") == 0


def test_a_channel_brings_the_signers_with_it(device: Device) -> None:
    """The remote does not have their tags any more: the release is good in the store again."""
    cosign(device, "bob")
    repo = ("--repo", device.publisher, "--version", "7", "--channel", "signers")
    device.publish("promote", *repo, "--key", device.top / "keys/release")
    Repository(device.publisher).delete_ref(f"{RELEASE.ref}+bob")
    source = f"{device.publisher}#channel/signers"
    try:
        assert device.run("install", "--no-arm", source) == 0
    finally:
        Repository(device.publisher).delete_ref("refs/tags/channel/signers")
    assert refs_of(device) == {"bob"}
    assert device.run("install", "--no-arm", "release/7") == 0


def test_one_key_of_two_says_nothing_that_is_kept(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """A channel's tag needs one signature: with a release that needs two it counts for nothing."""
    repo = ("--repo", device.publisher, "--version", "7", "--channel", "alone")
    device.publish("promote", *repo, "--key", device.top / "keys/carol")
    source = f"{device.publisher}#channel/alone"
    before = snapshot(device)
    try:
        assert device.run("install", source) == 6
        assert "should have 2 signers" in " ".join(capsys.readouterr().err.split())
        assert snapshot(device) == before
        cosign(device, "bob")
        device.publish("promote", *repo, "--key", device.top / "keys/carol")
        assert device.run("install", source) == 0
    finally:
        Repository(device.publisher).delete_ref("refs/tags/channel/alone")
    text = (device.paths.state / "trust/channels").read_text()
    assert '"sequence": 2' in text
