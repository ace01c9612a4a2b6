"""The process of a job: does what was wished by the use cases that the command has, and tells.

What becomes of it is written to its folder as it happens; nobody needs to listen.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from abupdate.config import Settings, load
from abupdate.disk.layout import Slot
from abupdate.engine.contract import (
    EngineError,
    Inspect,
    Install,
    Reflash,
    Repair,
    RescueUpdate,
    Rollback,
    Wish,
)
from abupdate.engine.jobs import Quick, parse_wish
from abupdate.errors import AbupdateError, ExitCode, SourceError, TerminatedError, fault_of
from abupdate.events import Event, Events
from abupdate.release.version import Version
from abupdate.rescue.retry import attend
from abupdate.source.local import FileSource, StoredSource
from abupdate.source.source import Source
from abupdate.update.job import signals_raise
from abupdate.update.slots import Machine

Done = tuple[str, dict[str, Any] | None]


def run_job(machine: Machine, name: str, held: int | None = None) -> int:
    """Do job `name` to its end; the exit code that the command would have.

    `held`: the descriptor whose lock says that this process lives. Programs that it starts must
    not keep it.
    """
    place = machine.paths.runtime / "jobs" / name
    if held is not None:
        fcntl.fcntl(held, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    attend(machine)  # in rescue: somebody is at work, so it does not try a slot by itself
    end: dict[str, Any]
    with (place / "events.jsonl").open("ab", buffering=0) as file:
        events = Events(lambda event: _tell(file.fileno(), event))
        try:
            with signals_raise("the booted slot stays what boots next"):
                wish = parse_wish(json.loads((place / "wish.json").read_text())["wish"])
                text, result = _do(machine, wish, events)
            end = {"state": "done", "exit_code": 0, "message": text, "result": result}
        except (AbupdateError, EngineError, OSError, MemoryError) as error:
            end = _fault(error)
        except Exception:
            traceback.print_exc()
            end = {
                "state": "failed",
                "exit_code": int(ExitCode.BUG),
                "message": "This is a bug in abupdate.",
                "hint": "The support file has more.",
            }
    if end.get("result") and isinstance(end["result"].get("release"), str):
        end["release"] = end["result"]["release"]
    attend(machine)
    _put(place / "end.json", {**end, "ended": round(time.time(), 3)})
    return int(end["exit_code"])


def _fault(error: AbupdateError | EngineError | OSError | MemoryError) -> dict[str, Any]:
    if isinstance(error, EngineError):
        code, message, hint = int(error.code), error.message, error.hint
    else:
        fault = error if isinstance(error, AbupdateError) else fault_of(error)
        code, message, hint = int(fault.exit_code), fault.message, fault.hint
    state = "cancelled" if isinstance(error, TerminatedError) else "failed"
    return {"state": state, "exit_code": code, "message": message, "hint": hint}


def _tell(fd: int, event: Event) -> None:
    os.write(fd, json.dumps(event.as_dict()).encode() + b"\n")


def _put(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, default=str))
    new.rename(path)


def _do(machine: Machine, wish: Wish | Quick, events: Events) -> Done:
    if isinstance(wish, Quick):
        return _QUICK[wish.kind](machine, events), None
    work = _Work(machine, load(machine.paths).settings, events)
    if isinstance(wish, Rollback):
        return work.rollback(wish)
    if isinstance(wish, Repair):
        return work.repair()
    with ExitStack() as stack:
        source = _source(machine, wish, stack)
        if isinstance(wish, Inspect):
            return work.inspect(wish, source)
        if isinstance(wish, Install):
            return work.install(wish, source)
        return work.flash(wish, source)


def _source(
    machine: Machine, wish: Inspect | RescueUpdate | Install | Reflash, stack: ExitStack
) -> Source:
    release = None if isinstance(wish, Inspect | RescueUpdate) else wish.release
    if release is not None:
        return StoredSource(Version.parse(release))
    assert wish.upload is not None
    return FileSource(_opened(uploads(machine), wish.upload, stack), f"the page, {wish.upload}")


def uploads(machine: Machine) -> Path:
    """Where the page puts what comes in."""
    return machine.paths.state / "web" / "uploads"


def _opened(folder: Path, name: str, stack: ExitStack) -> Path:
    """An upload by a path that nobody can put another file at. Raises `SourceError`.

    The folder is the page's, which is not trusted: no link is followed, and nothing but a plain
    file is read.
    """
    try:
        fd = os.open(
            folder / f"{name}.bundle", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
    except OSError as error:
        raise SourceError(
            f"The upload {name} should be there, and is not: {error.strerror}.", "Upload it again."
        ) from error
    stack.callback(os.close, fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise SourceError(f"The upload {name} should be a file, and is none.", "Upload it again.")
    return Path(f"/proc/self/fd/{fd}")


def _facts(value: object) -> dict[str, Any]:
    assert is_dataclass(value) and not isinstance(value, type)
    facts: dict[str, Any] = json.loads(json.dumps(asdict(value), default=str))
    return facts


def _installed(release: str, slot: Slot, armed: bool) -> str:
    if armed:
        return f"Release {release} is installed in slot {slot}, on trial from the next boot."
    return f"Release {release} is in slot {slot}, and not armed."


@dataclass(frozen=True)
class _Work:
    """The use cases; each gives words for a person, and the facts."""

    machine: Machine
    settings: Settings
    events: Events

    def inspect(self, wish: Inspect, source: Source) -> Done:
        from abupdate.update.info import inspect

        found = inspect(
            self.machine,
            [source],
            self.settings,
            self.events,
            retry_failed=wish.retry_failed,
            allow_downgrade=wish.allow_downgrade,
        )
        return f"Release {found.release}, signed by {found.signer}.", _facts(found)

    def install(self, wish: Install, source: Source) -> Done:
        from abupdate.update.install import install

        done = install(
            self.machine,
            [source],
            self.settings,
            self.events,
            arm=wish.arm,
            retry_failed=wish.retry_failed,
            allow_downgrade=wish.allow_downgrade,
        )
        return _installed(done.release, done.slot, done.armed), _facts(done)

    def rollback(self, wish: Rollback) -> Done:
        from abupdate.update import confirm

        if wish.release is None or confirm.holds(self.machine, wish.release):
            return confirm.rollback(self.machine, self.events).text, None
        stored = StoredSource(Version.parse(wish.release))
        return self.install(
            Install(kind="install", release=wish.release, allow_downgrade=True), stored
        )

    def flash(self, wish: Reflash | RescueUpdate, source: Source) -> Done:
        return (
            self.reflash(wish, source)
            if isinstance(wish, Reflash)
            else self.rescue_update(wish, source)
        )

    def reflash(self, wish: Reflash, source: Source) -> Done:
        from abupdate.rescue.reflash import reflash

        done = reflash(
            self.machine,
            [Slot.A, Slot.B] if wish.slots == "both" else [Slot(wish.slots)],
            [source],
            self.settings,
            self.events,
            factory_reset=wish.factory_reset,
            retry_failed=wish.retry_failed,
        )
        last = done[-1]
        facts = {"release": last.release, "installed": [_facts(one) for one in done]}
        return _installed(last.release, last.slot, last.armed), facts

    def rescue_update(self, wish: RescueUpdate, source: Source) -> Done:
        from abupdate.rescue.partition import replace_rescue

        done = replace_rescue(
            self.machine,
            [source],
            self.settings,
            self.events,
            allow_downgrade=wish.allow_downgrade,
        )
        return f"Release {done.release} is the rescue system.", _facts(done)

    def repair(self) -> Done:
        from abupdate.doctor.examine import Told
        from abupdate.doctor.repair import repair
        from abupdate.doctor.repairs import Wishes

        def tell(one: Told) -> None:
            self.events.note(f"{one.says} {one.result}".strip())

        report = repair(self.machine, Wishes(self.settings, self.events), tell)
        left = "Nothing is wrong." if report.sound else f"{len(report.findings)} findings are left."
        return f"{len(report.repaired)} repairs were done. {left}", _facts(report)


def _confirm(machine: Machine, events: Events) -> str:
    from abupdate.update.confirm import confirm

    return confirm(machine, load(machine.paths).settings, events).text


def _reject(machine: Machine, events: Events) -> str:
    from abupdate.update.confirm import reject

    return reject(machine, events).text


def _acknowledge(machine: Machine, events: Events) -> str:
    from abupdate.update.confirm import acknowledge

    return acknowledge(machine, events).text


def _arm(machine: Machine, events: Events) -> str:
    from abupdate.update.arming import arm_installed

    return f"Slot {arm_installed(machine, events)} is armed; it is tried at the next boot."


def _rescue_boot(machine: Machine, _events: Events) -> str:
    from abupdate.rescue.once import boot_once

    boot_once(machine)
    return "Rescue is what boots next, once."


_QUICK: dict[str, Callable[[Machine, Events], str]] = {
    "confirm": _confirm,
    "reject": _reject,
    "acknowledge": _acknowledge,
    "arm": _arm,
    "rescue-boot": _rescue_boot,
}
