"""Where rescue and the slots lie on the disk, for a GRUB that cannot read its partition table.

GRUB reads the first copy of a GPT alone. An environment block in front of the first partition
tells lost.cfg what the table would; the label of what lies there still has to be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from abupdate.boot.envblock import SIZE, format_block

# In the order in which lost.cfg tries them; names of partitions, and labels.
NAMES = ("rescue", "rootA", "rootB")
_SECTOR = 512  # GRUB's, whatever the disk counts in


@dataclass(frozen=True)
class Place:
    """A partition: bytes from the start of the disk, how many, and its PARTUUID."""

    start: int
    size: int
    partuuid: str


def encode(places: Mapping[str, Place]) -> bytes:
    """The block, of `envblock.SIZE` bytes; empty where there is no place to tell."""
    values: dict[str, str] = {}
    for name, place in places.items():
        values[name] = f"{place.start // _SECTOR}+{place.size // _SECTOR}"
        values[f"{name}_partuuid"] = place.partuuid
    raw = format_block(values) if values else b""
    assert len(raw) in (0, SIZE)
    return raw
