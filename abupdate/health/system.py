"""Space, the data partition, the clock."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from abupdate.health.check import UnhealthyError
from abupdate.health.mounts import FAILED, mounts_that


def free_space(bytes_of: Mapping[str, int], inodes_of: Mapping[str, int], _timeout: float) -> str:
    """Folders whose filesystem has so many bytes and inodes free for a user who is not root."""
    bad = []
    for folder in {**bytes_of, **inodes_of}:
        try:
            found = os.statvfs(folder)
        except OSError as error:
            bad.append(f"{folder}: {error.strerror}")
            continue
        free, inodes = found.f_bavail * found.f_frsize, found.f_favail
        if free < (least := bytes_of.get(folder, 0)):
            bad.append(f"{folder} has {free >> 20} MiB free, and should have {least >> 20}")
        # A filesystem that counts no inodes (vfat, btrfs) says 0 of 0.
        if found.f_files and inodes < (least := inodes_of.get(folder, 0)):
            bad.append(f"{folder} has {inodes} inodes free, and should have {least}")
    if bad:
        raise UnhealthyError(", ".join(bad))
    return "enough is free"


def data_kept(data: Path, runtime: Path, _timeout: float) -> str:
    """What is written to data is still there after a reboot.

    Where data could not be mounted, memory took its place, which can be written
    to just as well: the initramfs tells that.
    """
    bad = mounts_that(FAILED, runtime)
    if bad:
        raise UnhealthyError("; ".join(bad))
    try:
        with tempfile.TemporaryFile(dir=data) as file:
            file.write(b"abupdate")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UnhealthyError(f"{data} cannot be written: {error.strerror}") from error
    return "mounted, and written to"


def clock_sane(earliest: float, _timeout: float) -> str:
    """The clock is not before `earliest` (seconds since the epoch), when that was still to come."""
    now = time.time()
    if now < earliest:
        raise UnhealthyError(
            f"the clock says {_day(now)}; the newest release was signed on {_day(earliest)}"
        )
    return _day(now)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
