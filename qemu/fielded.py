"""A plain Debian on one disk, as somebody runs it: what `installer/take-over` begins with.

It has the packages that take-over would install, since test machines reach no mirror, and the
test guests' agent.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cache
import guest

from abupdate.disk.images import make_ext4
from abupdate.disk.layout import MIB
from abupdate.run import run

PASSWORD = "of-the-fielded-machine"
CMDLINE = "root=/dev/vda rw console=tty0 console=ttyS0 quiet mitigations=off no_timer_check"
SUITES = {"12": "bookworm", "13": "trixie"}

_DISK = 6144 * MIB
_PYTHON = {
    "12": ("python3-venv",),
    "13": (
        *("python3-pydantic", "python3-pyudev", "python3-rich", "python3-sh"),
        "python3-typer",
    ),
}
_PACKAGES = (
    *("busybox", "cron", "dbus", "e2fsprogs", "git", "grub-common", "grub-efi-amd64-bin"),
    *("grub-pc-bin", "ifupdown", "init", "initramfs-tools", "iproute2", "kmod", "less", "login"),
    *("mtools", "openssh-client", "openssh-server", "passwd", "procps", "python3"),
    *("python3-parted", "python3-pyudev", "sudo", "udev", "zstd"),
)
_SOURCES = (
    *("abupdate", "grub", "healthcheck", "initramfs", "installer", "readonly", "rescue"),
    "install.sh",
)


@dataclass(frozen=True)
class Fielded:
    """The disk, a whole ext4, and what starts it from outside. Copy the disk before use."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The disk's image."""
        return self.folder / "disk.img"

    @property
    def start(self) -> list[str]:
        """QEMU's arguments that boot it."""
        words = ["-kernel", str(self.folder / "kernel"), "-initrd", str(self.folder / "initrd")]
        return [*words, "-append", CMDLINE]


def build(version: str) -> Fielded:
    """A plain Debian of that version."""
    hook = guest.GUEST / "fielded-customize"
    packages = sorted({*_PACKAGES, *_PYTHON[version], guest.CLOUD_KERNEL})
    files = [guest.GUEST / folder for folder in ("files", "units")]
    inputs = (version, packages, guest.EXCLUDED, PASSWORD, hook, *files, Path(__file__))

    def make(path: Path) -> None:
        path.mkdir()
        options = [f"--dpkgopt=path-exclude={pattern}" for pattern in guest.EXCLUDED]
        options += ["--variant=minbase", f"--include={','.join(packages)}"]
        env = {"ABUPDATE_PROJECT": str(cache.PROJECT), "ABUPDATE_PASSWORD": PASSWORD}
        tar = path / "root"
        guest.debian([*options, f"--customize-hook={hook}"], tar, env, SUITES[version])
        with tempfile.TemporaryDirectory(dir=path) as name:
            root = Path(name, "root")
            root.mkdir()
            unpack = ("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf")
            run([*unpack, tar, "-C", root], timeout=600)
            make_ext4(path / "disk.img", _DISK, "system", root)
            for kind, target in (("vmlinuz", "kernel"), ("initrd.img", "initrd")):
                (found,) = (root / "boot").glob(f"{kind}-*")
                found.rename(path / target)
        tar.unlink()

    return Fielded(cache.cached("fielded", inputs, "", make))


def wheels() -> Path:
    """A folder with the Python packages for Debian 12."""
    pins = cache.PROJECT / "installer" / "debian-12.txt"

    def make(path: Path) -> None:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        words += ["--only-binary=:all:", "--python-version", "3.11"]
        words += ["--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64"]
        settings = {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
        run([*words, "-d", path, "-r", pins], timeout=600, env=settings)

    return cache.cached("wheels", (pins,), "", make)


def medium(path: Path) -> Path:
    """A disk with abupdate's source tree, and the wheels beside it."""
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        tree = Path(name)
        tree.chmod(0o755)
        for source in _SOURCES:
            run(["cp", "-a", cache.PROJECT / source, tree])
        run(["cp", "-a", wheels(), tree / "wheels"])
        make_ext4(path, 64 * MIB, "medium", tree)
    return path
