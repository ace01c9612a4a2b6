"""What the engine tells of the device: facts that the commands have, as one value each.

Each function reads, and takes no lock that an install would wait for.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from abupdate import __version__
from abupdate.config import Settings, load
from abupdate.disk.layout import BIOS, BOOT, DATA, RESCUE, Partition, Slot
from abupdate.engine.contract import (
    Health,
    HistoryItem,
    PartitionView,
    Status,
    StoredRelease,
)
from abupdate.errors import AbupdateError, NothingToDoError, RefusedError
from abupdate.run import run
from abupdate.update import evidence
from abupdate.update.slots import Booted, Machine

_LOG = logging.getLogger("abupdate.engine")
HEALTH_SECONDS = 5.0
REBOOTING = "rebooting"
ANSWERED = 2.0  # seconds in which an answer has come to whoever asked
_ROLES: dict[str, Literal["rescue", "boot", "data", "bios"]] = {
    BIOS: "bios", BOOT: "boot", RESCUE: "rescue", DATA: "data",
}  # fmt: skip


def status(machine: Machine) -> Status:
    """The device now."""
    from abupdate.update.status import collect

    settings = _settings(machine)
    report: dict[str, Any] = {}
    mode: Literal["slot", "rescue", "foreign"] = "foreign"
    booted = None
    try:
        booted = machine.booted()
        report = asdict(collect(machine))
        mode = "slot" if booted.slot is not None else "rescue"
    except RefusedError as error:
        report = {"problems": [str(error)]}
    return Status(
        report=report,
        hostname=socket.gethostname(),
        boot_id=evidence.boot_id(),
        uptime=evidence.uptime(),
        mode=mode,
        confirm_mode=settings.confirm.mode,
        deadline=_deadline(report, settings),
        rebooting=(machine.paths.runtime / REBOOTING).exists(),
        partitions=[] if booted is None else _partitions(machine, booted),
        data_free=_free(machine.paths.data),
        version=__version__,
    )


def _settings(machine: Machine) -> Settings:
    try:
        return load(machine.paths).settings
    except AbupdateError:
        return Settings()  # `status` and the health check tell what is wrong with them


def _deadline(report: dict[str, Any], settings: Settings) -> float | None:
    if report.get("booted", {}).get("how") != "trial":
        return None
    boot = report.get("boot") or {}
    if boot.get("trial") != report["booted"]["slot"]:
        return None  # it was confirmed
    return max(0.0, round(settings.confirm.deadline_seconds - evidence.uptime(), 1))


def _partitions(machine: Machine, booted: Booted) -> list[PartitionView]:
    return [
        PartitionView(
            name=one.name,
            label=one.label,
            role=_role(one),
            size=one.size,
            used=_used(machine, booted, one),
        )
        for one in sorted(booted.disk.partitions, key=lambda one: one.number)
    ]


def _role(one: Partition) -> Literal["A", "B", "rescue", "boot", "data", "bios", "other"]:
    if one.name == Slot.A.label:
        return "A"
    if one.name == Slot.B.label:
        return "B"
    return _ROLES.get(one.name, "other")


def _used(machine: Machine, booted: Booted, one: Partition) -> int | None:
    """Of what is mounted here; another slot is not mounted for a picture."""
    if booted.slot is not None and one.name == booted.slot.label:
        place = machine.lower if machine.lower.is_mount() else machine.paths.root
    elif one.name in (BOOT, DATA):
        place = machine.paths.esp if one.name == BOOT else machine.paths.data
    else:
        return None
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _free(place: Path) -> int | None:
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


class Checks:
    """The health checks, run by one at a time, and not more often than every few seconds."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._last: Health | None = None
        self._at = 0.0

    def health(self) -> Health:
        """What they say."""
        with self._lock:
            if self._last is None or time.monotonic() - self._at > HEALTH_SECONDS:
                self._last = self._look()
                self._at = time.monotonic()
            return self._last

    def _look(self) -> Health:
        from abupdate.update.health import health_check

        try:
            watched = health_check(self._machine).once()
        except AbupdateError as error:
            return Health(time=time.time(), healthy=False, checks=[], error=str(error))
        checks = [asdict(one) for one in watched.results]
        return Health(time=time.time(), healthy=not watched.failed, checks=checks)


def history(machine: Machine, limit: int) -> list[HistoryItem]:
    """What happened, newest first."""
    entries = machine.records.history()[-limit:]
    return [HistoryItem(**asdict(one)) for one in reversed(entries)]


def why(machine: Machine) -> dict[str, Any] | None:
    """The story of the last release that did not stay."""
    from abupdate.update.why import tell

    try:
        return asdict(tell(machine))
    except NothingToDoError:
        return None


def releases(machine: Machine) -> list[StoredRelease]:
    """What the store holds, the newest first."""
    from abupdate.update.store_care import contents

    try:
        found = contents(machine, _settings(machine).store.keep)
    except RefusedError:
        return []  # no store: `status` and doctor tell it
    return [
        StoredRelease(
            release=one.release, commit=one.commit, signed=one.signed, kept_by=list(one.wanted_by)
        )
        for one in found
    ]


def log(machine: Machine, lines: int) -> list[str]:
    """The last lines of the log of abupdate's units; where there is no log, of the history."""
    words = ["journalctl", "--unit=abupdate-*", f"--lines={lines}", "--output=short-iso"]
    try:
        text = run([*words, "--no-pager", "--no-hostname", "--quiet"], timeout=30.0).stdout
        return text.decode(errors="replace").splitlines()[-lines:]
    except AbupdateError:
        entries = machine.records.history()[-lines:]
        return [
            f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(one.time))} {one.event} "
            f"{one.release or ''} {one.slot or ''}".rstrip()
            for one in entries
        ]


def reboot(machine: Machine) -> None:
    """Restart the device, `ANSWERED` seconds from now: who asked for that is told before.

    systemd ends the page, and its connections, in the same moment in which it is asked.
    """
    mark, ask = machine.paths.runtime / REBOOTING, run
    mark.touch()

    def restart() -> None:
        try:
            ask(["systemctl", "reboot"], timeout=30.0)
        except AbupdateError as error:
            _LOG.error("The device does not restart: %s", error.message)
            mark.unlink(missing_ok=True)

    later = threading.Timer(ANSWERED, restart)
    later.daemon = True
    later.start()
