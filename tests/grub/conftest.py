"""One built disk for all tests here; each gets a copy of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.grub import other_grub
from tests.grub.grubbox import Disk, build_disk
from tests.grub.sweep import no_wait


@pytest.fixture(scope="session")
def patient_disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """A disk of sound slots, with the settings of a new device. Not to be changed."""
    image = tmp_path_factory.mktemp("grub") / "disk.img"
    build_disk(image)
    return Disk(image)


@pytest.fixture(scope="session")
def sound_disk(patient_disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """The same, whose GRUB does not wait for a key. Not to be changed."""
    return no_wait(patient_disk.copy(tmp_path_factory.mktemp("grub") / "disk.img"))


@pytest.fixture(scope="session")
def other_disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """The same with the other Debian's GRUB. Not to be changed."""
    image = tmp_path_factory.mktemp("grub") / "disk.img"
    build_disk(image, other_grub.library())
    return no_wait(Disk(image))


@pytest.fixture
def disk(sound_disk: Disk, tmp_path: Path) -> Disk:
    """A disk to use up."""
    return sound_disk.copy(tmp_path / "disk.img")
