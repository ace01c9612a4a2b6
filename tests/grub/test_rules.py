"""The real grub.cfg against the rules in `abupdate/boot/state.py`, state by state."""

from __future__ import annotations

import functools
import itertools
import os
import random
from dataclasses import dataclass, replace

import pytest

from abupdate.boot import grubenv
from abupdate.boot.state import BootState, Ustate, backup_of, grub, provision
from tests.grub.grubbox import NOTHING_BOOTS, Disk, Firmware, assert_booted, boot

SEED = 20261121
SAMPLE = int(os.environ.get("ABUPDATE_GRUB_SAMPLE", "40"))
UEFI_SAMPLE = 3


# grub-editenv runs once for each state.
encode = functools.cache(grubenv.encode)


@dataclass(frozen=True)
class Case:
    """One start: what the copies hold, what loads, whether GRUB can write."""

    state: BootState
    loads: str = "ABR"
    saves: bool = True

    def __str__(self) -> str:
        s = self.state
        values = f"{s.ustate}{s.trial}{s.slot}{s.good}{s.countdown}{s.failed}{s.limit}{s.once}"
        return f"{values}-{self.loads or 'none'}-{'rw' if self.saves else 'ro'}"


def all_states() -> list[BootState]:
    """Every combination of what GRUB decides by, reachable or not."""
    combinations = itertools.product(
        Ustate, "ABx", "AB", ("AB", "Ax", "xB", "xx"), (0, 1, 2, 9), "ABx", (0, 2), "xR"
    )
    return [
        replace(
            provision(3, limit),
            ustate=ustate,
            trial=trial,
            slot=slot,
            good=good,
            countdown=countdown,
            failed=failed,
            once=once,
        )
        for ustate, trial, slot, good, countdown, failed, limit, once in combinations
    ]


def sample(count: int) -> list[Case]:
    """A spread sample, the same in every run. One in four may have parts that are broken."""
    chance = random.Random(SEED)
    states = all_states()
    step = len(states) / count
    cases = []
    for number in range(count):
        state = states[int(number * step + chance.random() * step)]
        if state.once == "R" and chance.random() < 0.8:
            state = replace(state, once="x")
        broken = number % 4 == 0
        loads = "".join(name for name in "ABR" if not broken or chance.random() < 0.5)
        cases.append(Case(state, loads, saves=chance.random() > 0.1))
    return cases


@pytest.fixture(scope="session")
def disks(sound_disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Disk]:
    """A disk for each set of what loads; elsewhere the kernel is missing."""
    found = {}
    for size in range(4):
        for names in itertools.combinations("ABR", size):
            disk = sound_disk.copy(tmp_path_factory.mktemp("loads") / "disk.img")
            for broken in set("ABR") - set(names):
                disk.write_slot(broken, "/boot/vmlinuz-probe", None)
            found["".join(names)] = disk
    return found


def boots_by_the_rules(disk: Disk, case: Case, firmware: Firmware) -> None:
    """Start once, and compare what came up and what was written with the rules."""
    backup = backup_of(case.state, Ustate.OK)
    disk.write_boot("grub/grubenv", encode(case.state))
    disk.write_boot("grub/grubenv.bak", encode(backup))
    expected = grub(case.state, backup, case.loads, saves=case.saves)
    until = NOTHING_BOOTS if expected.boots is None else None
    found = boot(disk, firmware, readonly=not case.saves, until=until)
    assert_booted(found, disk, expected.boots, expected.how)
    assert expected.state is not None
    # Byte for byte: GRUB must change values in place and nothing else.
    assert disk.read_boot("grub/grubenv") == encode(expected.state), found.text
    assert disk.read_boot("grub/grubenv.bak") == encode(backup)


@pytest.mark.parametrize("case", sample(SAMPLE), ids=str)
@pytest.mark.row("S31")
def test_sample_bios(disks: dict[str, Disk], case: Case) -> None:
    boots_by_the_rules(disks[case.loads], case, "bios")


@pytest.mark.parametrize("case", sample(UEFI_SAMPLE), ids=str)
def test_sample_uefi(disks: dict[str, Disk], case: Case) -> None:
    boots_by_the_rules(disks[case.loads], case, "uefi")
