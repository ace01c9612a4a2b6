"""How a root filesystem tells GRUB what to start: `/boot/abupdate.env`, `/boot/SHA256SUMS`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from abupdate.boot.cmdline import abupdate_env, parse_abupdate_env, sha256sums
from abupdate.errors import UsageError

ENV, SUMS = "abupdate.env", "SHA256SUMS"
_KERNEL, _INITRD = "vmlinuz-", "initrd.img-"


@dataclass(frozen=True)
class BootFiles:
    """What was written. `kernel` and `initrd` are names in `/boot`."""

    kernel: str
    initrd: str
    cmdline: str


def write_boot_files(
    rootfs: Path, kernel: str | None = None, initrd: str | None = None, cmdline: str | None = None
) -> BootFiles:
    """Write both files of a root filesystem. Raises `UsageError`.

    Kernel and initrd: of the newest kernel in `/boot` that has one, by Debian's names. The
    command line: as it was. Files that say so already stay, with their times.
    """
    boot = rootfs / "boot"
    if not boot.is_dir() or boot.is_symlink():
        raise UsageError(
            f"A folder was expected at {boot}, there is none.", "Give the root filesystem's folder."
        )
    if kernel is None and initrd is None:
        kernel, initrd = _newest(boot)
    if kernel is None or initrd is None:
        raise UsageError("--kernel and --initrd belong together, and one of them is missing.")
    if cmdline is None:
        cmdline = _cmdline(boot / ENV)
    env = abupdate_env(f"/boot/{kernel}", f"/boot/{initrd}", cmdline)
    sums = sha256sums({name: _digest(boot / name) for name in (kernel, initrd)})
    for path, content in ((boot / ENV, env), (boot / SUMS, sums)):
        _write(path, content)
    return BootFiles(kernel, initrd, parse_abupdate_env(env).cmdline)


def _newest(boot: Path) -> tuple[str, str]:
    kernels = [path.name for path in boot.glob(f"{_KERNEL}*") if _is_file(path)]
    versions = [name.removeprefix(_KERNEL) for name in kernels]
    whole = [one for one in versions if _is_file(boot / f"{_INITRD}{one}")]
    if not whole:
        found = f"found {', '.join(sorted(kernels))} without one" if kernels else "found none"
        raise UsageError(
            f"A kernel {_KERNEL}VERSION with its {_INITRD}VERSION was expected in {boot}, {found}.",
            "Make the initrd (update-initramfs -c -k VERSION), or say --kernel and --initrd.",
        )
    version = max(whole, key=_order)
    return f"{_KERNEL}{version}", f"{_INITRD}{version}"


def _order(version: str) -> list[tuple[int, str]]:
    """Numbers by their value: 6.12.9 is before 6.12.57."""
    return [(int(one) if one.isdecimal() else -1, one) for one in _words(version)]


def _words(version: str) -> Iterator[str]:
    return (found[0] for found in re.finditer(r"[0-9]+|[^0-9]+", version))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _digest(path: Path) -> str:
    if not _is_file(path):
        raise UsageError(f"A file, and no link, was expected at {path}; there is none.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cmdline(env: Path) -> str:
    return parse_abupdate_env(env.read_bytes()).cmdline if _is_file(env) else ""


def _write(path: Path, content: bytes) -> None:
    if _is_file(path) and path.read_bytes() == content:
        return
    path.unlink(missing_ok=True)  # never through a link of the root filesystem
    with path.open("xb") as file:
        file.write(content)
    path.chmod(0o644)
