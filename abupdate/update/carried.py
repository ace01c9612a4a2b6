"""What became of the owner's changes in /etc when a slot was installed: `etc/A/merge.json` on data.

It is beside the overlay's upper folder that it tells of, and comes and goes with it. A file
that cannot be read counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from abupdate.disk.layout import Slot
from abupdate.paths import Paths
from abupdate.update.records import write_json

FORMAT = 1
RECORD = "merge.json"
CONFLICT = "conflict"
_MAX_RECORD = 4 * 1024 * 1024


@dataclass(frozen=True)
class Told:
    """What became of a path that both sides changed; `outcome` as in `abupdate.etc.merge`.

    `path` is below /etc, as manifests have paths.
    """

    path: str
    outcome: str
    text: str


@dataclass(frozen=True)
class Carried:
    """What became of the owner's changes. `changed`: how many paths they were.

    `from_release` is None where it is not known. `source`: a hash of the changes, which tells
    whether the owner went on afterwards.
    """

    from_release: str | None
    to_release: str
    changed: int
    findings: tuple[Told, ...] = ()
    source: str = ""
    format: int = FORMAT

    @property
    def conflicts(self) -> tuple[Told, ...]:
        """What a person has to look at."""
        return tuple(told for told in self.findings if told.outcome == CONFLICT)


def overlay(paths: Paths, slot: Slot) -> Path:
    """Where a slot has its changes: `upper`, `work` and the record."""
    return paths.data / "etc" / str(slot)


def carried(paths: Paths, slot: Slot) -> Carried | None:
    """What became of the changes when this slot was installed, without what is settled."""
    try:
        with (overlay(paths, slot) / RECORD).open("rb") as file:
            value: dict[str, Any] = json.loads(file.read(_MAX_RECORD))
        findings = tuple(Told(**told) for told in value.pop("findings"))
        return Carried(**value, findings=findings)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def settle(paths: Paths, slot: Slot, settled: Collection[str]) -> None:
    """Forget what was found out about these paths: a person has looked at them."""
    known = carried(paths, slot)
    if known is not None:
        left = tuple(told for told in known.findings if told.path not in settled)
        write_json(overlay(paths, slot) / RECORD, asdict(replace(known, findings=left)))
