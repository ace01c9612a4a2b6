"""A disk that was left in the middle of a phase: what is on it, and the phase run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import device
from write_log import SECTOR, Write

from tests.cuts.judge import Finding, Judge
from tests.cuts.record import SIZES, Phase, Recorder
from tests.cuts.releases import Releases
from tests.cuts.states import Cut
from tests.grub.grubbox import Disk


def copy(image: Path, to: Path) -> Disk:
    """A disk to change, in place of an earlier one."""
    to.unlink(missing_ok=True)
    return Disk(device.copy(image, to), SIZES.partitions())


def cut_off(phase: Phase, cut: Cut, to: Path) -> Disk:
    """The disk as a power cut in a phase leaves it."""
    disk = copy(phase.before, to)
    with disk.image.open("r+b") as file:
        writes = [write for epoch in phase.epochs[: cut.epoch] for write in epoch]
        for write in [*writes, *(Write(at, data) for at, data in cut.sectors.items())]:
            file.seek(write.at)
            file.write(write.data)
    return disk


def look(phase: Phase, disk: Disk, releases: Releases, folder: Path) -> Finding:
    """What the next power-on finds, judged as after a cut in that phase."""
    folder.mkdir(exist_ok=True)
    judge = Judge(phase, releases, folder)
    for write in _changes(phase.before, disk.image):
        judge.content.put(write.at, write.data)
    return judge.look()


def run_again(
    recorder: Recorder, phase: Phase, disk: Disk, releases: Releases, folder: Path
) -> Finding:
    """Run the phase on a disk that still boots what ran it; what the disk is then."""
    recorder.userland(disk, phase.step)
    return look(phase, disk, releases, folder)


def _changes(before: Path, after: Path) -> Iterator[Write]:
    with before.open("rb") as old, after.open("rb") as new:
        at = 0
        while data := new.read(SECTOR):
            if data != old.read(SECTOR):
                yield Write(at, data)
            at += SECTOR
