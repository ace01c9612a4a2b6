"""What `doctor` sees of the partition table: both copies, and the MBR that goes with them.

The kernel read it when the machine started; what happened to it since, it does not see. GRUB
reads the first copy alone, and without it goes by a block that says where rescue and the slots
are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from abupdate.disk import grubimage
from abupdate.disk.gptcopies import FIRST, SECOND, Copies
from abupdate.doctor.findings import Finding, finding
from abupdate.provision.grub import tells_places

_REPAIR = "abupdate doctor --repair writes it again from the other copy."


def table_findings(disk: Path, copies: Copies | None) -> Iterator[Finding]:
    """`copies` is None where the disk cannot be read at all."""
    if copies is None or copies.whole is None:
        told = "; ".join(copies.faults.values()) if copies else "the disk cannot be read"
        yield finding(
            "gpt-lost",
            f"A copy of the partition table of {disk} should be whole, found none: {told}.",
            "The kernel still knows the partitions, and the next boot finds none of them. Save "
            "what you need; then make the table again as it was, or install the device anew.",
        )
        return
    if FIRST in copies.faults:
        yield finding(
            "gpt-primary",
            f"The partition table of {disk} should be whole, found: {copies.faults[FIRST]}.",
            _REPAIR,
        )
    elif SECOND in copies.faults:
        yield finding(
            "gpt-backup",
            f"The partition table of {disk} should be there twice, found: {copies.faults[SECOND]}.",
            _REPAIR,
        )
    if "mbr" in copies.faults:
        yield finding(
            "gpt-protective",
            f"The first sector of {disk} should say that there is a GPT, found: "
            f"{copies.faults['mbr']}. The kernel looks for none then.",
            "abupdate doctor --repair writes it.",
            repairable=not copies.foreign,
        )
    if not tells_places(grubimage.places(disk), copies.whole.table):
        yield finding(
            "places-lost",
            f"{disk} should tell GRUB in front of its first partition where rescue and the slots "
            "are, for when the first copy of the table is lost, found something else.",
            "abupdate doctor --repair writes it.",
        )
