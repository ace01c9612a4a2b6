"""A machine that only boots: real GRUB, its real configuration, and the probe kernel.

`Disk` is a small image of the real layout whose parts a test can damage;
`boot` starts it once in QEMU and tells what came up. The disk keeps what GRUB
wrote, as a real one would.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import write_log
from hardware import Bus, device_options, flash_options

from abupdate.boot import rules
from abupdate.boot.cmdline import BootArguments, abupdate_env, parse, sha256sums
from abupdate.disk import grubimage, partition
from abupdate.disk.layout import MIB, PartitionSpec, partitions
from abupdate.provision.grub import put_places, put_rules

HERE = Path(__file__).parent
GRUB = HERE.parent.parent / "grub"
# secure: UEFI with Secure Boot, on a machine that can run Linux.
Firmware = Literal["bios", "uefi", "secure"]

NUMBERS = {"R": 3, "A": 4, "B": 5}
LABELS = {"R": "rescue", "A": "rootA", "B": "rootB"}
_BOOT, _SLOT, _DISK = 8 * MIB, 8 * MIB, 40 * MIB

# What GRUB says before it waits and restarts the machine.
NOTHING_BOOTS = "abupdate: nothing boots"

_TIME_LIMIT = 90.0
_PROBE = re.compile(r"PROBE kernel=(\S*) initrd=(\S*) cmdline=([^\r\n]*)\r")


@dataclass(frozen=True)
class Booted:
    """What one start of the machine came to.

    `kernel` and `initrd` are the names that the probe and its initrd carry,
    None when GRUB restarted the machine instead. `text` is the serial port's.
    """

    kernel: str | None
    initrd: str | None
    cmdline: str
    text: str

    @property
    def arguments(self) -> BootArguments:
        """The command line as abupdate reads it."""
        return parse(self.cmdline)


def build_probe(scratch: Path) -> bytes:
    """Assemble the probe kernel; `named` gives it a name."""
    _run(["as", "--32", "-o", scratch / "probe.o", HERE / "probe.S"])
    _run(["objcopy", "-O", "binary", "-j", ".text", scratch / "probe.o", scratch / "probe"])
    return (scratch / "probe").read_bytes()


def named(probe: bytes, name: str) -> bytes:
    """The probe kernel that tells this name (at most 15 letters)."""
    place = b"@NAME@" + bytes(10)
    assert place in probe and len(name) < 16
    return probe.replace(place, name.encode().ljust(16, b"\0"))


def build_disk(image: Path, library: Path = grubimage.GRUB_LIBRARY) -> None:
    """Make the image: every slot sound, no grubenv yet."""
    specs = partitions(_SLOT, _SLOT, _BOOT)
    with image.open("wb") as file:
        file.truncate(_DISK)
    extents = partition.make_table(image, specs)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        grubimage.bios_core(GRUB, scratch / "core.img", library=library)
        grubimage.efi_image(GRUB, scratch / "boot.efi", library=library)
        core, place = (scratch / "core.img").read_bytes(), extents[0]
        boot_sector = grubimage.bios_boot_sector(library)
        grubimage.install_bios(image, core, boot_sector, place.start, place.size)
        put_places(image, grubimage.SECTOR)
        boot = f"{image}@@{extents[1].start}"
        _run(["mformat", "-i", boot, "-T", str(_BOOT // 512), "-h", "16", "-s", "32", "-v", "BOOT"])
        _run(["mmd", "-i", boot, "::/EFI", "::/EFI/BOOT", "::/grub"])
        _run(["mcopy", "-i", boot, scratch / "boot.efi", "::/EFI/BOOT/BOOTX64.EFI"])
        (scratch / "grub").mkdir()
        shutil.copy(GRUB / rules.SWITCH, scratch / "grub")
        put_rules(scratch / "grub", rules.filled((GRUB / rules.SOURCE).read_bytes()))
        for path in sorted((scratch / "grub").iterdir()):
            _run(["mcopy", "-i", boot, path, f"::/grub/{path.name}"])
        probe = build_probe(scratch)
        for slot, number in NUMBERS.items():
            tree = scratch / slot
            write_boot_files(tree / "boot", slot, probe)
            _make_ext4(image, extents[number - 1], LABELS[slot], tree)


def write_boot_files(boot: Path, slot: str, probe: bytes) -> None:
    """The `/boot` of a slot whose kernel and initrd carry its name."""
    boot.mkdir(parents=True)
    command_line = f"quiet console={slot}"
    files = {
        "vmlinuz-probe": named(probe, f"kernel-{slot}"),
        "initrd-probe": f"initrd-{slot}\n".encode(),
        "abupdate.env": abupdate_env("/boot/vmlinuz-probe", "/boot/initrd-probe", command_line),
    }
    for name, content in files.items():
        (boot / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (boot / "SHA256SUMS").write_bytes(sha256sums(digests))


def _make_ext4(image: Path, extent: partition.Extent, label: str, tree: Path) -> None:
    where: list[str | Path] = ["-E", f"offset={extent.start}", image, f"{extent.size // 1024}k"]
    _run(["mke2fs", "-t", "ext4", "-F", "-q", "-m", "0", "-L", label, "-d", tree, *where])


def _run(argv: Sequence[str | Path]) -> bytes:
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr.decode(errors='replace')}"
    return done.stdout


class Disk:
    """One disk of a test: a copy of the built one, to be damaged and booted.

    `specs`: its partitions, where they are not those of `build_disk`.
    """

    def __init__(
        self, image: Path, specs: Sequence[PartitionSpec] | None = None, sector: int = 512
    ) -> None:
        self.image = image
        self.sector = sector
        self._specs = specs or partitions(_SLOT, _SLOT, _BOOT)
        self.extents = partition.plan(image.stat().st_size, self._specs)

    def copy(self, image: Path) -> Disk:
        """The same disk as another file."""
        shutil.copyfile(self.image, image)
        return Disk(image, self._specs, self.sector)

    def write_boot(self, path: str, content: bytes | None) -> None:
        """Put a file on the boot partition, or take it away (None)."""
        if content is None:
            _run(["mdel", "-i", self._boot, f"::{path}"])
        else:
            with tempfile.NamedTemporaryFile() as file:
                file.write(content)
                file.flush()
                _run(["mcopy", "-o", "-i", self._boot, file.name, f"::{path}"])

    def read_boot(self, path: str) -> bytes:
        """A file of the boot partition."""
        return _run(["mtype", "-i", self._boot, f"::{path}"])

    def list_boot(self, folder: str) -> list[str]:
        """The names in a folder of the boot partition."""
        listing = _run(["mdir", "-b", "-i", self._boot, f"::{folder}"]).decode()
        return [path.rpartition("/")[2] for path in listing.split()]

    def write_slot(self, slot: str, path: str, content: bytes | None) -> None:
        """Put a file into a slot's filesystem, or take it away (None)."""
        commands = [f"rm {path}"]
        with tempfile.TemporaryDirectory() as scratch:
            if content is not None:
                (Path(scratch) / "file").write_bytes(content)
                commands.append(f"write {scratch}/file {path}")
            script = Path(scratch) / "script"
            script.write_text("".join(f"{command}\n" for command in commands))
            _run(["debugfs", "-w", "-f", script, self._slot(slot)])

    def read_slot(self, slot: str, path: str) -> bytes:
        """A file of a slot's filesystem."""
        return _run(["debugfs", "-R", f"cat {path}", self._slot(slot)])

    def first_block(self, slot: str, path: str) -> int:
        """Where the content of a file in a slot begins: bytes from the start of the disk."""
        block = int(_run(["debugfs", "-R", f"bmap {path} 0", self._slot(slot)]).split()[0])
        start = self.extents[NUMBERS[slot] - 1].start
        with self.image.open("rb") as file:
            file.seek(start + 1024 + 24)
            return start + block * (1024 << int.from_bytes(file.read(4), "little"))

    def relabel(self, slot: str, label: str) -> None:
        """Give a slot another filesystem label."""
        _run(["tune2fs", "-L", label, self._slot(slot)])

    def partuuid(self, slot: str) -> str:
        """A slot's partition UUID, read from the table itself."""
        with self.image.open("rb") as file:
            file.seek(2 * self.sector + (NUMBERS[slot] - 1) * 128 + 16)
            return str(uuid.UUID(bytes_le=file.read(16)))

    def read_partition(self, number: int) -> bytes:
        """All bytes of a partition, counted from 1."""
        extent = self.extents[number - 1]
        with self.image.open("rb") as file:
            file.seek(extent.start)
            return file.read(extent.size)

    def write_partition(self, number: int, content: bytes) -> None:
        """Replace all bytes of a partition."""
        extent = self.extents[number - 1]
        assert len(content) == extent.size
        with self.image.open("r+b") as file:
            file.seek(extent.start)
            file.write(content)

    @property
    def _boot(self) -> str:
        return f"{self.image}@@{self.extents[1].start}"

    def _slot(self, slot: str) -> str:
        return f"{self.image}?offset={self.extents[NUMBERS[slot] - 1].start}"


