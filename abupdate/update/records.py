"""What abupdate remembers on the data partition, outside of any slot.

- `slots/A.json`, `slots/B.json`: what a slot holds, and whether it is complete; `slots/R.json`:
  the same of the rescue partition;
- `slots/A.outputs`, `slots/B.outputs`: what fixups left there, named by its record's digest;
- `intent.json`: what the last install wanted, so that a lost `grubenv` cannot
  hide that it did not come true;
- `failed.json`: releases that a device gave up, which it does not try again by itself;
- `history.jsonl`: one line for everything that happened, appended only.

Every JSON file is replaced whole: written beside, flushed, renamed, directory
flushed. A file that cannot be read counts as absent: records support a
decision, they never make one alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from abupdate.disk.layout import Slot

if TYPE_CHECKING:
    from abupdate.store.outputs import Outputs

FORMAT = 1
_MAX_RECORD = 1024 * 1024
_MAX_HISTORY = 64 * 1024 * 1024
_MAX_FAILED = 100

Record = TypeVar("Record", "SlotRecord", "Intent", "LastBoot")


def new_trial() -> str:
    """A name for a trial that is to begin."""
    return uuid.uuid4().hex


class SlotState(StrEnum):
    """How far the content of a slot can be trusted."""

    WRITING = "writing"
    CLEAN = "clean"


@dataclass(frozen=True)
class SlotRecord:
    """What a slot holds. `written` is seconds since the epoch.

    `superblock` is the fingerprint of the slot's when the record was written; `outputs`
    the SHA-256 of what fixups left there, None where they left nothing.
    """

    slot: str
    state: str
    release: str
    commit: str
    manifest_sha256: str
    tag: str
    signer: str
    uuid: str | None = None
    written: float = 0.0
    confirmed: float | None = None
    superblock: str | None = None
    outputs: str | None = None
    format: int = FORMAT


@dataclass(frozen=True)
class Intent:
    """What an install set out to do, and what became of it.

    `outcome` is None until a boot showed it: confirmed, rejected, fallback,
    interrupted, unfinished or lost (`update/settle.py`). `ending`: the outcome, with
    its `cause`, that was about to be written when it was given up. `rearmed`: its boots
    were interrupted once, and it was armed again by itself. `was_confirmed`: when the
    slot had been confirmed before, as its record says. `trial` is another one each time
    that it is to be armed: the line of history that tells the end of a trial names it,
    and is written once, wherever the power goes.
    """

    slot: str
    release: str
    commit: str
    from_slot: str
    from_release: str | None
    started: float
    armed: float | None = None
    outcome: str | None = None
    cause: str | None = None
    ending: str | None = None
    rearmed: bool = False
    was_confirmed: float | None = None
    trial: str = field(default_factory=new_trial)
    format: int = FORMAT


@dataclass(frozen=True)
class FailedRelease:
    """A release that was given up. `time` is seconds since the epoch."""

    commit: str
    release: str
    time: float
    cause: str


@dataclass(frozen=True)
class LastBoot:
    """The boot that began last. `commit`: of the trial that it was a boot of, if any.

    `dumps`: the crash texts that were there already when it began.
    """

    boot_id: str
    commit: str | None
    dumps: tuple[str, ...]
    format: int = FORMAT


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that happened. `time` is seconds since the epoch."""

    event: str
    time: float
    release: str | None = None
    slot: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


