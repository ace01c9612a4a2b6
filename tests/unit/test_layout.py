"""Layout files, sizes that a release needs, and where partitions go."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abupdate.disk import filesystem
from abupdate.disk.images import make_ext4
from abupdate.disk.layout import MIB, PartitionSpec
from abupdate.disk.partition import Extent, TableEntry, plan
from abupdate.errors import AbupdateError, NoSpaceError, UsageError
from abupdate.provision.layout import (
    DEFAULT,
    ext4_capacity,
    read_layout,
    slot_minimum,
    specs,
)
from abupdate.update.prepare import Need

NEED = Need(300 * MIB, 9000)
_NEEDED = ("boot", "rootA", "rootB", "data")


def layout_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "layout.toml"
    path.write_text(text)
    return path


def tables(*names: str, more: str = "") -> str:
    return "".join(f'[[partition]]\nname = "{name}"\n' for name in names) + more


def test_default() -> None:
    found = specs(DEFAULT, NEED, 100 * MIB)
    assert [(one.number, one.name, one.filesystem, one.flag) for one in found] == [
        (1, "bios", None, "bios_grub"),
        (2, "boot", "vfat", "esp"),
        (3, "rescue", "ext4", None),
        (4, "rootA", "ext4", None),
        (5, "rootB", "ext4", None),
        (6, "data", "ext4", None),
    ]
    by_name = {one.name: one.size for one in found}
    assert by_name["rootA"] == by_name["rootB"]
    assert 2 * slot_minimum(NEED) <= (by_name["rootA"] or 0) < 2 * slot_minimum(NEED) + 64 * MIB
    assert by_name["data"] is None


def test_order_and_partitions_of_the_owner(tmp_path: Path) -> None:
    more = """
