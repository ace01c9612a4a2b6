"""What VM tests share: the releases, a new device's disk, and a place for its copies.

Everything that is built is cached in `.cache`. A test copies the disk into
`images` (`device.copy`), and its machines are off when it ends.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# The parts are 4 GiB, and the disks of a module of tests at most as much again.
FREE_SPACE = 10 << 30  # bytes

QEMU = Path(__file__).resolve().parents[2] / "qemu"
sys.path.insert(0, str(QEMU))

if TYPE_CHECKING:
    from demo_parts import Parts


# The first one builds what all boot.
SECONDS, LONG_SECONDS = 1500, 7200

# QEMU before 8.1 has no instant in which a kernel that rewrites its own code is seen right by
# two emulated processors: about once in a hundred boots one of them ends by this, in the first
# seconds. The device comes back by itself, but not with the boots that a test counts.
EMULATOR = r"Oops: int3.*sched_clock_cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder boot machines; what the emulator broke is tried once more."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vm)
            long = item.get_closest_marker("long") is not None
            item.add_marker(pytest.mark.timeout(LONG_SECONDS if long else SECONDS))
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=rf"(?s){EMULATOR}"))


@pytest.fixture(scope="session")
def parts() -> Parts:
    """Releases 1, 2 (good) and 3 (its check fails), bundled; a new device's disk with 1."""
    if os.geteuid() != 0:
        pytest.skip("making root filesystems needs root")
    import cache

    free = shutil.disk_usage(cache.directory()).free
    if free < FREE_SPACE:
        pytest.exit(
            f"The virtual machines need {FREE_SPACE >> 30} GiB in {cache.directory()}; "
            f"{free / 2**30:.1f} are free. `make clean` drops what was built.",
            returncode=1,
        )
    from demo_parts import Timeline, build

    return build(Timeline())


@pytest.fixture(scope="module")
def images() -> Iterator[Path]:
    """Where a module keeps disks: beside what was built, for `/tmp` may be memory."""
    import cache

    with tempfile.TemporaryDirectory(dir=cache.directory(), prefix=".test-") as name:
        yield Path(name)
