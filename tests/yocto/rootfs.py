"""A root filesystem as do_rootfs leaves it, small: what the classes of the layer are given."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import yocto_release

from abupdate.release.version import Version

ROOT = Path(__file__).parent.parent.parent
LAYER = ROOT / "meta-abupdate"
STORE_USER = 970
PRODUCT = "test-pc"
CMDLINE = "console=ttyS0 quiet init_fatal_reboot"
KERNEL = "bzImage-6.18.0-yocto-standard"
# Of a file in it, with more than seconds.
TIME_NS = 1_700_000_000_123_456_789


def make(folder: Path) -> Path:
    """A new one, with a kernel, a user for the store, and GRUB's configuration."""
    for name in ("boot/efi", "data", "etc", "usr/bin", "usr/lib/abupdate", "var/log", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    (folder / "boot" / KERNEL).write_bytes(b"a kernel" * 1000)
    (folder / "boot/bzImage").symlink_to(KERNEL)
    (folder / "etc/passwd").write_text(
        f"root:x:0:0:root:/root:/bin/sh\nabupdate-store:x:{STORE_USER}:{STORE_USER}::/:/bin/false\n"
    )
    (folder / "usr/lib/os-release").write_text("ID=abupdate-demo\nIMAGE_VERSION=old\n")
    program = folder / "usr/bin/program"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o4755)
    os.link(program, folder / "usr/bin/same-program")
    os.utime(program, ns=(TIME_NS, TIME_NS))
    shutil.copytree(ROOT / "grub", folder / "usr/lib/abupdate/grub")
    return folder


def complete(folder: Path, version: str, signers: Path, compatible: str = PRODUCT) -> None:
    """What abupdate-image's functions do to it."""
    initrd = folder.with_name("initrd.cpio.gz")
    initrd.write_bytes(b"an initramfs" * 1000)
    wanted = yocto_release.Product(compatible, Version(version), CMDLINE, signers)
    yocto_release.prepare_rootfs(folder, initrd, wanted)
    yocto_release.whole_seconds(folder)


def tar(folder: Path, path: Path, owner: tuple[int, int] = (0, 0)) -> Path:
    """As IMAGE_CMD:tar does under pseudo: owners are not those of whoever runs it."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid, member.gid = owner
        member.uname = member.gname = ""
        return member

    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(folder, ".", filter=owned)
    return path
