"""The two copies of a partition table: each written again from the other, in plain files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from abupdate import failpoints
from abupdate.disk import gpt, gptcopies
from abupdate.disk.layout import MIB, partitions
from abupdate.disk.partition import make_table
from abupdate.errors import DeviceFaultError, RefusedError

SIZE = 16 * MIB
CUTS = ["gpt-entries-written:error", ""]
SECTORS = [512, 4096]
Harm = Callable[[Path, int], None]


def disk_of(top: Path, sector: int) -> Path:
    disk = top / "disk"
    with disk.open("wb") as file:
        file.truncate(SIZE)
        file.write(b"boot code of somebody")
    make_table(disk, partitions(2 * MIB, 2 * MIB, 2 * MIB), sector)
    return disk


def zero(first: int, last: int, end: bool = False) -> Harm:
    """Zeros over these sectors, counted from the end of the disk with `end`."""

    def harm(disk: Path, sector: int) -> None:
        with disk.open("r+b") as file:
            file.seek((SIZE if end else 0) + first * sector)
            file.write(bytes((last - first) * sector))

    return harm


def change(at: int, end: bool = False) -> Harm:
    """One byte is another one."""

    def harm(disk: Path, sector: int) -> None:
        with disk.open("r+b") as file:
            file.seek((SIZE if end else 0) + at * sector + 40)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 0xFF]))

    return harm


FIRST = {
    "header zeroed": zero(1, 2),
    "header changed": change(1),
    "entries zeroed": zero(2, 3),
    "entries changed": change(2),
    "all zeroed": zero(1, 6),
}
SECOND = {
    "header zeroed": zero(-1, 0, end=True),
    "header changed": change(-1, end=True),
    "entries zeroed": zero(-33, -1, end=True),
}


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def agreed(disk: Path, sector: int) -> None:
    """Other programs find nothing to say about it."""
    if sector == 512 and shutil.which("sgdisk"):
        said = run("sgdisk", "--verify", disk)
        assert "No problems found" in said.stdout, said.stdout + said.stderr
        assert "aution" not in said.stdout + said.stderr
    if shutil.which("parted"):
        said = subprocess.run(
            ["parted", "--script", disk, "print"],
            capture_output=True, text=True, check=True,
            env={**os.environ, "PARTED_SECTOR_SIZE": str(sector)},
        )  # fmt: skip
        assert (said.stderr, "rootB" in said.stdout) == ("", True)


@pytest.mark.parametrize("sector", SECTORS)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("harm", FIRST.values(), ids=FIRST.keys())
def test_first_copy_from_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sector: int, cut: str, harm: Harm
) -> None:
    disk = disk_of(tmp_path, sector)
    whole = disk.read_bytes()
    assert gptcopies.look(disk, sector).faults == {}
    harm(disk, sector)
    harmed = disk.read_bytes()
    found = gptcopies.look(disk, sector)
    assert (set(found.faults), found.first) == ({"first"}, None)
    assert disk.read_bytes() == harmed, "looking wrote something"
    if cut:
        monkeypatch.setenv(failpoints.VARIABLE, cut)
        with pytest.raises(DeviceFaultError):
            gptcopies.write_first(found)
        monkeypatch.delenv(failpoints.VARIABLE)
        assert set(gptcopies.look(disk, sector).faults) <= {"first"}
    gptcopies.write_first(gptcopies.look(disk, sector))
    assert disk.read_bytes() == whole
    assert gptcopies.look(disk, sector).faults == {}
    agreed(disk, sector)


@pytest.mark.parametrize("sector", SECTORS)
@pytest.mark.parametrize("harm", SECOND.values(), ids=SECOND.keys())
def test_second_copy_from_the_first(tmp_path: Path, sector: int, harm: Harm) -> None:
    disk = disk_of(tmp_path, sector)
    whole = disk.read_bytes()
    harm(disk, sector)
    found = gptcopies.look(disk, sector)
    assert (set(found.faults), found.second) == ({"second"}, None)
    gptcopies.write_second(found)
    assert disk.read_bytes() == whole
    agreed(disk, sector)


def test_two_that_differ(tmp_path: Path) -> None:
    """The first one is what everybody goes by, and so is right."""
    disk = disk_of(tmp_path, 512)
    whole = disk.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["cp", disk, other / "disk"], check=True)
    gptcopies.rename(gptcopies.look(other / "disk"), 5, "films")
    with disk.open("r+b") as file, (other / "disk").open("rb") as changed:
        for stream in (file, changed):
            stream.seek(SIZE - 33 * 512)
        file.write(changed.read())
    found = gptcopies.look(disk)
    assert (set(found.faults), "something else" in found.faults["second"]) == ({"second"}, True)
    gptcopies.write_second(found)
    assert disk.read_bytes() == whole


@pytest.mark.parametrize("sector", SECTORS)
def test_both_lost(tmp_path: Path, sector: int) -> None:
    disk = disk_of(tmp_path, sector)
    zero(1, 2)(disk, sector)
    zero(-1, 0, end=True)(disk, sector)
    before = disk.read_bytes()
    found = gptcopies.look(disk, sector)
    assert (set(found.faults), found.whole) == ({"first", "second"}, None)
    for write in (gptcopies.write_first, gptcopies.write_second):
        with pytest.raises(RefusedError, match="found none"):
            write(found)
    assert disk.read_bytes() == before


def test_protective_mbr(tmp_path: Path) -> None:
    disk = disk_of(tmp_path, 512)
    whole = disk.read_bytes()
    for first, length in ((0x1BE, 64), (0x1FE, 2)):
        with disk.open("r+b") as file:
            file.seek(first)
            file.write(bytes(length))
        found = gptcopies.look(disk)
        assert set(found.faults) == {"mbr"}
        gptcopies.write_protective(found)
        assert gptcopies.look(disk).faults == {}
        assert disk.read_bytes()[:0x1B8] == whole[:0x1B8]
        assert disk.read_bytes()[512:] == whole[512:]
        agreed(disk, 512)
    with disk.open("r+b") as file:
        file.seek(0x1BE + 4)
        file.write(b"\x07")
    found = gptcopies.look(disk)
    before = disk.read_bytes()
    with pytest.raises(RefusedError, match="partitions of its own"):
        gptcopies.write_protective(found)
    assert disk.read_bytes() == before


def test_a_disk_that_was_cut_off_or_has_no_room(tmp_path: Path) -> None:
    disk = disk_of(tmp_path, 512)
    with disk.open("r+b") as file:
        file.truncate(SIZE - MIB)
    found = gptcopies.look(disk)
    assert "behind the end" in found.faults["second"]
    with pytest.raises(RefusedError, match="smaller"):
        gptcopies.write_second(found)


@pytest.mark.parametrize("sector", SECTORS)
def test_a_name_is_set_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sector: int) -> None:
    disk = disk_of(tmp_path, sector)
    whole = disk.read_bytes()
    gptcopies.rename(gptcopies.look(disk, sector), 4, "")
    table = gpt.read(disk, sector)
    assert table is not None and [one.name for one in table.entries][3] == ""
    agreed(disk, sector)
    monkeypatch.setenv(failpoints.VARIABLE, "gpt-half-written:error")
    with pytest.raises(DeviceFaultError):
        gptcopies.rename(gptcopies.look(disk, sector), 4, "rootA")
    monkeypatch.delenv(failpoints.VARIABLE)
    found = gptcopies.look(disk, sector)
    assert (set(found.faults), found.first is not None) == ({"second"}, True)
    gptcopies.write_second(found)
    gptcopies.rename(gptcopies.look(disk, sector), 4, "rootA")
    assert disk.read_bytes() == whole


def test_a_disk_that_grew(tmp_path: Path) -> None:
    """The second copy is where the first one says, not at the end of the disk."""
    disk = disk_of(tmp_path, 512)
    with disk.open("r+b") as file:
        file.truncate(SIZE + MIB)
    assert gptcopies.look(disk).faults == {}
