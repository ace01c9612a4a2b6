"""Slots for the GRUB tests that hold a real, signed Linux with a tiny initrd (`init.c`).

The disk is made as a device's is (`qemu/image.py`), with the loaders for Secure Boot.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from image import DiskImage, Sizes
from secure_boot import Signed

from abupdate.boot.cmdline import abupdate_env, sha256sums
from abupdate.boot.state import BootState
from abupdate.disk.layout import MIB
from tests.grub.grubbox import HERE, LABELS, Disk
from tests.grub.sweep import no_wait

KERNEL, INITRD = "/boot/vmlinuz", "/boot/initrd"
CMDLINE = "console=ttyS0 quiet no_timer_check"

_SIZES = Sizes(root=24 * MIB, rescue=4 * MIB, boot=16 * MIB, disk=80 * MIB)
_COMPILER = (
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-stack-protector",
    "-mgeneral-regs-only",
)


def build_disk(image: Path, signed: Signed, state: BootState) -> Disk:
    """The same signed kernel in A and B, initrds that tell their slot; no rescue system."""
    disk = DiskImage.create(image, _SIZES)
    init = _compile(image.parent / "init")
    kernel = signed.kernel.read_bytes()
    for slot in "AB":
        tree = image.parent / slot
        _write_boot(tree / "boot", kernel, initrd(init, f"initrd-{slot}"))
        disk.add_ext4(LABELS[slot], LABELS[slot], tree)
    disk.add_ext4("rescue", "empty")
    disk.add_boot(state, signed)
    return no_wait(Disk(image, _SIZES.partitions()))


def _write_boot(boot: Path, kernel: bytes, content: bytes) -> None:
    boot.mkdir(parents=True)
    files = {
        "vmlinuz": kernel,
        "initrd": content,
        "abupdate.env": abupdate_env(KERNEL, INITRD, CMDLINE),
    }
    for name, raw in files.items():
        (boot / name).write_bytes(raw)
    digests = {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()}
    (boot / "SHA256SUMS").write_bytes(sha256sums(digests))


def _compile(program: Path) -> bytes:
    words: list[str | Path] = ["cc", "-O1", *_COMPILER, "-o", program, HERE / "init.c"]
    subprocess.run(words, check=True, timeout=60)
    return program.read_bytes()


def initrd(init: bytes, name: str) -> bytes:
    """An archive for the kernel: cpio in the format newc (initramfs buffer format)."""
    entries = [
        ("dev", 0o040755, b"", 0),
        ("dev/console", 0o020600, b"", 5 << 8 | 1),
        ("proc", 0o040755, b"", 0),
        ("init", 0o100755, init, 0),
        ("name", 0o100644, name.encode(), 0),
        ("TRAILER!!!", 0, b"", 0),
    ]
    return b"".join(_entry(*entry) for entry in entries)


def _entry(name: str, mode: int, content: bytes, device: int) -> bytes:
    path = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device, special device, length of name, check
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, device >> 8, device & 255, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(content)


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 4)
