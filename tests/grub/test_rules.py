"""The real rules of GRUB against those in `abupdate/boot/state.py`, state by state.

A spread of the cases is booted here; `make test-grub-all` boots all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from abupdate.boot.grubenv import encode
from abupdate.boot.state import Ustate, backup_of
from tests.grub.cases import Case, block, full, pairs, spread, triples
from tests.grub.grubbox import Disk
from tests.grub.sweep import Difference, sweep

SAMPLE = int(os.environ.get("ABUPDATE_GRUB_SAMPLE", "50"))


def none_differs(found: Iterable[Difference]) -> None:
    differences = [f"{one.case}\n{one.seen}" for one in found]
    assert not differences, "\n\n".join([f"{len(differences)} differ:", *differences[:5]])


@pytest.mark.row("S31", "S42", "U3")
def test_spread_under_bios(sound_disk: Disk) -> None:
    none_differs(sweep(spread(SAMPLE), sound_disk))


def test_spread_under_uefi(sound_disk: Disk) -> None:
    none_differs(sweep(spread(SAMPLE // 10), sound_disk, "uefi"))


@pytest.mark.row("U1")
def test_spread_with_the_other_grub(other_disk: Disk) -> None:
    none_differs(sweep(spread(SAMPLE // 3), other_disk))
    none_differs(sweep(spread(SAMPLE // 30), other_disk, "uefi"))


def test_cases_cover_what_they_say() -> None:
    def tokens(case: Case) -> set[tuple[str, str]]:
        copies = {("primary", case.primary), ("backup", case.backup)}
        return {*case.values.items(), *case.systems.items(), *copies}

    assert len({str(case) for case in full()}) == 3 * 3 * 2 * 4 * 5 * 3 * 2
    three = {("primary", "43 bytes"), ("backup", "old"), ("B", "flipped kernel")}
    assert any(three <= tokens(case) for case in triples())
    two = {("limit", "7"), ("seen", "R")}
    assert any(two <= tokens(case) for case in pairs())
    not_allowed = {("good", "BA"), ("tries", "4")}
    assert any(not_allowed <= tokens(case) for case in pairs())


@pytest.mark.parametrize("case", spread(8), ids=str)
def test_cases_write_what_userland_writes(case: Case) -> None:
    """The quick way to make a copy gives the bytes of grub-editenv."""
    for state in (case.state, backup_of(case.state, Ustate.OK)):
        assert encode(state) == block(state)
