"""Filesystems made in plain files, without mounting anything: ext4, and vfat for the ESP.

They are the same for the same content, id and time: whatever differs from one run to
the next (ids, the times that a filesystem notes for itself) can be given.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from abupdate.disk import filesystem
from abupdate.disk.layout import BOOT_LABEL, MIB
from abupdate.errors import DeviceFaultError
from abupdate.run import run

_HEAD, _PIECE = 4096, 4 * MIB
_MAKE_SECONDS = 1800.0


@dataclass(frozen=True)
class Stamp:
    """What would differ from run to run: a filesystem's ids, and its own times.

    `time`: seconds since the epoch; None lets each program take its own.
    """

    uuid: UUID
    time: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For mke2fs, e2fsck, debugfs (E2FSPROGS_FAKE_TIME) and mtools (SOURCE_DATE_EPOCH)."""
        if self.time is None:
            return {"TZ": "UTC"}
        text = str(self.time)
        return {"TZ": "UTC", "SOURCE_DATE_EPOCH": text, "E2FSPROGS_FAKE_TIME": text}


def make_ext4(
    path: Path,
    size: int,
    label: str,
    content: Path | None = None,
    sector: int = 512,
    stamp: Stamp | None = None,
) -> None:
    """An ext4 in a file, with the files of a folder (owners and times included)."""
    stamp = stamp or Stamp(uuid4())
    with path.open("wb") as file:
        file.truncate(size)
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-L", label]
    words += ["-i", str(filesystem.INODE_RATIO), "-O", filesystem.FEATURES]
    # Whole inodes: small filesystems would have no room for nanoseconds and what is after 2038.
    words += ["-I", "256", "-U", str(stamp.uuid), "-E", f"hash_seed={stamp.uuid}"]
    if sector > 1024:
        # A block is at least a sector; small filesystems would have less.
        words += ["-b", str(sector)]
    if content is not None:
        words += ["-d", str(content)]
    run([*words, path], timeout=_MAKE_SECONDS, env=stamp.environment)
    if content is not None:
        _complete(path, content, stamp)
    run(["e2fsck", "-fn", path], timeout=_MAKE_SECONDS)


def _complete(path: Path, content: Path, stamp: Stamp) -> None:
    """The root folder, which `mke2fs -d` leaves as it made it, and (with a time) change times."""
    root = content.lstat()
    fields: list[tuple[int, str, object]] = [
        (2, "mode", f"0{root.st_mode:o}"),
        (2, "uid", root.st_uid),
        (2, "gid", root.st_gid),
        *_mtime(2, root.st_mtime_ns),
    ]
    if stamp.time is not None:
        for number in _used_inodes(path):
            for name in ("atime", "ctime"):
                fields += [(number, name, f"@{stamp.time}"), (number, f"{name}_extra", 0)]
    _set_fields(path, fields, stamp)
    if stamp.time is not None:
        # What it took to make it, in KiB.
        run(
            ["debugfs", "-w", "-R", "set_super_value kbytes_written 0", path],
            env=stamp.environment,
        )


def set_mtimes(path: Path, times: Mapping[int, int], stamp: Stamp) -> None:
    """Give inodes their times of change in nanoseconds; `mke2fs -d` knows seconds only."""
    fields = [field for number, time in times.items() for field in _mtime(number, time)]
    _set_fields(path, fields, stamp)


def needs_set_mtime(mtime_ns: int) -> bool:
    """Whether `mke2fs -d` cannot keep a time: more than seconds, or more than 32 bits of them."""
    seconds, nanoseconds = divmod(mtime_ns, 10**9)
    return nanoseconds != 0 or not -(1 << 31) <= seconds < 1 << 31


def _mtime(number: int, mtime_ns: int) -> list[tuple[int, str, object]]:
    """Format: kernel docs, ext4, "Inode Timestamps": 34 bits of seconds, 30 of nanoseconds."""
    seconds, nanoseconds = divmod(mtime_ns, 10**9)
    low = (seconds + (1 << 31)) % (1 << 32) - (1 << 31)
    extra = nanoseconds << 2 | (seconds - low) >> 32 & 3
    return [(number, "mtime", f"@{low}"), (number, "mtime_extra", extra)]