def boot(
    disk: Disk,
    firmware: Firmware = "bios",
    *,
    bus: Bus = "virtio",
    readonly: bool = False,
    keys: Sequence[tuple[str, bytes]] = (),
    twin: Path | None = None,
    unreadable: Sequence[int] = (),
    unwritable: Sequence[int] = (),
    log: Path | None = None,
    until: str | None = None,
    fast_clock: bool = False,
    limit: float = _TIME_LIMIT,
) -> Booted:
    """Switch the machine on once, until the probe kernel ran or GRUB restarts it.

    `bus`: how the disk is attached. `readonly`: nothing that GRUB writes is
    taken. `keys`: texts to wait for on the serial port, and what a person then
    types. `twin`: another disk, in front of this one. `unreadable`,
    `unwritable`: where a sector gives an error, bytes from the start of the
    disk. `log`: where all writes are kept. `until`: a text that ends the run as
    well. `fast_clock`: the machine's own time runs ahead. `limit`: seconds.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = _file(disk.image, unreadable, unwritable, log)
        command = _qemu(file, firmware, Path(scratch), readonly, twin)
        command += device_options("disk", bus, disk.sector, bootindex=1)
        command += ["-icount", "shift=7"] if fast_clock else []
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            text, ended = _converse(process, list(keys), until, time.monotonic() + limit)
        finally:
            process.kill()
            process.wait()
    found = _PROBE.search(text)
    if found is not None:
        return Booted(found[1], found[2], found[3], text)
    restarted = ended and process.returncode == 0  # -no-reboot: a restart ends QEMU
    if restarted or (until is not None and until in text):
        return Booted(None, None, "", text)
    raise AssertionError(f"neither a kernel nor a restart (QEMU: {process.returncode}):\n{text}")


def _qemu(
    file: str,
    firmware: Firmware,
    scratch: Path,
    readonly: bool,
    twin: Path | None,
) -> list[str]:
    secure = firmware == "secure"
    command = ["qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-no-reboot"]
    command += ["-machine", "q35,smm=on", "-m", "512"] if secure else ["-m", "192"]
    command += ["-display", "none", "-serial", "stdio", "-net", "none"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    if firmware != "bios":
        command += flash_options(scratch / "vars.fd", secure_boot=secure)
    if twin is not None:
        command += ["-drive", f"if=none,id=twin,format=raw,file={twin}"]
        command += ["-device", "virtio-blk-pci,drive=twin"]
    return [
        *command,
        "-drive",
        f"if=none,id=disk,format=raw,readonly={'on' if readonly else 'off'},{file}",
    ]


def _file(
    image: Path, unreadable: Sequence[int], unwritable: Sequence[int], log: Path | None
) -> str:
    """How QEMU opens the image: with a log of writes, or an I/O error at each of these bytes."""
    if log is not None:
        return write_log.drive_options(image, log)
    events = [("read_aio", at) for at in unreadable] + [("write_aio", at) for at in unwritable]
    if not events:
        return f"file={image}"
    faults = [
        f"file.inject-error.{number}.event={event},file.inject-error.{number}.sector={at // 512}"
        for number, (event, at) in enumerate(events)
    ]
    opened = f"file.driver=blkdebug,file.image.driver=file,file.image.filename={image}"
    return ",".join([opened, *faults])


def _converse(
    process: subprocess.Popen[bytes],
    keys: list[tuple[str, bytes]],
    until: str | None,
    deadline: float,
) -> tuple[str, bool]:
    """All that the serial port says, typing where asked; whether QEMU ended by itself."""
    assert process.stdout is not None and process.stdin is not None
    text, position = "", 0
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            break
        read = os.read(process.stdout.fileno(), 65536)
        if not read:
            process.wait(10)
            return text, True
        text += read.decode("latin-1")
        if until is not None and until in text:
            break
        while keys and (found := text.find(keys[0][0], position)) >= 0:
            position = found + len(keys[0][0])
            process.stdin.write(keys.pop(0)[1])
            process.stdin.flush()
    return text, False


def assert_booted(found: Booted, disk: Disk, boots: str | None, how: str | None) -> None:
    """The kernel, its initrd and its command line are those of this slot."""
    if boots is None:
        assert found.kernel is None and NOTHING_BOOTS in found.text, found.text
        return
    assert (found.kernel, found.initrd) == (f"kernel-{boots}", f"initrd-{boots}"), found.text
    arguments = found.arguments
    assert (arguments.slot, arguments.how) == (boots, how), found.text
    assert arguments.root_partuuid == disk.partuuid(boots)
    assert f" ro panic=30 quiet console={boots} abupdate.slot=" in found.cmdline
