"""`make demo` as a test: an update that is confirmed and one that is taken back.

On other disks than the demo's, and beside another device's disk with the same
labels: in front of ours, where a search would find it first, or behind it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import demo
import demo_parts
import pytest
from demo import Played


@pytest.fixture(scope="module", params=["uefi", pytest.param("bios", marks=pytest.mark.long)])
def played(request: pytest.FixtureRequest, parts: demo_parts.Parts, images: Path) -> Played:
    """UEFI: NVMe, `disk1` of the machine. BIOS: SATA, `disk0`."""
    timeline, folder = demo_parts.Timeline(), Path(tempfile.mkdtemp(dir=images))
    if request.param == "uefi":
        return demo.play(timeline, parts, folder, "uefi", "nvme", "in front")
    return demo.play(timeline, parts, folder, "bios", "sata", "behind")


@pytest.mark.row("S12", "S33", "S34")
def test_confirm_and_fallback(played: Played) -> None:
    boots = [
        (marker.release, marker.slot, marker.boot, marker.attempt) for marker in played.markers
    ]
    assert boots == [
        ("1", "A", "normal", "-"),
        ("2", "B", "trial", "1"),
        ("3", "A", "trial", "1"),
        ("3", "A", "trial", "2"),
        ("3", "A", "trial", "3"),
        ("2", "B", "normal", "-"),
    ]


def test_boots_leave_a_slot_as_its_record_says(played: Played) -> None:
    assert played.proven


@pytest.mark.row("S39", "S40", "U19")
def test_our_disk_and_no_other(played: Played, request: pytest.FixtureRequest) -> None:
    """By its serial number: which of two gets the first name is up to the kernel."""
    nvme = "uefi" in request.node.name
    assert played.serial == ("disk1" if nvme else "disk0")
    assert played.root.startswith("/dev/nvme" if nvme else "/dev/sd")
    assert not played.twin_changed
