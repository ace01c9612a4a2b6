"""The disk of a new device: release 1 in slot A and in the store, slot B empty.

Made by what makes real devices' disks, `abupdate.provision`, in a plain file. Needs root: a
slot holds owners, devices and capabilities.
"""

from __future__ import annotations

from pathlib import Path

import cache
from image import Sizes

from abupdate.config import Settings
from abupdate.events import Events
from abupdate.paths import Paths
from abupdate.provision.grub import Signed
from abupdate.provision.prepare import prepared
from abupdate.provision.wishes import Wishes
from abupdate.run import run
from abupdate.source.local import FileSource
from abupdate.update.slots import Machine


def build(
    bundle: Path,
    allowed_signers: Path,
    sizes: Sizes | None = None,
    *,
    signed: Signed | None = None,
    rescue: Path | None = None,
) -> Path:
    """The disk, from the full bundle of its first release; cached.

    `signed`: what starts it under Secure Boot; `rescue`: the bundle of its rescue
    system. Copy it before use (`copy`): a machine writes to its disk.
    """
    sizes = sizes or Sizes()
    project = cache.PROJECT
    sources = [project / "abupdate", project / "grub", project / "qemu" / "image.py"]
    loaders = () if signed is None else (signed.shim, signed.grub)
    inputs = (bundle, rescue, allowed_signers, sizes, Path(__file__), *sources, *loaders)
    wishes = Wishes(
        layout=sizes.layout(),
        size=sizes.disk,
        sector=sizes.sector,
        signers=allowed_signers,
        signed=signed,
        rescue=FileSource(rescue) if rescue is not None else None,
    )
    return cache.cached("disk", inputs, ".img", lambda path: _build(path, bundle, wishes))


def copy(disk: Path, target: Path) -> Path:
    """A disk of one's own, holes kept; quick where the filesystem shares blocks."""
    run(["cp", "--sparse=always", "--reflink=auto", disk, target], timeout=600)
    return target


def _build(path: Path, bundle: Path, wishes: Wishes) -> None:
    # Nothing of the machine that runs this is asked.
    host = Machine(Paths(root=path.parent / "none"))
    source, events = FileSource(bundle), Events()
    with prepared(host, path, source, Settings(), wishes, events) as ready:
        ready.write()
