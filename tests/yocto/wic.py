"""What wic makes of the parts: a table, and each part at the start of its partition."""

from __future__ import annotations

from pathlib import Path

from yocto_disk import Sizes

from abupdate.disk.images import copy_sparse
from abupdate.disk.layout import MIB
from abupdate.disk.partition import make_table


def assemble(parts: Path, sizes: Sizes, path: Path) -> Path:
    """A disk in a file, as `files/wic/abupdate-ab.wks.in` describes it."""
    specs = sizes.specs()
    with path.open("wb") as file:
        file.truncate(MIB * (2 + sum((spec.size or 0) // MIB for spec in specs)))
    for spec, extent in zip(specs, make_table(path, specs), strict=True):
        copy_sparse(parts / f"{spec.name}.img", path, extent.start)
    return path
