"""Whose word counts for which disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from abupdate.disk import drive as drives
from abupdate.disk.drive import Drive, new_file
from abupdate.errors import DeviceFaultError, RefusedError
from abupdate.provision import permission


def disk(name: str, serial: str | None, model: str | None) -> Drive:
    return Drive(Path(f"/dev/{name}"), False, model, serial, "usb", 1 << 30, 512, False, "gpt",
                 None, ())  # fmt: skip


ONE, TWO, THREE = disk("sda", "S1", "Stick"), disk("sdb", "S2", "Stick"), disk("sdc", None, "Disk")


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[Drive]:
    """The disks of the machine; one more cannot be read."""
    found = [ONE, TWO, THREE]

    def look(path: Path) -> Drive:
        for one in found:
            if one.path == path:
                return one
        raise DeviceFaultError("it was pulled out")

    monkeypatch.setattr(drives, "disks", lambda: [*(one.path for one in found), Path("/dev/sdd")])
    monkeypatch.setattr(drives, "look", look)
    return found


@pytest.mark.row("S19")
@pytest.mark.parametrize(
    ("drive", "answer", "said"),
    [
        (ONE, "S1", None),
        (ONE, " S1\n", None),
        (ONE, "S2", "is 'S1', and 'S2' was given"),
        (ONE, "", "is 'S1', and '' was given"),
        (ONE, "sda", "is 'S1', and 'sda' was given"),
        (ONE, "Stick", "2 disks of this machine are 'Stick'"),
        (THREE, "Disk", None),
        (THREE, "", "is 'Disk', and '' was given"),
        (disk("vda", None, None), "vda", None),
        (disk("vda", None, None), "", "is 'vda'"),
    ],
)
def test_the_disk_that_is_named(
    attached: list[Drive], drive: Drive, answer: str, said: str | None
) -> None:
    if said is None:
        permission.check(drive, answer)
    else:
        with pytest.raises(RefusedError, match=said):
            permission.check(drive, answer)


def test_a_serial_that_two_disks_have(attached: list[Drive]) -> None:
    attached[1] = disk("sdb", "S1", "Bridge")
    with pytest.raises(RefusedError, match="2 disks of this machine are 'S1'"):
        permission.check(ONE, "S1")


def test_when_somebody_must_be_asked(tmp_path: Path) -> None:
    assert permission.must_be_given(ONE)
    assert permission.must_be_given(disk("sdz", "empty", None))
    assert not permission.must_be_given(new_file(tmp_path / "new", 1 << 30, 512))
