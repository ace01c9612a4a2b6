"""Where the partitions of a new system are made: on a disk, or in a plain file that stands for one.

On a disk, the kernel's own filesystems are filled while they are mounted. In a file, each
is filled as a folder beside it and then made into a filesystem: so the same content
gives the same bytes, and holes stay holes.

Whatever was on it is out of reach after `begin`, and nothing starts from it before `finish`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from abupdate.disk import filesystem, gpt, grubimage, images, luks
from abupdate.disk.drive import partition_node, unfinished_mark
from abupdate.disk.layout import MIB, PartitionSpec
from abupdate.disk.partition import Extent, TableEntry, make_table
from abupdate.errors import BusyError, ContentDiffersError, DeviceFaultError
from abupdate.failpoints import failpoint

_WRITE_OPTIONS = "rw,nosuid,nodev,noexec,noatime"
_READ_OPTIONS = "ro,noload,nosuid,nodev,noexec,noatime"
_NODE_SECONDS = 10.0
_LOCK_SECONDS = 60.0
_LOOK = 0.05
_PIECE = 4 * MIB


@dataclass(frozen=True)
class Ids:
    """The ids of disk, partitions and filesystems: random, or for a reproducible image given.

    `of` gives the id that belongs to a name; `time`: seconds since the epoch that
    filesystems note instead of the clock's.
    """

    of: Callable[[str], UUID] | None = None
    time: int | None = None

    def stamp(self, name: str) -> images.Stamp:
        """That of a partition's filesystem."""
        return images.Stamp(self.of(f"filesystem {name}") if self.of else uuid4(), self.time)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else makes a disk of this one in the block. Raises `BusyError`.

    `path`: the plain file, or for a disk a file that stands for it: the disk's own lock would
    keep udev from it, and libparted waits for udev.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                "Another run is writing this disk or file.", "Wait until it has ended."
            ) from None
        yield
    finally:
        os.close(fd)


