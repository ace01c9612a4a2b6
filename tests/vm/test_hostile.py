"""Hostile input in a guest, which has the git of Debian 13: the same table, the same verdicts."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import cache
import device
import guest
import publisher
import pytest
from device_vm import MEDIUM, DeviceVM, make_medium
from image import Sizes
from vm import VM, Disk, accelerator

from tests.slots.hostile.cases import CASES

pytestmark = pytest.mark.long

# What the tests themselves run.
PACKAGES = ("acl", "gpg", "gpg-agent", "libcap2-bin", "python3-pytest", "python3-pytest-timeout")
ONE = guest.Release("1", packages=PACKAGES)
TREE = "/var/tmp/tree"
TABLE = "tests/slots/test_hostile_inputs.py"
SECONDS = 5400.0

_RUN = f"""
set -e
mkdir {TREE}
cd {TREE}
tar -xf {MEDIUM}/tree.tar
export TMPDIR=/var/tmp PYTHONDONTWRITEBYTECODE=1
python3 -m pytest -p no:cacheprovider -o timeout=1800 -m 'not long' --tb=short {TABLE}
"""


def sources(path: Path) -> Path:
    """The working tree's package and tests, as a tar."""
    with tarfile.open(path, "w") as out:
        for name in ("abupdate", "tests", "pyproject.toml"):
            out.add(cache.PROJECT / name, name, filter=_kept)
    return path


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith("__pycache__") else member


def test_the_same_verdicts(images: Path) -> None:
    series = publisher.publish([ONE])
    signers = publisher.key().allowed_signers
    built = device.build(series.bundle("1"), signers, Sizes())
    medium = make_medium(images / "medium.img", {"tree.tar": sources(images / "tree.tar")})
    accel = accelerator(lambda: guest.kernel(guest.build(ONE, signers.read_text())))
    disk = device.copy(built, images / "disk.img")
    disks = [Disk(disk), Disk(medium, readonly=True)]
    with VM(disks, firmware="bios", accel=accel, memory=2048) as vm:
        machine = DeviceVM(vm)
        machine.power_on()
        machine.wait_for_boot()
        machine.settle()
        machine.mount_medium()
        assert machine.run("git", "--version").stdout.startswith("git version 2.47.")
        done = machine.run("sh", "-c", _RUN, timeout=SECONDS, ok=None)
    print(done.stdout[-20_000:], done.stderr[-2_000:])
    assert done.code == 0
    ended = re.search(r"(\d+) passed.* in ", done.stdout)
    assert ended
    assert "skipped" not in ended[0]
    assert int(ended[1]) > sum(not case.long for case in CASES.values())
