"""An install that was cut is done again; and mistakes that replaying cuts must find.

For `make crash-all`, which replays thousands of cuts of each phase before, and gives the life
that it recorded.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cuts import again, releases
from tests.cuts.record import Phase, Recorder, debian, recorded
from tests.cuts.replay import replay
from tests.cuts.states import cuts

pytestmark = pytest.mark.long

_CUTS = 60
_AGAIN = 12
_SEED = 7


@pytest.fixture(scope="module")
def recorder(images: Path) -> Iterator[Recorder]:
    with debian(images) as machine:
        yield Recorder(machine, releases.build(), images)


@pytest.fixture(scope="module")
def life(images: Path) -> dict[str, Phase]:
    folder = Path(os.environ.get("ABUPDATE_LIFE") or images / "life")
    return {phase.step.name: phase for phase in recorded(folder, releases.build())}


@pytest.mark.row("U29", "S62")
def test_done_again_after_any_cut(recorder: Recorder, life: dict[str, Phase], images: Path) -> None:
    """An install that was cut, by the system that boots then: the same end as without the cut."""
    phase = life["install, update"]
    chance = random.Random(_SEED)
    for cut in chance.sample([*cuts(phase, 200, _SEED)], _AGAIN):
        disk = again.cut_off(phase, cut, images / "again.img")
        found = again.look(phase, disk, releases.build(), images / "cut-off")
        if found.outcome.startswith(phase.step.boot.slot):
            found = again.run_again(recorder, phase, disk, releases.build(), images / "done")
        print(f"{cut.epoch} flushes, then {len(cut.sectors)} sectors: {found}")
        assert (found.outcome, found.faults) == ("B trial, release 3", ())


# Where a mistake is made, and what is then said of a state.
MISTAKES = {
    "arm_before_sync": ("install, empty slot", "slot B is offered, and is labelled newB"),
    "truncate_grubenv": ("install, update", "of the boot state is lost"),
    "label_before_read_back": ("install, empty slot", "slot B is offered, and not 1: "),
    "backup_after_slot": ("install, update", "slot B is offered, and is labelled newB"),
    "no_directory_fsync": ("the last trial fails", "its record does not say so"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(
    recorder: Recorder, life: dict[str, Phase], images: Path, mistake: str
) -> None:
    name, says = MISTAKES[mistake]
    sound = life[name]
    (broken,) = recorder.life([replace(sound.step, broken=mistake)], sound.before)
    faults = replay(broken, releases.build(), images, _CUTS, _SEED).faults
    print("\n".join(faults))
    assert any(says in fault for fault in faults)


def test_a_disk_that_loses_what_was_written_is_no_mistake(
    recorder: Recorder, life: dict[str, Phase], images: Path
) -> None:
    """What `label_before_read_back` needs to be one; without it nothing is offered."""
    sound = life["install, empty slot"]
    (found,) = recorder.life([replace(sound.step, broken="lying_disk")], sound.before)
    assert replay(found, releases.build(), images, _CUTS, _SEED).faults == []
