"""Hostile input: each is refused with a sentence, within bounds, and changes nothing.

With ABUPDATE_HOSTILE=FILE the table of what was measured is written there
(`make hostile`: docs/hostile-inputs.md).
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from abupdate.config import load
from abupdate.errors import AbupdateError, ExitCode
from abupdate.events import Events
from abupdate.source.local import StreamSource
from abupdate.update.admit import examined
from tests.slots.conftest import put_back
from tests.slots.device import Device, snapshot
from tests.slots.hostile import cases, report, workshop
from tests.slots.hostile.cases import CASES
from tests.slots.hostile.releases import Craft, Manifest
from tests.slots.hostile.workshop import Workshop

# The sandbox of git has 600 MB of address space; the rest is Python's.
MEMORY = 700_000_000
DISK = 64 << 20
SECONDS = 600.0


@pytest.fixture(scope="module")
def device(shared_plain_device: Device) -> Iterator[Device]:
    yield put_back(shared_plain_device)


@pytest.fixture(scope="module")
def shop(device: Device) -> Iterator[Workshop]:
    with workshop.opened(device) as found:
        yield found


@pytest.mark.row("U4", "U6")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if case.long else ())
        for name, case in CASES.items()
    ],
)
def test_input(shop: Workshop, name: str) -> None:
    case = CASES[name]
    shop.configure()
    with case.around(shop):
        source = case.make(shop)
        before = shop.untouched()
        done = shop.run("install", source)
        after = shop.untouched()
        state = shop.device.state()
    if before != after:
        shop.put_back()
    size = source.stat().st_size if isinstance(source, Path) else 0
    report.keep(name, case, size, done)
    assert done.code == case.code, done.said
    assert case.says in done.said
    assert "Traceback" not in done.said
    assert len(done.said) < 2000
    assert done.memory < MEMORY
    assert done.disk < 2 * size + DISK
    assert done.seconds < SECONDS
    assert not cases.programs_ran(shop)
    assert list(shop.spool.iterdir()) == []
    if case.writes:
        assert before["A"] == after["A"]
        assert state.trial == ("B" if case.code == 0 else "x")
    else:
        changed = before.items() ^ after.items()
        assert changed == set()


def test_what_is_made_by_hand_is_good_where_nothing_is_wrong(shop: Workshop) -> None:
    """So that each input is refused for what is wrong with it."""
    assert install(shop, "7", Craft()) == 0
    assert shop.device.run("verify", "B") == 0
    shop.put_back()


def install(shop: Workshop, version: str, what: Craft) -> int:
    path = shop.folder / "bundle"
    path.write_bytes(shop.craft(version, what).bundle)
    return shop.device.run("install", path)


def test_a_file_that_only_the_manifest_lost(
    shop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the slot is known to hold the release before, in which both had it."""

    def without(entries: Manifest) -> Manifest:
        return [entry for entry in entries if entry.path != b"etc/two"]

    assert install(shop, "7", Craft()) == 0
    before = shop.untouched()
    capsys.readouterr()
    assert install(shop, "8", Craft(manifest=without)) == 6
    assert "disagree about etc/two" in capsys.readouterr().err
    assert shop.untouched() == before
    shop.put_back()


class Damaged:
    """The same bundle again and again, through all that an install does to believe it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.raw = (device.top / "3.bundle").read_bytes()
        self.settings = load(device.paths).settings

    def refused(self, raw: bytes) -> str:
        """Why; nothing is left."""
        with (
            pytest.raises(AbupdateError) as caught,
            examined(self.device.machine, [StreamSource(io.BytesIO(raw))], self.settings, Events()),
        ):
            pass
        assert caught.value.exit_code in (ExitCode.SOURCE, ExitCode.NOT_TRUSTED, ExitCode.NO_SPACE)
        assert list((self.device.paths.state / "spool").iterdir()) == []
        return caught.value.message


@pytest.fixture
def damaged(device: Device) -> Iterator[Damaged]:
    before = snapshot(device)
    yield Damaged(device)
    assert snapshot(device) == before


MANY = [pytest.param(40), pytest.param(200, marks=pytest.mark.long)]


@pytest.mark.parametrize("places", MANY)
def test_cut_off(damaged: Damaged, places: int) -> None:
    """In the header, at its end, in the pack, and before its last byte."""
    header = damaged.raw.index(b"PACK")
    rng = random.Random(places)
    cuts = {0, header - 1, header, header + 11, header + 12, len(damaged.raw) - 1}
    cuts |= set(rng.sample(range(header), places // 4))
    cuts |= set(rng.sample(range(len(damaged.raw)), places - len(cuts)))
    print("cut at", sorted(cuts))
    for cut in sorted(cuts):
        assert damaged.refused(damaged.raw[:cut]), cut


@pytest.mark.parametrize("places", MANY)
def test_flipped_bits(damaged: Damaged, places: int) -> None:
    rng = random.Random(places)
    flips = [(rng.randrange(len(damaged.raw)), rng.randrange(8)) for _ in range(places)]
    print("flipped (byte, bit):", flips)
    for place, bit in flips:
        raw = bytearray(damaged.raw)
        raw[place] ^= 1 << bit
        assert damaged.refused(bytes(raw)), (place, bit)
