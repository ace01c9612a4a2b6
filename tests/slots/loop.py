"""Real ext4 filesystems on loop devices at an offset, as on a disk."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abupdate.disk.filesystem import FEATURES

OFFSET = 1 << 20
_NEW_MOUNTS, _RECURSIVE, _PRIVATE = 0x20000, 0x4000, 1 << 18  # sched.h, mount.h


def have_loop_devices() -> bool:
    """Whether this process may make loop devices."""
    return os.geteuid() == 0 and Path("/dev/loop-control").exists()


def leave_the_mounts_of_others() -> None:
    """See no mount that another process makes from now on, and show it none.

    What a hook of one test runs in has a copy of all mounts, and would keep the slot of
    a test beside it busy.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for failed in (
        libc.unshare(_NEW_MOUNTS),
        libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None),
    ):
        if failed:
            raise OSError(ctypes.get_errno(), "a mount namespace of its own")


def attach(image: Path, offset: int, size: int, *options: str) -> Path:
    """A loop device for a part of a file."""
    where = ["--offset", str(offset), "--sizelimit", str(size)]
    done = subprocess.run(
        ["losetup", "--find", "--show", *where, *options, image],
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(done.stdout.strip())


def detach(device: Path) -> None:
    subprocess.run(["losetup", "--detach", device], check=True)


def make_ext4(device: Path, label: str) -> None:
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", FEATURES, "-L", label, device],
        check=True,
    )


@contextmanager
def ext4(top: Path, size: int) -> Iterator[tuple[Path, Path]]:
    """A mounted ext4 at an offset in a file: (mountpoint, image). The offset is `OFFSET`."""
    image, mountpoint = top / "image", top / "mounted"
    with image.open("wb") as file:
        file.truncate(OFFSET + size)
    mountpoint.mkdir()
    device = attach(image, OFFSET, size)
    try:
        make_ext4(device, "newB")
        subprocess.run(["mount", device, mountpoint], check=True)
        try:
            yield mountpoint, device
        finally:
            subprocess.run(["umount", mountpoint], check=True)
    finally:
        detach(device)
