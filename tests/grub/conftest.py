"""One built disk for all tests here; each gets a copy of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from abupdate.boot.envblock import format_block
from tests.grub.grubbox import Disk, build_disk


@pytest.fixture(scope="session")
def patient_disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """A disk of sound slots, with the settings of a new device. Not to be changed.

    `ABUPDATE_GRUB_DISK` names one that was built elsewhere, with another GRUB.
    """
    ready = os.environ.get("ABUPDATE_GRUB_DISK")
    if ready:
        return Disk(Path(ready))
    image = tmp_path_factory.mktemp("grub") / "disk.img"
    build_disk(image)
    return Disk(image)


@pytest.fixture(scope="session")
def sound_disk(patient_disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """The same, whose GRUB does not wait for a key. Not to be changed."""
    disk = patient_disk.copy(tmp_path_factory.mktemp("grub") / "disk.img")
    disk.write_boot("grub/settings.env", format_block({"menu_wait": "0"}))
    return disk


@pytest.fixture
def disk(sound_disk: Disk, tmp_path: Path) -> Disk:
    """A disk to use up."""
    return sound_disk.copy(tmp_path / "disk.img")