class Records:
    """The records under `directory` (`/data/abupdate`)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def slot(self, slot: Slot) -> SlotRecord | None:
        """The record of a slot, None when absent or not readable."""
        return _load(self._slot_path(slot), SlotRecord)

    def write_slot(self, record: SlotRecord) -> None:
        """Replace a slot's record."""
        write_json(self._slot_path(Slot(record.slot)), asdict(record))

    def rescue(self) -> SlotRecord | None:
        """What the rescue partition was filled with, None when absent or not readable."""
        return _load(self._rescue_path, SlotRecord)

    def write_rescue(self, record: SlotRecord) -> None:
        """Replace that record."""
        write_json(self._rescue_path, asdict(record))

    def outputs(self, record: SlotRecord) -> Outputs | None:
        """What fixups left in a slot, None when what is kept is not what its record says."""
        from abupdate.store.outputs import MAX_TEXT, NOTHING, parse_outputs

        if record.outputs is None:
            return NOTHING
        try:
            with self._outputs_path(Slot(record.slot)).open("rb") as file:
                text = file.read(MAX_TEXT)
            right = hashlib.sha256(text).hexdigest() == record.outputs
            return parse_outputs(text) if right else None
        except (OSError, ValueError):
            return None

    def write_outputs(self, slot: Slot, outputs: Outputs) -> None:
        """Keep what fixups left in a slot, before the record that names its digest."""
        if outputs:
            replace_file(self._outputs_path(slot), outputs.text)
        else:
            self._outputs_path(slot).unlink(missing_ok=True)

    def intent(self) -> Intent | None:
        """The last install's intent, None when absent or not readable."""
        found = _load(self._directory / "intent.json", Intent)
        return found if found is not None and found.slot in set(Slot) else None

    def write_intent(self, intent: Intent) -> None:
        """Replace the intent."""
        write_json(self._directory / "intent.json", asdict(intent))

    def last_boot(self) -> LastBoot | None:
        """The boot that began last, None when absent or not readable."""
        return _load(self._directory / "last-boot.json", LastBoot)

    def write_last_boot(self, boot: LastBoot) -> None:
        """Replace that record."""
        write_json(self._directory / "last-boot.json", asdict(boot))

    def failed(self) -> list[FailedRelease]:
        """The releases that were given up, oldest first."""
        found = _read(self._directory / "failed.json")
        return (found and _decode(found, _failed_releases)) or []

    def add_failed(self, release: FailedRelease) -> None:
        """Put a release on the list; once, with its last cause."""
        others = [other for other in self.failed() if other.commit != release.commit]
        self._write_failed([*others, release][-_MAX_FAILED:])

    def remove_failed(self, commit: str) -> None:
        """It was confirmed, or a person wants it tried again."""
        found = self.failed()
        left = [other for other in found if other.commit != commit]
        if left != found:
            self._write_failed(left)

    def _write_failed(self, releases: list[FailedRelease]) -> None:
        value = {"format": FORMAT, "releases": [asdict(release) for release in releases]}
        write_json(self._directory / "failed.json", value)

    def append(self, entry: HistoryEntry) -> None:
        """Add a line to the history, flushed."""
        path = self._directory / "history.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        line = json.dumps(asdict(entry), separators=(",", ":"), ensure_ascii=True)
        with path.open("ab") as file:
            # A cut may have left a line without its end: never glue ours to it.
            if file.tell() and not _ends_with_newline(path):
                file.write(b"\n")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(path.parent)

    def history(self) -> list[HistoryEntry]:
        """All entries, oldest first; lines that a cut damaged are left out."""
        try:
            with (self._directory / "history.jsonl").open("rb") as file:
                lines = file.read(_MAX_HISTORY).splitlines()
        except OSError:
            return []
        entries = (_decode(line, _history_entry) for line in lines)
        return [entry for entry in entries if entry is not None]

    @property
    def _rescue_path(self) -> Path:
        return self._directory / "slots" / "R.json"

    def _slot_path(self, slot: Slot) -> Path:
        return self._directory / "slots" / f"{slot}.json"

    def _outputs_path(self, slot: Slot) -> Path:
        return self._directory / "slots" / f"{slot}.outputs"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a JSON file so that a cut leaves the old one or the new one."""
    text = json.dumps(value, indent=2, ensure_ascii=True) + "\n"
    replace_file(path, text.encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write beside, flush, rename, flush the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush a directory, so that a rename in it survives a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def now() -> float:
    """Seconds since the epoch, to the millisecond."""
    return round(time.time(), 3)


def _load(path: Path, kind: type[Record]) -> Record | None:
    raw = _read(path)
    if raw is None:
        return None
    known = {one.name for one in fields(kind)}

    def make(value: dict[str, Any]) -> Record | None:
        # A newer abupdate may have noted more, and a fallback comes back to this one.
        named = {name: value[name] for name in known & value.keys()}
        return kind(**named) if value.get("format") == FORMAT else None

    return _decode(raw, make)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_RECORD)
    except OSError:
        return None


Decoded = TypeVar("Decoded")


def _decode(raw: bytes, make: Callable[[dict[str, Any]], Decoded | None]) -> Decoded | None:
    try:
        value = json.loads(raw)
        return make(value) if isinstance(value, dict) else None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _failed_releases(value: dict[str, Any]) -> list[FailedRelease] | None:
    if value.get("format") != FORMAT:
        return None
    return [
        FailedRelease(
            str(release["commit"]),
            str(release["release"]),
            float(release["time"]),
            str(release["cause"]),
        )
        for release in value["releases"]
    ]


def _history_entry(value: dict[str, Any]) -> HistoryEntry:
    detail = value.get("detail", {})
    if not isinstance(detail, dict):
        raise TypeError("detail")
    named = {name: None if value.get(name) is None else str(value[name])
             for name in ("release", "slot")}  # fmt: skip
    return HistoryEntry(str(value["event"]), float(value["time"]), detail=detail, **named)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
