"""`make installer`: a stick that installs the demo's first release, as a file.

    python qemu/installer.py [FILE]

The release boots on any PC that Debian's full kernel has drivers for, but for those that test
guests leave out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cache
import demo_parts
import device
import publisher
from guest import FULL_KERNEL, Release

from abupdate.config import Settings
from abupdate.events import Events
from abupdate.paths import Paths
from abupdate.provision.prepare import prepared
from abupdate.provision.wishes import Wishes
from abupdate.source.local import FileSource
from abupdate.update.slots import Machine

# With the drivers of real machines; on the same base as the demo's.
RELEASE = Release("1", kernel=FULL_KERNEL, packages=demo_parts.TWO.packages)


def build(bundle: Path, allowed_signers: Path) -> Path:
    """The image, from the full bundle of the release that it installs; cached."""
    project = cache.PROJECT
    inputs = (bundle, allowed_signers, Path(__file__), project / "abupdate", project / "grub")

    def make(path: Path) -> None:
        wishes = Wishes(installer=True, signers=allowed_signers)
        host = Machine(Paths(root=path.parent / "none"))
        with prepared(host, path, FileSource(bundle), Settings(), wishes, Events()) as ready:
            ready.write()

    return cache.cached("installer", inputs, ".img", make)


def main() -> None:
    """Make it, and tell how to try it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else cache.directory() / "installer.img"
    series = publisher.publish([RELEASE])
    target.unlink(missing_ok=True)
    device.copy(build(series.bundle("1"), publisher.key().allowed_signers), target)
    print(f"{target}: {target.stat().st_size >> 20} MiB, installs release {RELEASE.version}.")
    print(f"To a stick: dd if={target} of=/dev/sdX bs=4M conv=fsync")


if __name__ == "__main__":
    main()
