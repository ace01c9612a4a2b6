"""`abupdate doctor --repair` on the store: what is whole stays, what is not is fetched again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from abupdate import failpoints
from abupdate.disk.layout import Slot
from tests.slots.boot_device import BootDevice, doctor
from tests.slots.device import NOBODY
from tests.slots.test_rotten_store import rot

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def store(device: BootDevice) -> Path:
    """Release 1 runs in A, 2 is armed in B, 3 is in the store only."""
    assert device.run("confirm", "--boot") == 0
    for version in "32":
        assert device.run("install", device.top / f"{version}.bundle") == 0
    return device.paths.state / "store.git"


def outcomes(report: dict[str, object]) -> dict[str, str]:
    return {one["id"]: one["outcome"] for one in report["repairs"]}  # type: ignore[attr-defined]


def untouched(device: BootDevice) -> tuple[object, ...]:
    records = [device.machine.records.slot(slot) for slot in Slot]
    return (*records, device.machine.records.intent(), device.copies())


def sound(device: BootDevice, capsys: Capsys, store: Path, *releases: str) -> None:
    """All that is left is whole and its user's, and a repair finds nothing to do."""
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, found, report["repairs"]) == (0, {}, [])
    assert device.run("store", "check") == 0
    assert capsys.readouterr().out == f"Whole: {', '.join(releases)}.\n"
    assert {path.lstat().st_uid for path in store.rglob("*")} == {int(NOBODY)}
    left = {path.name for path in store.parent.iterdir()}
    assert not left & {"store.git.old", "store.git.gone", "store-damage"}


@pytest.mark.row("U15")
@pytest.mark.parametrize("point", ["", "store-set-aside", "store-made", "store-fetched"])
def test_what_a_slot_holds_is_fetched_again(
    device: BootDevice, store: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    rot(device, "2", "usr/bin/tool")
    before = untouched(device)
    assert doctor(device, capsys)[1] == {}  # nothing is hashed
    assert device.run("store", "check") == 10
    code, found, _ = doctor(device, capsys)
    assert (code, set(found)) == (11, {"store-damaged"})
    # From nowhere, from what is another release, and from what nobody has signed.
    _, _, report = doctor(device, capsys, "--repair")
    assert "--from" in str(report["failed"])
    _, _, report = doctor(device, capsys, "--repair", "--from", str(device.top / "1.bundle"))
    assert "release 2 of slot B should come from there" in str(report["failed"])
    assert store.is_dir() and not (store.parent / "store.git.old").exists()
    source = ("--from", str(device.top / "2.bundle"))
    if point:
        with monkeypatch.context() as patch:
            patch.setenv(failpoints.VARIABLE, f"{point}:error")
            _, found, _ = doctor(device, capsys, "--repair", *source)
        assert "store-damaged" in found
    code, found, report = doctor(device, capsys, "--repair", *source)
    assert (code, found, outcomes(report)) == (0, {}, {"store-releases": "done"})
    told = str(report["repaired"])
    assert "release 2 of slot B" in told
    assert untouched(device) == before
    sound(device, capsys, store, "3", "2", "1")
    assert device.run("verify", "B") == 0


def test_a_run_that_was_killed_is_undone(device: BootDevice, store: Path, capsys: Capsys) -> None:
    """The old store counts as long as it is there, whatever the new one has already."""
    old = store.with_name("store.git.old")
    store.rename(old)
    store.mkdir()
    shutil.chown(store, int(NOBODY), int(NOBODY))
    found = doctor(device, capsys)[1]
    assert {"store-damaged", "store-unreadable"} >= set(found) and found
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, found) == (0, {}), report
    gone = store.with_name("store.git.gone")
    subprocess.run(["cp", "-a", store, gone], check=True)
    assert set(doctor(device, capsys)[1]) == {"store-leftovers"}
    assert outcomes(doctor(device, capsys, "--repair")[2]) == {"store-tidy": "done"}
    sound(device, capsys, store, "3", "2", "1")


def test_what_no_slot_holds_is_dropped(device: BootDevice, store: Path, capsys: Capsys) -> None:
    rot(device, "3", "usr/bin/tool")
    assert device.run("store", "check") == 10
    _, found, report = doctor(device, capsys, "--repair")
    assert (found, outcomes(report)) == ({}, {"store-releases": "done"})
    assert "release 3" in str(report["repaired"])
    sound(device, capsys, store, "2", "1")


@pytest.mark.row("U15")
def test_no_store_at_all(device: BootDevice, store: Path, capsys: Capsys) -> None:
    before = untouched(device)
    shutil.rmtree(store)
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, set(found), outcomes(report)) == (
        0, {"store-release-missing"}, {"store": "done"}
    )  # fmt: skip
    assert "--from" in str(found["store-release-missing"]["advice"])
    sources = [str(device.top / f"{version}.bundle") for version in "12"]
    code, found, report = doctor(device, capsys, "--repair", "--from", sources[0])
    assert "release 2 of slot B could not be fetched" in str(report["failed"])
    code, found, report = doctor(device, capsys, "--repair", "--from", f"{device.publisher}#")
    assert (code, found, report["failed"]) == (0, {}, [])
    assert untouched(device) == before
    sound(device, capsys, store, "2", "1")


@pytest.mark.parametrize("lost", [["HEAD"], ["config"], ["HEAD", "config", "refs"]])
def test_git_s_own_files_are_lost(
    device: BootDevice, store: Path, capsys: Capsys, lost: list[str]
) -> None:
    for name in lost:
        path = store / name
        shutil.rmtree(path) if path.is_dir() else path.write_bytes(bytes(20))
    code, found, _ = doctor(device, capsys)
    assert (code, set(found)) == (11, {"store-unreadable"})
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, found, outcomes(report)) == (0, {}, {"store": "done"})
    sound(device, capsys, store, *(["2", "1"] if "refs" in lost else ["3", "2", "1"]))


def test_a_bundle_that_is_damaged_does_not_come_in(
    device: BootDevice, store: Path, capsys: Capsys
) -> None:
    shutil.rmtree(store)
    assert doctor(device, capsys, "--repair")[0] == 0
    bundle = bytearray((device.top / "2.bundle").read_bytes())
    bundle[-100] ^= 1
    damaged = device.top / "damaged.bundle"
    damaged.write_bytes(bundle)
    _, found, report = doctor(device, capsys, "--repair", "--from", str(damaged))
    assert "store-release-missing" in found
    assert "damaged.bundle" in str(report["failed"])
    assert device.machine.store().refs("refs/") == {}
    damaged.unlink()
