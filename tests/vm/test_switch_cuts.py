"""Rules that are replaced, and the power that goes: a sample of `make crash-all`'s states."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuts import switch


@pytest.mark.parametrize("broken", ["", pytest.param("in use", marks=pytest.mark.long)])
def test_a_sample(images: Path, broken: str) -> None:
    """Every state starts the slot. Should the rules in use be written over, it is seen."""
    folder = images / (broken or "sound")
    folder.mkdir()
    (phase,) = switch.short_life(folder, broken)
    done = switch.replay(phase, folder, 8 if broken else 12, switch.SEED, None)
    print(done.outcomes, done.faults)
    assert done.unbootable == 0
    if broken:
        assert any("are in use, and damaged" in fault for fault in done.faults)
    else:
        assert done.faults == [] and done.distinct > 10
