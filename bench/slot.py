"""A slot to measure on: a loop device over a file whose blocks are all there already.

Direct I/O: what is written reaches the file, and is counted by the kernel.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abupdate.run import run

SECTOR = 512
_MKE2FS = ("-q", "-F", "-t", "ext4", "-m", "0", "-E",
           "nodiscard,lazy_itable_init=0,lazy_journal_init=0")  # fmt: skip


class Slot:
    """A device of `size` bytes; made by `slot`."""

    def __init__(self, device: Path, mountpoint: Path) -> None:
        self.device = device
        self.mountpoint = mountpoint

    def clear(self, label: str = "newB", inodes: int | None = None) -> None:
        """A new, empty ext4."""
        room = ["-N", str(inodes)] if inodes else []
        run(["mke2fs", *_MKE2FS, *room, "-L", label, self.device], timeout=120)

    def fill(self, image: Path) -> None:
        """Make the device a copy of an image, holes included."""
        run(["dd", f"if={image}", f"of={self.device}", "bs=8M", "oflag=direct", "status=none"],
            timeout=600)  # fmt: skip
        os.sync()

    def save(self, image: Path) -> None:
        """Copy the device to a file."""
        run(["dd", f"if={self.device}", f"of={image}", "bs=8M", "conv=sparse", "status=none"],
            timeout=600)  # fmt: skip

    @contextmanager
    def mounted(self, options: str = "rw,nosuid,nodev,noexec,noatime") -> Iterator[Path]:
        """The filesystem, for the time of the block."""
        self.mountpoint.mkdir(exist_ok=True)
        run(["mount", "-t", "ext4", "-o", options, self.device, self.mountpoint])
        try:
            yield self.mountpoint
        finally:
            run(["umount", self.mountpoint], timeout=600)

    def sync(self) -> None:
        """Write all of the mounted filesystem to the device."""
        fd = os.open(self.mountpoint, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
                raise OSError(ctypes.get_errno(), "syncfs")
        finally:
            os.close(fd)

    def written(self) -> int:
        """Bytes that the kernel wrote to the device so far."""
        name = self.device.name
        return int(Path(f"/sys/block/{name}/stat").read_text().split()[6]) * SECTOR


@contextmanager
def slot(folder: Path, name: str, size: int) -> Iterator[Slot]:
    """A device of its own; its file stays in `folder`, for the next run."""
    image = folder / f"{name}.slot"
    if not image.exists() or image.stat().st_size != size:
        image.unlink(missing_ok=True)
        run(["fallocate", "-l", str(size), image])
    found = run(["losetup", "--find", "--show", "--direct-io=on", image])
    device = Path(found.stdout.decode().strip())
    try:
        yield Slot(device, folder / f"{name}.mounted")
    finally:
        run(["losetup", "--detach", device])
