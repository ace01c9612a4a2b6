"""What the classes of this layer run while an image is built: a rootfs becomes a release.

    rootfs ROOTFS         kernel, initramfs, configuration and keys, where a device looks for them
    whole-seconds ROOTFS  times that a tar and an ext4 both keep
    bundle TAR            the commit, its signature, the bundle and the deltas
    parts BUNDLE          the partitions of a new device (yocto_disk.py)
    finish DISK           what is outside of partitions (yocto_disk.py)
    grub-images FOLDER    GRUB's images, from the modules that were built
    demo-keys FOLDER      a key for trying things out, made once

Runs with the native Python and abupdate-native; programs are those of the build's PATH.
"""

from __future__ import annotations

import argparse
import compileall
import fcntl
import os
import py_compile
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yocto_disk

from abupdate import run
from abupdate.bundle.write import create
from abupdate.config import load
from abupdate.disk import grubimage
from abupdate.errors import AbupdateError, SourceError, UsageError
from abupdate.events import Event, EventKind, Events
from abupdate.paths import Paths
from abupdate.provision import grub
from abupdate.publish import publisher
from abupdate.publish.bootfiles import write_boot_files
from abupdate.release.toml import value_text
from abupdate.release.version import Version
from abupdate.rescue.release import product
from abupdate.signing.signature import generate_key
from abupdate.signing.signers import TrustFiles, read_signers

INITRD = "initrd-abupdate"
NO_KEY = "none"
_KERNELS = ("bzImage-*", "vmlinuz-*")
_PRINCIPAL = "demo@localhost"
_RESCUE = product("")


@dataclass(frozen=True)
class Product:
    """What a rootfs is made into. `config`: settings that follow [device]."""

    compatible: str
    version: Version
    cmdline: str
    signers: Path
    config: Path | None = None


def prepare_rootfs(rootfs: Path, initrd: Path, wanted: Product) -> None:
    """Put what makes it a release into a root filesystem. Raises `UsageError`."""
    kernel = _kernel(rootfs / "boot")
    if not initrd.is_file():
        raise UsageError(
            f"An initramfs was expected at {initrd}, there is none.",
            "Is ABUPDATE_INITRAMFS an image of the kind that INITRAMFS_FSTYPES says?",
        )
    _put(rootfs / "boot" / INITRD, initrd.read_bytes())
    write_boot_files(rootfs, kernel, INITRD, wanted.cmdline)
    read_signers((wanted.signers,))
    vendor = Paths(root=rootfs).vendor
    _put(vendor / "allowed_signers", wanted.signers.read_bytes())
    # A rescue system is a product of its own, and serves the slots'.
    served = value_text(wanted.compatible.removesuffix(_RESCUE))
    more = wanted.config.read_text() if wanted.config is not None else ""
    _put(vendor / "config.toml", f"[device]\ncompatible = {served}\n{more}".encode())
    load(Paths(root=rootfs, data=rootfs / "data", cmdline=rootfs / "no-cmdline"))
    _name_release(rootfs / "usr/lib/os-release", wanted)
    _compile(rootfs)


def _kernel(boot: Path) -> str:
    found = [path for pattern in _KERNELS for path in boot.glob(pattern) if not path.is_symlink()]
    if len(found) != 1:
        names = ", ".join(sorted(path.name for path in found)) or "none"
        raise UsageError(
            f"One kernel was expected in {boot} ({' or '.join(_KERNELS)}), found {names}.",
            'IMAGE_INSTALL should have "kernel-image".',
        )
    return found[0].name


def _name_release(path: Path, wanted: Product) -> None:
    """`IMAGE_ID` and `IMAGE_VERSION`: os-release(5)."""
    lines = path.read_text().splitlines() if path.is_file() else []
    kept = [line for line in lines if not line.startswith(("IMAGE_ID=", "IMAGE_VERSION="))]
    # Only what os-release(5) allows there.
    name = re.sub(r"[^a-z0-9._-]", "-", wanted.compatible.lower())
    kept += [f"IMAGE_ID={name}", f"IMAGE_VERSION={wanted.version}"]
    _put(path, "".join(f"{line}\n" for line in kept).encode())


