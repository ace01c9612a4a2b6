"""A disk as a person sees it before it is written: which one, how large, what is on it.

Only reads, and never opens a disk for writing: what is on it comes from `lsblk`, `blkid` and
`gpt`; the partitions of an MBR from the kernel, or of a plain file from libparted.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abupdate.disk import gpt, luks
from abupdate.disk.filesystem import mounts, unmount_leftover
from abupdate.disk.grubimage import CODE_END
from abupdate.disk.images import data_runs
from abupdate.disk.layout import BOOT, BOOT_LABEL, MIB
from abupdate.disk.partition import Extent, TableEntry, read_table
from abupdate.errors import DeviceFaultError, RefusedError, UsageError
from abupdate.run import run

_SYSFS = Path("/sys/class/block")
_COLUMNS = "NAME,PATH,TYPE,MODEL,SERIAL,TRAN,SIZE,LOG-SEC,RO,MOUNTPOINTS"
_LOOK_SECONDS = 60.0
_NOTHING_FOUND = 2  # blkid's exit code
_OFD_GETLK = 36  # fcntl.h; the module has no name for it

# The boot sector of a disk whose first install has not finished: it says so, and hands
# over to what the BIOS tries next (INT 18h). Its length is below grubimage.CODE_END.
_TEXT = b"abupdate: the first install of this disk has not finished.\r\n\0"
_UNFINISHED = bytes.fromhex("31c08ed8be1b7cfcac84c07409b40ebb0700cd10ebf2cd18f4ebfd") + _TEXT
assert len(_UNFINISHED) + 20 <= CODE_END


@dataclass(frozen=True)
class Content:
    """What a disk or partition holds, as blkid names it: `kind` is ext4, vfat, crypto_LUKS…"""

    kind: str
    label: str | None = None


@dataclass(frozen=True)
class Found:
    """A partition that is there."""

    entry: TableEntry
    content: Content | None


@dataclass(frozen=True)
class Drive:
    """A whole disk, or a plain file that stands for one. Sizes in bytes.

    `table` is gpt, dos or None; `whole` what it holds without a table. `damaged`: why its table
    cannot be read. `guid` and `usable` (where partitions may be) are a GPT's. `blank`: a file of
    zeros. `unfinished`: a first install of ours began and did not end, so that nothing on it is
    anybody's.
    """

    path: Path
    is_file: bool
    model: str | None
    serial: str | None
    transport: str | None
    size: int
    sector: int
    readonly: bool
    table: str | None
    whole: Content | None
    partitions: tuple[Found, ...]
    unfinished: bool = False
    damaged: str | None = None
    guid: str | None = None
    usable: Extent | None = None
    blank: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on it: of a disk, nothing that anybody knows."""
        return self.table is None and self.whole is None and (self.blank or not self.is_file)

    @property
    def name(self) -> str:
        """What a person types to say that it is this one: the serial, else model, else name."""
        return self.serial or self.model or self.path.name


def look(path: Path, sector: int = 512) -> Drive:
    """The disk at a path, or the plain file. `sector`: what a plain file counts in.

    Raises `RefusedError` for what is no whole disk, `UsageError` where there is nothing.
    """
    path = path.resolve()
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(
            f"A disk should be at {path}: {error.strerror}.",
            "`lsblk -o PATH,MODEL,SERIAL,SIZE` lists disks; for a new file give --size.",
        ) from error
    if stat.S_ISREG(status.st_mode):
        return _file(path, status.st_size, sector)
    if stat.S_ISBLK(status.st_mode):
        return _disk(path)
    raise RefusedError(
        f"{path} should be a whole disk or a plain file, and is neither.",
        "`lsblk -o PATH,MODEL,SERIAL,SIZE` lists disks.",
    )


def new_file(path: Path, size: int, sector: int) -> Drive:
    """What a plain file will be that is not there yet."""
    return Drive(
        path=path.absolute(),
        is_file=True,
        model=None,
        serial=None,
        transport=None,
        size=size,
        sector=sector,
        readonly=False,
        table=None,
        whole=None,
        partitions=(),
        blank=True,
    )


def _file(path: Path, size: int, sector: int) -> Drive:
    return replace(
        new_file(path, size, sector),
        readonly=not os.access(path, os.W_OK),
        blank=_is_blank(path),
        **_contents(path, sector, is_file=True),
    )