[[partition]]
name = "media"
size = "1 GiB"
label = "films"
[[partition]]
name = "raw"
size = 16777216
filesystem = "none"
[[partition]]
name = "xchange"
size = "64MiB"
filesystem = "vfat"
"""
    path = layout_of(tmp_path, tables("data", "boot", "rootB", "rootA", more=more))
    layout = read_layout(path)
    assert not layout.has_bios and not layout.has_rescue
    found = specs(layout, NEED, 0)
    assert [(one.name, one.number, one.label, one.filesystem) for one in found] == [
        ("data", 3, "data", "ext4"),
        ("boot", 2, "BOOT", "vfat"),
        ("rootB", 4, "rootB", "ext4"),
        ("rootA", 5, "rootA", "ext4"),
        ("media", 6, "films", "ext4"),
        ("raw", 7, None, None),
        ("xchange", 8, "XCHANGE", "vfat"),
    ]
    assert [one.size for one in found[-3:]] == [1024 * MIB, 16 * MIB, 64 * MIB]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "partition: Field required"),
        ("partition = 3", "partition: Input should be a valid tuple"),
        ("[[partition", "not a readable TOML file"),
        (tables("boot", "rootA", "data"), "needed and missing: rootB"),
        (tables(*_NEEDED, "data"), "each name once was expected, found data twice"),
        (tables(*_NEEDED, more='size = "lots"\n'), "partition.3.size: could not parse"),
        (tables(*_NEEDED, more="size = 1000\n"), "a multiple of 1 MiB was expected, found 1000"),
        (tables(*_NEEDED, more="size = 0\n"), "a multiple of 1 MiB was expected, found 0"),
        (tables(*_NEEDED, more="size = -1\n"), "partition.3.size"),
        (tables(*_NEEDED, more="sise = 1\n"), "partition.3.sise: Extra inputs are not permitted"),
        (tables(*_NEEDED, more='filesystem = "vfat"\n'), "of 'data' are abupdate's own"),
        (tables(*_NEEDED, "a b"), "a name of letters, digits, - and _ was expected"),
        (tables(*_NEEDED, "x" * 40), "36 at most"),
        (tables(*_NEEDED, "more"), "one partition can have the rest of the disk"),
        (
            tables(*_NEEDED, "one", more='size = "1 MiB"\nlabel = "x"\n')
            + tables("two", more='size = "1 MiB"\nlabel = "x"\n'),
            "each label once was expected, found x twice",
        ),
        (
            tables(*_NEEDED, "more", more='size = "1 MiB"\nlabel = "rootA"\n'),
            "the label 'rootA' is abupdate's own",
        ),
        (
            tables(*_NEEDED, "more", more='size = "1 MiB"\nlabel = "a b"\n'),
            "a label of letters, digits, - and _ was expected",
        ),
        (
            tables(*_NEEDED, "more", more=f'size = "1 MiB"\nlabel = "{"x" * 17}"\n'),
            "a label of 16 bytes at most",
        ),
    ],
)
def test_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_layout(layout_of(tmp_path, text))
    assert said in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A layout file should be at"):
        read_layout(tmp_path / "none")


def test_slots_too_small_for_the_release(tmp_path: Path) -> None:
    path = layout_of(
        tmp_path, tables(*_NEEDED[1:], "boot").replace('"rootB"\n', '"rootB"\nsize = "200 MiB"\n')
    )
    with pytest.raises(NoSpaceError, match=r"'rootB' needs 3\d\d MiB at least .* gives it 200 MiB"):
        specs(read_layout(path), NEED, 0)


def test_numbers_that_grub_needs() -> None:
    kept = [TableEntry(2, "mine", Extent(MIB, MIB))]
    with pytest.raises(UsageError, match="kept has number 2, which GRUB"):
        specs(DEFAULT, NEED, 0, kept)
    kept = [TableEntry(4, "data", Extent(MIB, MIB)), TableEntry(3, "mine", Extent(2 * MIB, MIB))]
    found = specs(DEFAULT, NEED, 0, kept)
    assert {one.name: one.number for one in found} == {
        "bios": 1, "boot": 2, "rescue": 5, "rootA": 6, "rootB": 7
    }  # fmt: skip


@pytest.mark.parametrize("mib", [8, 30, 100, 511, 512, 1000, 1024, 2048, 5000, 20000])
def test_capacity_is_never_less_than_told(tmp_path: Path, mib: int) -> None:
    """mke2fs decides about journal and tables; the formula must not promise more."""
    image = tmp_path / "ext4"
    make_ext4(image, mib * MIB, "x")
    superblock = filesystem.read_superblock(image)
    assert superblock is not None
    told = ext4_capacity(mib * MIB)
    assert told <= superblock.capacity <= told + mib * MIB * 3 // 100 + 3 * MIB
    free = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, check=True).stdout
    assert superblock.inodes >= mib * MIB // filesystem.INODE_RATIO - 1024, free


@given(st.integers(1, 1 << 36), st.integers(1, 1 << 22))
def test_a_slot_of_the_minimum_has_room(size: int, inodes: int) -> None:
    least = slot_minimum(Need(size, inodes))
    assert least % MIB == 0
    assert ext4_capacity(least) >= size and least // filesystem.INODE_RATIO > inodes


def spec(number: int, size: int | None) -> PartitionSpec:
    return PartitionSpec(number, f"p{number}", None, None, None, size and size * MIB)


@settings(max_examples=300)
@given(
    st.lists(st.one_of(st.none(), st.integers(1, 400)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 4 * 2000), st.integers(1, 2000)), max_size=4),
    st.integers(64, 2000),
)
def test_nothing_overlaps(sizes: list[int | None], taken: list[tuple[int, int]], disk: int) -> None:
    """Whatever is asked for: in its size, aligned, on the disk, beside what is kept; or refused."""
    rest = [index for index, size in enumerate(sizes) if size is None][1:]
    wanted = [spec(n, 1 if n in rest else size) for n, size in enumerate(sizes)]
    kept: list[Extent] = []
    for quarter, length in taken:
        one = Extent(quarter * MIB // 4, length * MIB // 4)
        apart = all(one.end <= other.start or other.end <= one.start for other in kept)
        if apart and one.start >= 64 * 1024 and one.end < (disk - 1) * MIB:
            kept.append(one)
    try:
        found = plan(disk * MIB, wanted, kept)
    except NoSpaceError as error:
        assert f"{disk} MiB" in error.message or kept
        return
    for one, asked in zip(found, wanted, strict=True):
        assert one.start % MIB == 0 and one.start >= MIB and one.end <= (disk - 1) * MIB
        assert one.size == asked.size if asked.size else one.size >= MIB
    places = sorted([*found, *kept], key=lambda extent: extent.start)
    assert all(a.end <= b.start for a, b in itertools.pairwise(places))


def test_too_small_a_disk_is_told_with_the_sizes() -> None:
    with pytest.raises(AbupdateError) as caught:
        plan(256 * MIB, [spec(1, 100), spec(2, 200), spec(3, None)])
    assert "need 303 MiB and more (p1 100, p2 200, p3 1), and the disk has 256 MiB" in str(
        caught.value
    )
    with pytest.raises(AbupdateError) as caught:
        plan(256 * MIB, [spec(1, 100)], [Extent(90 * MIB, 100 * MIB)])
    assert "free beside what is kept is 89 MiB, 65 MiB" in str(caught.value)
