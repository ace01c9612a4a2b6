"""`abupdate doctor` on the store: each finding made for real, and what is mended."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from abupdate.disk.layout import Slot
from abupdate.update.job import job
from tests.slots.apart import run_apart
from tests.slots.boot_device import NEW, BootDevice, doctor
from tests.slots.device import NOBODY

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def store(device: BootDevice) -> Path:
    assert device.run("confirm", "--boot") == 0
    return device.paths.state / "store.git"


def mended(device: BootDevice, capsys: Capsys) -> str:
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, set(found), report["failed"]) == (0, NEW, [])
    assert device.run("store", "check") == 0
    return str(report["repaired"])


def test_no_data(device: BootDevice, store: Path, capsys: Capsys) -> None:
    store.parent.rename(device.top / "away")
    try:
        code, found, _ = doctor(device, capsys, "--repair")
        assert (code, set(found)) == (11, {"store-missing"} | NEW)
        assert f"findmnt {device.paths.data}" in str(found["store-missing"]["advice"])
        assert not store.exists()
    finally:
        shutil.rmtree(store.parent, ignore_errors=True)
        (device.top / "away").rename(store.parent)


@pytest.mark.parametrize("name", [".", "objects/pack", "refs/tags/release/1", "pack"])
def test_what_is_not_its_users(device: BootDevice, store: Path, capsys: Capsys, name: str) -> None:
    path = next(store.glob("objects/pack/*.idx")) if name == "pack" else store / name
    os.chown(path, 0, 0)
    code, found, _ = doctor(device, capsys)
    assert (code, set(found)) == (11, {"store-owner"} | NEW)
    assert str(path) in str(found["store-owner"]["message"])
    os.chown(path, int(NOBODY), int(NOBODY))
    assert set(doctor(device, capsys)[1]) == NEW


def test_a_user_who_is_not_there(
    device: BootDevice, store: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.slots.device.NOBODY", "abupdate-gone")
    code, found, _ = doctor(device, capsys)
    assert code == 11
    assert "no such user" in str(found["store-owner"]["message"])


def test_the_release_of_a_slot_is_missing(device: BootDevice, store: Path, capsys: Capsys) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    assert set(doctor(device, capsys)[1]) == set()
    shutil.copytree(device.top / "saved/abupdate/store.git", store, dirs_exist_ok=True)
    for path in store.glob("objects/pack/*"):
        if not (device.top / "saved/abupdate/store.git/objects/pack" / path.name).exists():
            path.unlink()
    code, found, _ = doctor(device, capsys, "--repair")
    assert (code, set(found)) == (0, {"store-release-missing", "store-ref-broken"})
    told = str(found["store-release-missing"]["message"])
    assert "release 2 of slot B" in told
    assert "its commit" in told
    assert "its tag" in told
    assert not found["store-ref-broken"]["repairable"]
    assert "refs/tags/release/2" in str(found["store-ref-broken"]["message"])
    assert device.run("install", device.top / "2.bundle") in (0, 3)


def test_a_release_without_its_ref(device: BootDevice, store: Path, capsys: Capsys) -> None:
    ref = store / "refs/tags/release/1"
    before = ref.read_bytes()
    ref.unlink()
    code, found, _ = doctor(device, capsys)
    assert (code, set(found)) == (0, {"store-ref-missing"} | NEW)
    assert "refs/tags/release/1" in mended(device, capsys)
    assert ref.read_bytes() == before
    ref.write_bytes(b"\0" * 65)
    code, found, _ = doctor(device, capsys)
    assert (code, set(found)) == (0, {"store-ref-missing", "store-ref-broken"} | NEW)
    assert str(ref) in str(found["store-ref-broken"]["message"])
    mended(device, capsys)
    assert ref.read_bytes() == before
    assert ref.stat().st_uid == int(NOBODY)


def test_what_a_killed_job_left(device: BootDevice, store: Path, capsys: Capsys) -> None:
    assert run_apart(device, "quarantined:kill", "info", device.top / "2.bundle").returncode == -9
    (quarantine,) = (store.parent / "spool").iterdir()
    left = [store / "packed-refs.lock", store / "objects/pack/tmp_pack_x", quarantine]
    for path in left[:2]:
        path.touch()
        os.chown(path, int(NOBODY), int(NOBODY))
    code, found, _ = doctor(device, capsys)
    assert (code, set(found)) == (0, {"store-leftovers"} | NEW)
    assert all(str(path) in str(found["store-leftovers"]["message"]) for path in left)
    with job(device.paths.runtime, "install"):  # which they may be of
        assert doctor(device, capsys)[1] == {}
    line = device.paths.cmdline.read_text()
    device.paths.cmdline.write_text(line.replace("abupdate.slot=A", "abupdate.slot=B"))
    found = doctor(device, capsys, "--repair")[1]
    assert (found["store-leftovers"]["repairable"], left[0].exists()) == (False, True)
    device.paths.cmdline.write_text(line)
    mended(device, capsys)
    assert not any(path.exists() for path in left)


def test_many_packs(device: BootDevice, store: Path, capsys: Capsys) -> None:
    pack = next(store.glob("objects/pack/*.pack"))
    for number in range(8):
        copy = pack.with_name(f"pack-{number:064d}.pack")
        for suffix in (".idx", ".pack"):
            shutil.copy(pack.with_suffix(suffix), copy.with_suffix(suffix))
            os.chown(copy.with_suffix(suffix), int(NOBODY), int(NOBODY))
    code, found, _ = doctor(device, capsys, "--repair")
    assert (code, set(found)) == (0, {"store-packs"} | NEW)
    assert "found 9" in str(found["store-packs"]["message"])
    assert device.run("store", "prune") == 0
    assert set(doctor(device, capsys)[1]) == NEW


def test_the_look_is_quick(device: BootDevice, store: Path, capsys: Capsys) -> None:
    """It asks git a few times, whatever is in the store."""
    assert device.machine.records.slot(Slot.A) is not None
    asked = []
    run = type(device.machine.store()).git

    def counted(self: object, *arguments: object, **more: object) -> object:
        asked.append(arguments)
        return run(self, *arguments, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(device.machine.store()), "git", counted)
        doctor(device, capsys)
    assert 0 < len(asked) <= 3
