"""The GRUB of the Debian release that this machine does not run: 2.06 or 2.12.

Only its modules are taken, from the distribution's own packages; images are
made with the host's `grub-mkimage`.
"""

from __future__ import annotations

import re
from pathlib import Path

import cache

from abupdate.disk.grubimage import GRUB_LIBRARY
from abupdate.run import run

_SUITES = {"2.06": "bookworm", "2.12": "trixie"}
_PACKAGES = "grub-pc-bin,grub-efi-amd64-bin"
_SECONDS = 900.0


def version(library: Path = GRUB_LIBRARY) -> str:
    """The version that these modules are of."""
    found = re.search(rb"(2\.\d\d)-\d", (library / "x86_64-efi/normal.mod").read_bytes())
    assert found is not None, f"{library} does not tell GRUB's version"
    return found[1].decode()


def library() -> Path:
    """The folder with the modules of the other version; cached."""
    wanted = "2.12" if version() == "2.06" else "2.06"

    def make(path: Path) -> None:
        tar = path.with_name(f"{path.name}.tar")
        options = ["--variant=extract", f"--include={_PACKAGES}"]
        run(["mmdebstrap", *options, _SUITES[wanted], tar], timeout=_SECONDS)
        path.mkdir()
        # Not by tarfile, whose filters came with a later Python than Debian 12 has.
        run(["tar", "-C", path, "--no-same-owner", "--wildcards", "-xf", tar, "*/usr/lib/grub/*"])
        tar.unlink()

    found = cache.cached("grub", (wanted,), "", make) / "usr/lib/grub"
    assert version(found) == wanted
    return found
