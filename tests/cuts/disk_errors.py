"""A disk that fails in the middle of a phase.

Requests are counted from the moment that the disk is plugged in; those before abupdate begins
(the kernel's own look at the partitions, the mounts) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import failing_disk
from failing_disk import Failure, Kind

from tests.cuts.again import copy, look, run_again
from tests.cuts.judge import Finding
from tests.cuts.record import Phase, Recorder
from tests.cuts.releases import Releases

KINDS: tuple[Kind, ...] = ("read", "write", "flush")


@dataclass(frozen=True)
class Failed:
    """What a failure came to: the command's exit codes and words, and the disk that it left.

    `again`: that disk, sound once more, after the phase was run again where it had not ended.
    """

    codes: list[int]
    said: str
    left: Finding
    again: Finding


def failures(recorder: Recorder, phase: Phase, scratch: Path, places: int) -> Iterator[Failure]:
    """Failures spread over a phase: for each kind of request so many places, alone and lasting."""
    image = scratch / "counted.img"
    mounts = recorder.userland(
        copy(phase.before, image), replace(phase.step, commands=[], codes=[])
    ).requests
    whole = recorder.userland(copy(phase.before, image), phase.step).requests
    for kind in KINDS:
        first, last = mounts[kind] + 1, whole[kind]
        for place in range(places):
            number = first + (last - first) * (2 * place + 1) // (2 * places)
            yield Failure(kind, number)
            yield Failure(kind, number, lasting=True)


def fail(
    recorder: Recorder, phase: Phase, releases: Releases, failure: Failure, scratch: Path
) -> Failed:
    """Run a phase on a disk that fails, look at what that left, and run it again on a sound one."""
    disk = copy(phase.before, scratch / "failing.img")
    node = failing_disk.node(disk.image, failure)
    ran = recorder.userland(disk, phase.step, node, codes=False)
    left = again = look(phase, disk, releases, scratch / "left")
    if left.outcome.startswith(phase.step.boot.slot):
        again = run_again(recorder, phase, disk, releases, scratch / "again")
    return Failed(ran.codes, ran.said, left, again)