class Medium(ABC):
    """A disk that is being made. `sector` is what it counts in, in bytes."""

    def __init__(self, path: Path, sector: int, ids: Ids) -> None:
        self.path = path
        self.sector = sector
        self._ids = ids
        self._extents: dict[str, Extent] = {}
        self._table: gpt.Table | None = None
        self._held: tuple[int, bytes] | None = None
        self._lock: int | None = None

    def begin(
        self,
        specs: Sequence[PartitionSpec],
        extents: Sequence[Extent],
        keep: Sequence[TableEntry] = (),
    ) -> None:
        """Make the partition table; all but what is kept is lost from here on.

        Until `finish`, the boot sector says that it is not finished.
        """
        if not keep:
            self._forget()
        make_table(self.path, specs, self.sector, keep=keep, extents=extents, guid=self._ids.of)
        self._extents = {spec.name: one for spec, one in zip(specs, extents, strict=True)}
        self._table_made()
        self._table = gpt.read(self.path, self.sector)
        self._write_boot_code(unfinished_mark(None if keep else self._table))
        for spec, extent in zip(specs, extents, strict=True):
            self._empty(extent)
            self._appeared(spec)

    def extent(self, spec: PartitionSpec) -> Extent:
        """Where a partition is."""
        return self._extents[spec.name]

    def finish(
        self,
        bios: PartitionSpec | None,
        core: bytes,
        boot: bytes,
        places: Callable[[gpt.Table], bytes | None],
    ) -> None:
        """The last writes: what firmware starts. `bios`: where `core` goes, None for UEFI alone.

        `places`: what GRUB shall know where it cannot read the table.

        Raises `ContentDiffersError` where the disk does not hold the table that was made.
        """
        with self.path.open("rb", buffering=0) as file:
            self._drop_cache(file.fileno())
        if gpt.read(self.path, self.sector) != self._table:
            raise ContentDiffersError(
                f"{self.path} should hold the partition table that was made, and does not.",
                "Run it again; if it happens twice, the disk is failing.",
            )
        if self._table is not None and (told := places(self._table)) is not None:
            grubimage.put_places(self.path, told)
        if self._held is not None:
            at, first = self._held
            with self.path.open("r+b", buffering=0) as file:
                _write_all(file.fileno(), first, at)
                os.fsync(file.fileno())
                self._drop_cache(file.fileno())
                if os.pread(file.fileno(), len(first), at) != first:
                    raise _not_kept(self.path, at)
            failpoint("esp-written")
        if bios is None:
            self._write_boot_code(b"")
        else:
            extent = self.extent(bios)
            grubimage.install_bios(self.path, core, boot, extent.start, extent.size)

    def write(self, spec: PartitionSpec, image: Path, *, hold: bool = False) -> None:
        """Make a partition equal to a file of its size, and read it back.

        `hold`: its first sector comes with `finish`, and until then it is no filesystem.
        """
        extent = self.extent(spec)
        if hold:
            with image.open("r+b", buffering=0) as file:
                self._held = (extent.start, os.pread(file.fileno(), self.sector, 0))
                _write_all(file.fileno(), bytes(self.sector), 0)
        with image.open("rb") as source, self.path.open("r+b", buffering=0) as target:
            fd = target.fileno()
            self._each(source.fileno(), extent, lambda piece, at: _write_all(fd, piece, at))
            os.fsync(fd)
            self._drop_cache(fd)

            def compare(piece: bytes, at: int) -> None:
                if os.pread(fd, len(piece), at) != piece:
                    raise _not_kept(self.path, at)

            self._each(source.fileno(), extent, compare)

    @abstractmethod
    def filling(
        self, spec: PartitionSpec, at: Path, label: str | None = None
    ) -> AbstractContextManager[Path]:
        """The folder `at`: what is in it after the block is that ext4 partition's content.

        `label`: another one than the layout's.
        """

    @abstractmethod
    def reading(self, spec: PartitionSpec, at: Path) -> AbstractContextManager[Path]:
        """The folder `at` with what an ext4 partition holds, as it is on the disk."""

    @abstractmethod
    def kept(
        self, entry: TableEntry, at: Path, *, read_only: bool = False
    ) -> AbstractContextManager[Path]:
        """The folder `at` with what a partition that is kept holds, to be written to or read."""

    @abstractmethod
    def superblock(self, spec: PartitionSpec) -> filesystem.Superblock:
        """That of an ext4 partition."""

    @abstractmethod
    def _forget(self) -> None:
        """Whatever could be recognised on it before is gone."""

    @abstractmethod
    def _empty(self, extent: Extent) -> None:
        """Whatever could be recognised in a new partition is gone."""

    @abstractmethod
    def _table_made(self) -> None:
        """From here on nobody else looks at the table."""

    def close(self) -> None:
        """Others may look at it again; once or more often."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _appeared(self, spec: PartitionSpec) -> None:
        """Wait until a new partition can be used."""
        del spec  # a part of a file can be used at once

    def _drop_cache(self, fd: int) -> None:
        """What is read next comes from the disk."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _write_boot_code(self, code: bytes) -> None:
        padded = code.ljust(grubimage.CODE_END, b"\0")
        with self.path.open("r+b", buffering=0) as file:
            _write_all(file.fileno(), padded, 0)
            os.fsync(file.fileno())

    def _each(self, fd: int, extent: Extent, use: Callable[[bytes, int], None]) -> None:
        for at in range(0, extent.size, _PIECE):
            use(os.pread(fd, min(_PIECE, extent.size - at), at), extent.start + at)


