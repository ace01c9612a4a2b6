"""What a power cut may leave of a phase: at each flush, and between two.

Between two flushes any subset of the sectors may have reached the disk, of a
sector that was written twice either write. Small sets are taken whole, of the
others a seeded sample: beginnings of the order in which they were written, all
but one, one alone, and any at random.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from write_log import SECTOR, Write

from tests.cuts.record import Phase

_WHOLE = 6  # sectors of which all 64 subsets are taken


@dataclass(frozen=True)
class Cut:
    """Where the power went: after `epoch` flushes, with these sectors of what came next."""

    epoch: int
    sectors: Mapping[int, bytes]


class Content:
    """A disk's content while its writes are replayed, with a hash for each part of it.

    `disk`: the mapped image. `parts`: where in it each part lies, in bytes.
    """

    def __init__(self, disk: mmap.mmap, parts: Mapping[str, range]) -> None:
        self._disk = disk
        self._parts = parts
        self._keys = dict.fromkeys(parts, 0)

    def put(self, at: int, data: bytes) -> bytes:
        """Write a sector; what was there."""
        old = self._disk[at : at + SECTOR]
        if old != data:
            for name, part in self._parts.items():
                if at in part:
                    self._keys[name] ^= _hash(at, old) ^ _hash(at, data)
            self._disk[at : at + SECTOR] = data
        return old

    def keys(self) -> dict[str, int]:
        """A number for the content of each part: equal content, equal number."""
        return dict(self._keys)

    def read(self, part: str) -> bytes:
        """All bytes of a part."""
        place = self._parts[part]
        return self._disk[place.start : place.stop]


def _hash(at: int, data: bytes) -> int:
    digest = hashlib.blake2b(at.to_bytes(8, "little") + data, digest_size=16).digest()
    return int.from_bytes(digest, "little")


def cuts(phase: Phase, count: int, seed: int) -> Iterator[Cut]:
    """Every flush of a phase, and about `count` cuts between them; not all are different."""
    chance = random.Random(f"{phase.step.name} {seed}")
    weights = [_weight(epoch) for epoch in phase.epochs]
    for number, epoch in enumerate(phase.epochs):
        yield Cut(number, {})
        share = count * weights[number] / sum(weights)
        wanted = int(share) + (chance.random() < share % 1)
        for sectors in _subsets(epoch, wanted, chance):
            yield Cut(number, sectors)
    yield Cut(len(phase.epochs), {})


def _weight(epoch: Sequence[Write]) -> float:
    """Larger ones get more, but by no means as much more as they are larger."""
    return math.sqrt(len({write.at for write in epoch}))


def _subsets(
    epoch: Sequence[Write], count: int, chance: random.Random
) -> Iterator[dict[int, bytes]]:
    places = sorted({write.at for write in epoch})
    if count and len(epoch) <= _WHOLE:
        for bits in range(1, 1 << len(epoch)):
            yield _chosen(epoch, [bool(bits >> number & 1) for number in range(len(epoch))])
        return
    for number in range(count):
        match number % 4:
            case 0:
                until = chance.randrange(1, len(epoch) + 1)
                yield _chosen(epoch, [index < until for index in range(len(epoch))])
            case 1:
                lost = chance.choice(places)
                yield _chosen(epoch, [write.at != lost for write in epoch])
            case 2:
                kept = chance.choice(places)
                yield _chosen(epoch, [write.at == kept for write in epoch])
            case _:
                likely = chance.choice((0.05, 0.3, 0.5, 0.7, 0.95))
                yield _chosen(epoch, [chance.random() < likely for _ in epoch])


def _chosen(epoch: Sequence[Write], taken: Sequence[bool]) -> dict[int, bytes]:
    return {write.at: write.data for write, yes in zip(epoch, taken, strict=True) if yes}
