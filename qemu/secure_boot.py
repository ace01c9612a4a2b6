"""What Secure Boot needs from Debian: the signed shim, the signed GRUB, a signed kernel.

They are taken out of Debian's packages into the cache. Nothing is installed:
on the machine that runs this, the packages would set up its own boot.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import cache
from guest import CLOUD_KERNEL, SUITE

from abupdate.provision import grub
from abupdate.run import run

_PACKAGES = ("shim-signed", "grub-efi-amd64-signed", CLOUD_KERNEL)
_SHIM = "./usr/lib/shim/shimx64.efi.signed"
_GRUB = "./usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
_KERNEL = "./boot/vmlinuz-"
_SECONDS = 900.0


@dataclass(frozen=True)
class Signed(grub.Signed):
    """Files: `shim` is signed by Microsoft, `grub` and `kernel` by Debian."""

    kernel: Path


def signed(suite: str = SUITE) -> Signed:
    """Those of a Debian release, as they are today or were when they were cached."""
    folder = cache.cached("signed", (suite, _PACKAGES), "", lambda path: _extract(path, suite))
    return Signed(folder / "shim", folder / "grub", folder / "kernel")


def _extract(path: Path, suite: str) -> None:
    tar = path.with_name(f"{path.name}.tar")
    words = ["mmdebstrap", "--variant=extract", f"--include={','.join(_PACKAGES)}"]
    run([*words, suite, tar], timeout=_SECONDS)
    path.mkdir()
    with tarfile.open(tar) as archive:
        for member in archive:
            name = "kernel" if member.name.startswith(_KERNEL) else None
            name = {_SHIM: "shim", _GRUB: "grub"}.get(member.name, name)
            source = archive.extractfile(member) if name else None
            if name and source:
                (path / name).write_bytes(source.read())
    tar.unlink()