class DiskMedium(Medium):
    """A disk of this machine. `key`: the file that opens the partitions that are encrypted."""

    def __init__(self, path: Path, sector: int, ids: Ids, key: Path | None = None) -> None:
        super().__init__(path, sector, ids)
        self._key = key

    @contextmanager
    def filling(self, spec: PartitionSpec, at: Path, label: str | None = None) -> Iterator[Path]:
        node = self._node(spec)
        if spec.encrypted and self._key is not None:
            luks.encrypt(node, self._key)
        with self._opened(node, encrypted=spec.encrypted) as device:
            filesystem.make(device, label or spec.label or "", filesystem.INODE_RATIO)
            with filesystem.mounted(device, at, _WRITE_OPTIONS), _synced(at):
                yield at
            filesystem.flush(device)
            filesystem.drop_cache(device)
            filesystem.check(device)
        filesystem.flush(node)

    def _opened(self, node: Path, *, encrypted: bool) -> AbstractContextManager[Path]:
        if encrypted and self._key is not None:
            return luks.opened(node, self._key)
        return nullcontext(node)

    @contextmanager
    def reading(self, spec: PartitionSpec, at: Path) -> Iterator[Path]:
        node = self._node(spec)
        filesystem.drop_cache(node)
        with (
            self._opened(node, encrypted=spec.encrypted) as device,
            filesystem.mounted(device, at, _READ_OPTIONS),
        ):
            yield at

    @contextmanager
    def kept(self, entry: TableEntry, at: Path, *, read_only: bool = False) -> Iterator[Path]:
        node = self._node(entry)
        filesystem.drop_cache(node)
        with self._opened(node, encrypted=entry.encrypted) as device:
            if not read_only:
                filesystem.repair(device)
            options = _READ_OPTIONS if read_only else _WRITE_OPTIONS
            with filesystem.mounted(device, at, options), _synced(at):
                yield at
            if not read_only:
                filesystem.flush(device)
                filesystem.flush(node)

    def superblock(self, spec: PartitionSpec) -> filesystem.Superblock:
        return _read_superblock(self._node(spec))

    def _forget(self) -> None:
        with self.path.open("r+b", buffering=0) as file:
            size = os.lseek(file.fileno(), 0, os.SEEK_END)
            for at in (0, size - MIB):
                _write_all(file.fileno(), bytes(MIB), at)
            os.fsync(file.fileno())

    def _empty(self, extent: Extent) -> None:
        with self.path.open("r+b", buffering=0) as file:
            for at in {extent.start, extent.end - MIB}:
                _write_all(file.fileno(), bytes(MIB), at)
            os.fsync(file.fileno())

    def _table_made(self) -> None:
        """Keep udev from the disk: whenever it was opened to be written, udev has the kernel read
        the table anew, and every partition is gone for a moment.

        Not before: libparted waits until udev has seen the new table. Its lock is `flock`
        (systemd, "Locking Block Device Access").
        """
        self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"{self.path} has been locked by another program for {_LOCK_SECONDS:g} s.",
                        f"`lsof {self.path}` may tell by which.",
                    ) from None
                time.sleep(_LOOK)

    def _appeared(self, spec: PartitionSpec) -> None:
        deadline = time.monotonic() + _NODE_SECONDS
        while (node := partition_node(self.path, spec.number)) is None or not node.exists():
            if time.monotonic() > deadline:
                raise DeviceFaultError(
                    f"The kernel should show partition {spec.number} of {self.path}, and has not "
                    f"within {_NODE_SECONDS:g} s.",
                    "A loop device needs `losetup --partscan`; `dmesg` may tell more.",
                )
            time.sleep(_LOOK)

    def _node(self, part: PartitionSpec | TableEntry) -> Path:
        node = partition_node(self.path, part.number)
        if node is None:
            raise DeviceFaultError(
                f"{self.path} should have partition {part.number} still, and it is gone.",
                "Was the disk unplugged?",
            )
        return node

    def _drop_cache(self, fd: int) -> None:
        filesystem.drop_cache(self.path)


