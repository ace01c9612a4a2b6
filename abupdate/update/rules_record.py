"""What became of the rules that were put on the boot partition: `rules.json` on data.

It tells what failed from what was never tried; which rules run is `rules.env`'s to say.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from abupdate.update.records import write_json

FORMAT = 1
_MAX_FAILED = 20
_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class OfferedRules:
    """Rules that GRUB was asked to try.

    `came_up`: a system that they started noted its beginning. `again`: they are tried a
    second time, for the first one was cut off. `time`: seconds since the epoch.
    """

    name: str
    digest: str
    number: int
    time: float
    came_up: bool = False
    again: bool = False


@dataclass(frozen=True)
class FailedRules:
    """Rules that are not tried again by themselves. `time`: seconds since the epoch."""

    digest: str
    number: int
    time: float
    cause: str


@dataclass(frozen=True)
class RulesRecord:
    """Both, of a device. `failed`: the oldest first."""

    offered: OfferedRules | None = None
    failed: tuple[FailedRules, ...] = ()

    def failure(self, digest: str) -> FailedRules | None:
        """The failure of these rules, if they failed."""
        return next((one for one in self.failed if one.digest == digest), None)


def read(state: Path) -> RulesRecord:
    """What is kept; nothing where it cannot be read."""
    try:
        with (state / "rules.json").open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        if found["format"] != FORMAT:
            return RulesRecord()
        offered = found["offered"]
        return RulesRecord(
            OfferedRules(**offered) if offered is not None else None,
            tuple(FailedRules(**one) for one in found["failed"]),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return RulesRecord()


def write(state: Path, record: RulesRecord) -> None:
    """Replace it."""
    value = {
        "format": FORMAT,
        "offered": asdict(record.offered) if record.offered is not None else None,
        "failed": [asdict(one) for one in record.failed[-_MAX_FAILED:]],
    }
    write_json(state / "rules.json", value)
