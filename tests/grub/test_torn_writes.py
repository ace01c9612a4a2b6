"""A power cut while GRUB saves: any of the sectors may have reached the disk.

Every change of the state that GRUB makes is recorded as the writes to the disk
that it is; then every subset of them is booted.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import write_log

from abupdate.boot.grubenv import decode, encode
from abupdate.boot.state import (
    BootState,
    Ustate,
    arm,
    backup_of,
    begin,
    grub,
    provision,
    rescue_once,
)
from tests.grub.grubbox import Disk, assert_booted, boot

KERNEL = "/boot/vmlinuz-probe"
ARMED = arm(begin(provision(3, 8), "B", "A"), "B")
BOTH = replace(provision(3, 8), good="AB")

# What GRUB finds, and which systems load.
CHANGES = {
    "normal boot": (BOTH, "ABR"),
    "trial": (ARMED, "ABR"),
    "last trial": (replace(ARMED, countdown=1), "ABR"),
    "given up": (replace(ARMED, countdown=0), "ABR"),
    "trial that does not load": (ARMED, "AR"),
    "trial and old slot that do not load": (replace(ARMED, good="Ax"), "R"),
    "used up": (replace(BOTH, countdown=0), "ABR"),
    "both used up": (replace(BOTH, countdown=0, failed="B", ustate=Ustate.FAILED), "ABR"),
    "rescue, once": (rescue_once(BOTH), "ABR"),
    "rescue, once, that does not load": (rescue_once(ARMED), "AB"),
    "last resort": (replace(BOTH, countdown=0, failed="B", ustate=Ustate.FAILED), "AB"),
}


FROM_BACKUP = ("normal boot", "used up", "rescue, once")
CASES = [*((name, "grubenv") for name in CHANGES), *((name, "grubenv.bak") for name in FROM_BACKUP)]


@pytest.mark.parametrize(("name", "file"), CASES)
@pytest.mark.row("S41")
def test_every_subset_of_what_grub_writes(disk: Disk, tmp_path: Path, name: str, file: str) -> None:
    state, loads = CHANGES[name]
    for slot in set("ABR") - set(loads):
        disk.write_slot(slot, KERNEL, None)
    state = state if file == "grubenv" else backup_of(state, Ustate.OK)
    disk.write_boot("grub/grubenv", encode(state) if file == "grubenv" else b"")
    disk.write_boot("grub/grubenv.bak", encode(backup_of(state, Ustate.OK)))
    before = disk.image.read_bytes()

    log = tmp_path / "log"
    boot(disk, log=log)
    writes = [write for epoch in write_log.epochs(log) for write in epoch]
    assert write_log.after(before, writes) == disk.image.read_bytes()
    saved = saves(state)
    seen = []
    for content in write_log.torn(before, writes):
        disk.image.write_bytes(content)
        found = decode(disk.read_boot(f"grub/{file}"))
        assert found in saved, f"a mixture: {found}"
        if found not in seen:
            seen.append(found)
            expected = grub(found, None, loads)
            assert_booted(boot(disk), disk, expected.boots, expected.how)
    assert state in seen
    assert grub(state, None, loads).state in seen


def saves(state: BootState) -> list[BootState | None]:
    """The state before, and each that GRUB saves on its way down to what loads."""
    some = [set(names) for size in range(4) for names in itertools.combinations("ABR", size)]
    return [state, *(grub(state, None, names).state for names in some)]