def _disk(path: Path) -> Drive:
    found = _lsblk(path)
    if found["type"] not in ("disk", "loop"):
        what = {"part": "a partition"}.get(found["type"], f"of type '{found['type']}'")
        raise RefusedError(
            f"{path} should be a whole disk, and is {what}.",
            "Firmware starts from whole disks, and the table is theirs: give the disk itself.",
        )
    sector = int(found["log-sec"])
    return Drive(
        path=path,
        is_file=False,
        model=_text(found["model"]),
        serial=_text(found["serial"]),
        transport=_text(found["tran"]),
        size=int(found["size"]),
        sector=sector,
        readonly=bool(found["ro"]),
        **_contents(path, sector, is_file=False),
    )


def _contents(path: Path, sector: int, *, is_file: bool) -> dict[str, Any]:
    whole = _blkid(path)
    kind, damaged, table = whole.get("PTTYPE"), None, None
    try:
        table = gpt.read(path, sector)
        if table is None and kind in ("gpt", "PMBR"):
            damaged = "there is none in sectors of that size"
    except gpt.DamagedTableError as error:
        damaged = str(error)
    if table is not None:
        entries = list(table.entries)
    elif damaged is None and kind is not None:
        entries = read_table(path, sector) if is_file else list(_kernels_partitions(path))
    else:
        entries = []
    partitions = tuple(_found(path, entry) for entry in entries)
    content = whole.get("TYPE")
    return {
        "table": "gpt" if table is not None or damaged is not None else kind,
        "damaged": damaged,
        "guid": str(table.guid) if table is not None else None,
        "usable": table.usable if table is not None else None,
        "whole": Content(content, whole.get("LABEL")) if content else None,
        "partitions": partitions,
        "unfinished": table is not None and _is_unfinished(path, table, partitions),
    }


def _found(path: Path, entry: TableEntry) -> Found:
    content = _content_at(path, entry.extent)
    encrypted = content is not None and content.kind == luks.KIND
    return Found(replace(entry, encrypted=encrypted), content)


def unfinished_mark(table: gpt.Table | None) -> bytes:
    """What the boot sector begins with until a first install has finished.

    `table`: the one that it made, None where partitions of somebody were kept: another run
    then may not do as it likes.
    """
    own = struct.pack("<16sI", table.guid.bytes_le, table.checksum) if table else bytes(20)
    return _UNFINISHED + own


def _is_unfinished(path: Path, table: gpt.Table, partitions: tuple[Found, ...]) -> bool:
    """Marked so for this very table, and without the boot partition, which is made last."""
    mark = unfinished_mark(table)
    with path.open("rb", buffering=0) as file:
        marked = os.pread(file.fileno(), len(mark), 0) == mark
    return marked and not any(
        found.entry.name == BOOT and found.content and found.content.label == BOOT_LABEL
        for found in partitions
    )


def _is_blank(path: Path) -> bool:
    """Whether a file has nothing but zeros."""
    with path.open("rb", buffering=0) as file:
        for start, end in data_runs(file.fileno()):
            for at in range(start, end, MIB):
                if any(os.pread(file.fileno(), min(MIB, end - at), at)):
                    return False
    return True


def _kernels_partitions(disk: Path) -> Iterator[TableEntry]:
    for number, folder in _partition_folders(disk).items():
        event = dict(
            line.split("=", 1) for line in (folder / "uevent").read_text().splitlines() if line
        )
        yield TableEntry(
            number,
            event.get("PARTNAME", ""),
            # sysfs counts in 512 bytes, whatever the disk does.
            Extent(
                int((folder / "start").read_text()) * 512, int((folder / "size").read_text()) * 512
            ),
        )


def partition_node(disk: Path, number: int) -> Path | None:
    """The device of a partition, as the kernel has it; None where it has none."""
    folder = _partition_folders(disk).get(number)
    return disk.with_name(folder.name) if folder is not None else None


def _partition_folders(disk: Path) -> dict[int, Path]:
    found = {}
    for path in (_SYSFS / disk.name).glob("*/partition"):
        with suppress(FileNotFoundError):  # udev may have the table read anew at any moment
            found[int(path.read_text())] = path.parent
    return dict(sorted(found.items()))


def _content_at(path: Path, extent: Extent) -> Content | None:
    told = _blkid(path, "-O", str(extent.start), "-S", str(extent.size))
    kind = told.get("TYPE")
    return Content(kind, told.get("LABEL") or told.get("LABEL_FATBOOT")) if kind else None


def content(path: Path) -> Content | None:
    """What a partition holds, as far as blkid knows it."""
    told = _blkid(path)
    kind = told.get("TYPE")
    return Content(kind, told.get("LABEL") or told.get("LABEL_FATBOOT")) if kind else None