class FileMedium(Medium):
    """A plain file. Needs a place beside it for the largest of its partitions."""

    @contextmanager
    def filling(self, spec: PartitionSpec, at: Path, label: str | None = None) -> Iterator[Path]:
        extent, stamp = self.extent(spec), self._ids.stamp(spec.name)
        at.mkdir(parents=True, exist_ok=True)
        yield at
        with scratch(self.path.parent, f".part-{self.path.name}-") as folder:
            part = folder / "ext4"
            name = label or spec.label or ""
            images.make_ext4(part, extent.size, name, at, self.sector, stamp)
            _keep_times(part, at, folder / "mounted", stamp)
            images.copy_sparse(part, self.path, extent.start)
        shutil.rmtree(at)
        with self.path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())

    @contextmanager
    def reading(self, spec: PartitionSpec, at: Path) -> Iterator[Path]:
        extent = self.extent(spec)
        with self.path.open("rb", buffering=0) as file:
            self._drop_cache(file.fileno())
        where = f"loop,offset={extent.start},sizelimit={extent.size}"
        with filesystem.mounted(self.path, at, f"{_READ_OPTIONS},{where}"):
            yield at

    @contextmanager
    def kept(self, entry: TableEntry, at: Path, *, read_only: bool = False) -> Iterator[Path]:
        where = f"loop,offset={entry.extent.start},sizelimit={entry.extent.size}"
        options = _READ_OPTIONS if read_only else _WRITE_OPTIONS
        with filesystem.mounted(self.path, at, f"{options},{where}"), _synced(at):
            yield at

    def superblock(self, spec: PartitionSpec) -> filesystem.Superblock:
        return _read_superblock(self.path, self.extent(spec).start)

    def _table_made(self) -> None:
        """A file has nobody who looks at its table."""

    def _forget(self) -> None:
        with self.path.open("r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            file.truncate(0)
            file.truncate(size)

    def _empty(self, extent: Extent) -> None:
        with self.path.open("r+b", buffering=0) as file:
            for start, end in images.data_runs(file.fileno(), extent.start, extent.end):
                for at in range(start, end, _PIECE):
                    _write_all(file.fileno(), bytes(min(_PIECE, end - at)), at)


def _keep_times(part: Path, folder: Path, mounted: Path, stamp: images.Stamp) -> None:
    """Of what was filled in with more than seconds, find the inodes and give them their times."""
    wanted = {
        os.path.relpath(one, os.fsencode(folder)): time_ns
        for one, time_ns in _mtimes(os.fsencode(folder))
        if images.needs_set_mtime(time_ns)
    }
    if not wanted:
        return
    with filesystem.mounted(part, mounted, f"{_READ_OPTIONS},loop"):
        top = os.fsencode(mounted)
        numbers = {os.lstat(top + b"/" + one).st_ino: at for one, at in wanted.items()}
    images.set_mtimes(part, numbers, stamp)


def _mtimes(folder: bytes) -> Iterator[tuple[bytes, int]]:
    with os.scandir(folder) as found:
        for one in found:
            status = one.stat(follow_symlinks=False)
            yield one.path, status.st_mtime_ns
            if one.is_dir(follow_symlinks=False):
                yield from _mtimes(one.path)


@contextmanager
def _synced(folder: Path) -> Iterator[None]:
    """What is written in the block is on the disk after it, errors of writing back told."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield
        filesystem.syncfs(fd)
    finally:
        os.close(fd)


@contextmanager
def scratch(folder: Path, prefix: str) -> Iterator[Path]:
    """A new folder in another, gone after the block; so are those that killed runs have left.

    Whoever works in one has locked it.
    """
    for left in folder.glob(f"{prefix}*"):
        if (fd := _lock_folder(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(fd)
    fd = None
    while fd is None:  # another run may have taken it for one that is left
        path = Path(tempfile.mkdtemp(dir=folder, prefix=prefix))
        fd = _lock_folder(path)
    try:
        yield path
    finally:
        shutil.rmtree(path)
        os.close(fd)


def _lock_folder(folder: Path) -> int | None:
    """A descriptor that has it locked; None where another has, or it is gone."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.stat().st_ino == os.fstat(fd).st_ino:
            return fd
    os.close(fd)
    return None


def _read_superblock(path: Path, offset: int = 0) -> filesystem.Superblock:
    found = filesystem.read_superblock(path, offset)
    if found is None:
        raise DeviceFaultError(
            f"{path} should hold the filesystem that was just made, and it cannot be read.",
            "The disk may be failing.",
        )
    return found


def _not_kept(path: Path, at: int) -> ContentDiffersError:
    return ContentDiffersError(
        f"{path} should hold what was written at byte {at}, and does not.",
        "Run it again; if it happens twice, the disk is failing.",
    )


def _write_all(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