def _compile(rootfs: Path) -> None:
    """Bytecode for Python, which no read-only root can make itself; `abupdate` starts by it.

    It is never compared with its source: a slot is verified as a whole.
    """
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for library in (rootfs / "usr/lib" / ours, rootfs / "usr/lib64" / ours):
        if library.is_dir():
            compileall.compile_dir(
                library,
                quiet=2,
                stripdir=str(rootfs),
                prependdir="/",
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # never through a link of the root filesystem
    path.write_bytes(content)
    path.chmod(0o644)


def whole_seconds(rootfs: Path) -> int:
    """Cut all times of change to seconds, which is what mke2fs keeps; how many had more."""
    changed = 0
    for top, folders, files in os.walk(rootfs, topdown=False):
        for name in (*files, *folders, "."):
            path = os.path.join(top, name)  # noqa: PTH118 - many
            time = os.lstat(path).st_mtime_ns
            if time % 10**9:
                os.utime(path, ns=(time, time - time % 10**9), follow_symlinks=False)
                changed += 1
    return changed


@dataclass(frozen=True)
class Bundling:
    """A release to make. `key` is None where another machine signs; `since`: who gets a delta."""

    repository: Path
    description: publisher.Description
    key: Path | None
    signers: Path
    out: Path
    name: str
    since: tuple[Version, ...] = ()
    in_zstd: bool = False


def make_bundles(tar: Path, wanted: Bundling, events: Events) -> list[Path]:
    """Commit, sign and bundle a rootfs's tar; the bundles, the full one first.

    Each is checked as a device does that believes `signers`. The same content again is the
    same release; other content for a version that is signed raises `RefusedError`.
    """
    if not tar.is_file():
        raise SourceError(
            f"The image's tar was expected at {tar}, there is none.",
            'IMAGE_FSTYPES should have "tar" (abupdate-image says so).',
        )
    version = wanted.description.version
    repository = publisher.open_repository(wanted.repository, create=True)
    with events.step("commit", f"Commit release {version}"):
        captured = publisher.commit(repository, tar, wanted.description, events)
    for warning in captured.warnings:
        events.warning(warning)
    if wanted.key is None:
        return []
    if repository.resolve(version.ref) is None:
        with events.step("sign", f"Sign release {version}"):
            publisher.sign_release(repository, version, wanted.key, tagger=f"Build <{_PRINCIPAL}>")
    made = []
    for old in (None, *wanted.since):
        name = wanted.name if old is None else f"{wanted.name}-from-{old}"
        path = wanted.out / f"{name}.bundle"
        path.unlink(missing_ok=True)
        with events.step("bundle", f"Write {path.name}"):
            create(repository, version, [old] if old else [], path, in_zstd=wanted.in_zstd)
            publisher.check_bundle(path, TrustFiles((wanted.signers,)), repository, events)
        made.append(path)
    return made


def demo_keys(folder: Path) -> Path:
    """The `allowed_signers` of a key for trying things out; whole, whoever else makes it now."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        signers = folder / "allowed_signers"
        if not signers.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            line = generate_key(folder / "release", _PRINCIPAL)
            signers.write_text(f"{line}\n")
        return signers


def grub_images(folder: Path, library: Path, firmware: Sequence[str]) -> None:
    """GRUB's images beside its configuration, from modules in `library`/FORMAT."""
    yocto_disk.check_firmware(firmware)
    if "uefi" in firmware:
        grubimage.efi_image(folder, folder / grub.EFI, library=library)
    if "bios" in firmware:
        grubimage.bios_core(folder, folder / grub.CORE, library=library)
        (folder / grub.SECTOR).write_bytes(grubimage.bios_boot_sector(library))


def _events() -> Events:
    """Steps and warnings, one line each, for a task's log."""

    def show(event: Event) -> None:
        if event.kind in (EventKind.STEP_BEGIN, EventKind.WARNING):
            print(f"abupdate: {event.text}", flush=True)

    return Events(show)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="yocto_release.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, *paths: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name)
        for path in paths:
            needed = {"required": True} if path.startswith("--") else {}
            added.add_argument(path, type=Path, **needed)  # type: ignore[arg-type]
        return added

    rootfs = verb("rootfs", "rootfs", "--initrd", "--signers")
    rootfs.add_argument("--cmdline", required=True)
    rootfs.add_argument("--config", type=Path)
    bundle = verb("bundle", "tar", "--repo", "--signers", "--out")
    bundle.add_argument("--key", required=True)
    bundle.add_argument("--name", required=True)
    bundle.add_argument("--floor", type=Version)
    bundle.add_argument("--min-from", type=Version)
    bundle.add_argument("--since", type=Version, action="append", default=[])
    bundle.add_argument("--fixups-write", action="append", default=[])
    bundle.add_argument("--zstd", action="store_true")
    for one in (rootfs, bundle):
        one.add_argument("--compatible", required=True)
        one.add_argument("--version", type=Version, required=True)
    parts = verb("parts", "bundle", "--signers", "--out")
    parts.add_argument("--rescue", type=Path)
    for name in ("boot", "rescue", "slot", "data"):
        parts.add_argument(f"--{name}-size", type=int, required=True, metavar="MIB")
    images = verb("grub-images", "folder", "--library")
    for one in (parts, images):
        one.add_argument("--firmware", required=True)
    verb("finish", "disk", "--parts")
    verb("whole-seconds", "rootfs")
    verb("demo-keys", "folder")
    return parser.parse_args(argv)


def _do(told: argparse.Namespace) -> None:
    match told.verb:
        case "rootfs":
            wished = Product(told.compatible, told.version, told.cmdline, told.signers, told.config)
            prepare_rootfs(told.rootfs, told.initrd, wished)
        case "whole-seconds":
            whole_seconds(told.rootfs)
        case "bundle":
            description = publisher.Description(
                told.version, told.compatible, told.floor, told.min_from, tuple(told.fixups_write)
            )
            key = None if told.key == NO_KEY else Path(told.key)
            wanted = Bundling(
                told.repo, description, key, told.signers, told.out, told.name,
                tuple(told.since), told.zstd,
            )  # fmt: skip
            for path in make_bundles(told.tar, wanted, _events()):
                print(f"{path.name}: {path.stat().st_size} bytes")
        case "parts":
            sizes = yocto_disk.Sizes(
                told.boot_size, told.rescue_size, told.slot_size, told.data_size
            )
            release = yocto_disk.Release(told.bundle, told.signers, told.rescue)
            # What is written under /run or /tmp as root would be refused: nobody is root here.
            told.out.mkdir(parents=True, exist_ok=True)
            os.environ["TMPDIR"] = str(told.out)
            yocto_disk.make_parts(release, sizes, told.firmware.split(), told.out, _events())
        case "finish":
            yocto_disk.finish(told.disk, told.parts)
        case "grub-images":
            grub_images(told.folder, told.library, told.firmware.split())
        case "demo-keys":
            demo_keys(told.folder)


def main(argv: Sequence[str]) -> int:
    """Do what a task asks for; its exit code."""
    try:
        # The build's own programs, and not those of the machine that it runs on.
        run.SEARCH_PATH = os.environ.get("PATH", run.SEARCH_PATH)
        os.umask(0o022)
        _do(_arguments(argv))
    except AbupdateError as error:
        print(f"ERROR: {error.message}", error.hint or "", sep="\n", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