def _blkid(path: Path, *where: str) -> dict[str, str]:
    ok = (0, _NOTHING_FOUND)
    words: list[str | Path] = ["blkid", "--probe", "--output", "export", *where, path]
    told = run(words, ok=ok, timeout=_LOOK_SECONDS).stdout.decode(errors="replace")
    return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)


def _lsblk(path: Path) -> dict[str, Any]:
    words: list[str | Path] = ["lsblk", "--json", "--bytes", "--output", _COLUMNS, path]
    told = json.loads(run(words, timeout=_LOOK_SECONDS).stdout)
    found: dict[str, Any] = told["blockdevices"][0]
    return found


def disks() -> list[Path]:
    """The whole disks of this machine that could take a system, in the kernel's order."""
    told = json.loads(
        run(["lsblk", "--json", "--nodeps", "--output", "PATH,TYPE,RM,RO,SIZE"]).stdout
    )
    return [
        Path(one["path"])
        for one in told["blockdevices"]
        if one["type"] == "disk" and not Path(one["path"]).name.startswith(("zram", "ram", "fd"))
    ]


def refuse_if_used(drive: Drive) -> None:
    """Raise `RefusedError` when anything of a disk or file is in use.

    The kernel knows more than what is mounted here: whoever has a partition of it (swap,
    RAID, encryption, another mount namespace) has claimed it, and with it the disk.
    """
    if drive.is_file:
        _refuse_attached(drive.path)
        return
    uses = list(_uses(_lsblk(drive.path)))
    running = [text for point, text in uses if point == "/"]
    if running:
        raise RefusedError(
            f"{drive.path} holds the system that runs: {'; '.join(text for _, text in uses)}.",
            "Start another system (an installer from a stick, or rescue) to write this disk.",
        )
    if uses:
        raise RefusedError(
            f"{drive.path} must not be in use, and it is: {'; '.join(text for _, text in uses)}.",
            "Unmount or close what uses it, if it is the right disk.",
        )
    try:
        os.close(os.open(drive.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise DeviceFaultError(f"{drive.path} cannot be opened: {error.strerror}.") from error
        raise RefusedError(
            f"{drive.path} must not be in use, but something has a hold of it that is not among "
            "the mounts seen from here.",
            f"A container, swap, RAID or device-mapper? `lsblk {drive.path}` may tell.",
        ) from error


def _uses(device: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Mount points and other uses of a device and all that lies on it, with words for them."""
    for point in device.get("mountpoints") or []:
        if point == "[SWAP]":
            yield point, f"{device['path']} is swap"
        elif point:
            yield point, f"{device['path']} is mounted at {point}"
    for child in device.get("children") or []:
        if child["type"] != "part":
            yield "", f"{child['path']} ({child['type']}) lies on {device['path']}"
        yield from _uses(child)


def _refuse_attached(path: Path) -> None:
    with path.open("rb") as file:
        # What QEMU holds on the disks of a machine that runs (struct flock, F_OFD_GETLK).
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        if struct.unpack("hhqqi4x", fcntl.fcntl(file, _OFD_GETLK, asked))[0] != fcntl.F_UNLCK:
            raise RefusedError(
                f"{path} must not be in use, and another program has locked it.",
                f"A virtual machine? `lsof {path}` may tell.",
            )
    for name in loops_of(path):
        points = [entry.target for entry in mounts() if entry.device_number == _number(name)]
        raise RefusedError(
            f"{path} must not be in use, and /dev/{name} is attached to it"
            + (f", mounted at {points[0]}." if points else "."),
            f"Free it first: umount {points[0]}" if points else f"losetup --detach /dev/{name}",
        )


def loops_of(path: Path) -> list[str]:
    """The names of the loop devices that a file is attached to."""
    wanted, found = path.stat(), []
    for folder in _SYSFS.glob("loop*/loop"):
        try:
            backing = Path((folder / "backing_file").read_text().strip()).stat()
        except OSError:
            continue
        if (backing.st_dev, backing.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(folder.parent.name)
    return found


def unmount_leftovers(path: Path, below: str) -> None:
    """Unmount what a killed run has mounted of a file, at paths that begin with `below`."""
    for name in loops_of(path):
        for entry in mounts():
            if entry.device_number == _number(name) and entry.target.startswith(below):
                unmount_leftover(Path(entry.target))


def _number(name: str) -> str:
    return (_SYSFS / name / "dev").read_text().strip()


def _text(value: object) -> str | None:
    text = str(value).strip() if value is not None else ""
    return text or None
