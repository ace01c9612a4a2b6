"""The states that a power cut may leave."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from write_log import SECTOR, Write

from tests.cuts.record import Boot, Phase, Step
from tests.cuts.states import Content, cuts

_PARTS = {"one": range(4 * SECTOR), "two": range(4 * SECTOR, 8 * SECTOR)}


def sector(letter: str) -> bytes:
    return letter.encode() * SECTOR


def phase(*epochs: list[Write]) -> Phase:
    return Phase(Step("", "a phase", Boot("A", "normal")), Path("none"), list(epochs))


def test_every_subset_of_few_sectors() -> None:
    writes = [Write(0, sector("a")), Write(SECTOR, sector("b")), Write(0, sector("c"))]
    found = {tuple(sorted(cut.sectors.items())) for cut in cuts(phase(writes), 1, 0)}
    first = [(), ((0, sector("a")),), ((0, sector("c")),)]
    assert found == {(*one, *more) for one in first for more in ((), ((SECTOR, sector("b")),))}


def test_many_sectors_are_sampled_the_same_each_time() -> None:
    writes = [Write(number * SECTOR, sector("a")) for number in range(100)]
    some = [cut.sectors for cut in cuts(phase(writes), 200, 1)]
    assert some == [cut.sectors for cut in cuts(phase(writes), 200, 1)]
    assert some != [cut.sectors for cut in cuts(phase(writes), 200, 2)]
    sizes = {len(sectors) for sectors in some}
    assert {0, 1, 99} <= sizes and len(sizes) > 20


def test_each_flush_is_a_cut() -> None:
    found = list(cuts(phase([Write(0, sector("a"))], [Write(0, sector("b"))]), 1, 0))
    assert [cut.epoch for cut in found if not cut.sectors] == [0, 1, 2]


@pytest.fixture
def content(tmp_path: Path) -> Content:
    image = tmp_path / "disk"
    image.write_bytes(bytes(8 * SECTOR))
    with image.open("r+b") as file:
        return Content(mmap.mmap(file.fileno(), 0), _PARTS)


def test_equal_content_has_equal_numbers(content: Content) -> None:
    empty = content.keys()
    assert content.put(0, sector("a")) == bytes(SECTOR)
    one = content.keys()
    assert one["one"] != empty["one"] and one["two"] == empty["two"]
    content.put(0, sector("b"))
    assert content.keys()["one"] not in (one["one"], empty["one"])
    content.put(0, sector("a"))
    assert content.keys() == one
    content.put(0, bytes(SECTOR))
    assert content.keys() == empty
    content.put(5 * SECTOR, sector("c"))
    assert content.read("two") == bytes(SECTOR) + sector("c") + bytes(2 * SECTOR)