def _set_fields(path: Path, fields: Sequence[tuple[int, str, object]], stamp: Stamp) -> None:
    lines = (f"set_inode_field <{number}> {name} {value}\n" for number, name, value in fields)
    script = "".join(lines).encode()
    run(["debugfs", "-w", "-f", "-", path], stdin=script, env=stamp.environment)


def _used_inodes(path: Path) -> list[int]:
    """The root and what was made in it; not ext4's own inodes before 11."""
    told = run(["dumpe2fs", path], timeout=_MAKE_SECONDS).stdout.decode(errors="replace")
    count = int(re.findall(r"^Inode count:\s+(\d+)", told, re.M)[0])
    used = set(range(11, count + 1))
    for ranges in re.findall(r"^  Free inodes: (.+)", told, re.M):
        for one in ranges.split(", "):
            first, _, last = one.partition("-")
            used -= set(range(int(first), int(last or first) + 1))
    return [2, *sorted(used)]


def make_vfat(
    path: Path,
    size: int,
    content: Path,
    sector: int = 512,
    stamp: Stamp | None = None,
    label: str = BOOT_LABEL,
) -> None:
    """A FAT filesystem in a file, with the files of a folder; by default the ESP's."""
    stamp = stamp or Stamp(uuid4())
    with path.open("wb") as file:
        file.truncate(size)
    geometry = ("-M", str(sector), "-T", str(size // sector), "-N", stamp.uuid.hex[:8])
    run(["mformat", "-i", path, *geometry, "-v", label, "::"], env=stamp.environment)
    # One by one and sorted: `mcopy -s` takes a folder as it lies on the disk.
    for one in sorted(content.rglob("*")):
        target = f"::/{one.relative_to(content)}"
        words = ["mmd"] if one.is_dir() else ["mcopy", "-m"]
        run([*words, "-i", path, *([] if one.is_dir() else [one]), target], env=stamp.environment)


def copy_sparse(source: Path, target: Path, offset: int) -> None:
    """Copy a file into another one at `offset`; holes stay holes."""
    with source.open("rb", buffering=0) as reader, target.open("r+b", buffering=0) as writer:
        for start, end in data_runs(reader.fileno()):
            position = os.lseek(writer.fileno(), offset + start, os.SEEK_SET) - offset
            while position < end:
                left = end - position
                position += os.sendfile(writer.fileno(), reader.fileno(), position, left)


def put(image: Path, device: Path) -> None:
    """Make a device equal to a file of its size, read back from the disk.

    Its first 4 KiB come last: until then it holds no filesystem that anybody knows, wherever
    the power goes. Raises `DeviceFaultError`.
    """
    with image.open("rb", buffering=0) as source, device.open("r+b", buffering=0) as target:
        size = os.fstat(source.fileno()).st_size
        _place(target.fileno(), device, bytes(_HEAD), 0)
        for at in range(_HEAD, size, _PIECE):
            piece = os.pread(source.fileno(), min(_PIECE, size - at), at)
            _place(target.fileno(), device, piece, at)
        _place(target.fileno(), device, os.pread(source.fileno(), _HEAD, 0), 0)


def _place(fd: int, device: Path, data: bytes, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if os.pread(fd, len(data), at) != data:
        raise DeviceFaultError(
            f"{device} should hold what was written at byte {at}, and does not.",
            "The disk does not keep what is written to it.",
        )


def content_hash(path: Path) -> str:
    """SHA-256 over all data of a sparse file and where it is; quick, unlike its holes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for start, end in data_runs(file.fileno()):
            digest.update(f"{start} {end}\0".encode())
            for at in range(start, end, MIB):
                digest.update(os.pread(file.fileno(), min(MIB, end - at), at))
    return digest.hexdigest()


def data_runs(fd: int, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data from `first` to `last`: start and end of each run."""
    size = os.fstat(fd).st_size if last is None else last
    end = first
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < end:
            yield start, end
