"""Jobs and what is kept of them: a folder each in /run/abupdate/jobs, until the next boot.

    wish.json     what was asked, and when
    alive         locked while its process lives, however that ends
    pid           its process
    events.jsonl  what it told, a line each
    end.json      what became of it; not there, and `alive` not locked: it was lost
    log           what it printed

A job is a process of its own: the engine and the page may restart under it, and find it again.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from abupdate.engine.contract import EngineError, Job, JobEvent, Wish
from abupdate.errors import ExitCode
from abupdate.run import Process
from abupdate.update.job import running_job

KEPT = 20
# Until a process that was told to stop has: an unmount writes what is in memory first.
PATIENCE = 120.0  # seconds
_MAX_LINE = 64 << 10
# Starts the process of a job: its id, the descriptor that it holds, where its words go.
Launch = Callable[[str, int, IO[bytes]], Process]
# What answers at once: asked and waited for in one call, and not listed.
QUICK = ("confirm", "reject", "acknowledge", "arm", "rescue-boot")
LOST = "Its process ended without a word."


class Quick(BaseModel):
    """A wish that takes no time."""

    kind: str


class Jobs:
    """The jobs under `folder`. `launch` starts the process of one."""

    def __init__(self, runtime: Path, launch: Launch) -> None:
        self._runtime, self._folder, self._launch = runtime, runtime / "jobs", launch
        self._children: dict[str, Process] = {}

    def start(self, wish: Wish | Quick) -> Job:
        """Begin one. Raises `EngineError` (busy) while another one runs."""
        self._reap()
        self._refuse_busy()
        name = f"{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(4)}"
        place = self._folder / name
        place.mkdir(parents=True, mode=0o700)
        asked = {"wish": wish.model_dump(), "started": round(time.time(), 3)}
        (place / "wish.json").write_text(json.dumps(asked))
        alive = os.open(place / "alive", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(alive, fcntl.LOCK_EX)  # of the open file: the process holds it on
            with (place / "log").open("wb") as log:
                child = self._launch(name, alive, log)
        finally:
            os.close(alive)
        self._children[name] = child
        (place / "pid").write_text(str(child.pid))
        self._forget_old()
        return self.get(name)

    def quick(self, kind: str) -> Job:
        """Do what takes no time, and wait for it. Raises `EngineError` with what it says."""
        done = self.start(Quick(kind=kind))
        child = self._children.pop(done.id)
        child.wait(PATIENCE)
        ended = self.get(done.id)
        shutil.rmtree(self._folder / done.id)
        if ended.state != "done":
            raise EngineError(ended.exit_code or ExitCode.BUG, ended.message or LOST, ended.hint)
        return ended

    def all(self) -> list[Job]:
        """All that are kept, newest first."""
        self._reap()
        found = []
        for name in reversed(self._names()):
            with suppress(EngineError):  # it was dropped just now
                one = self.get(name)
                if one.kind not in QUICK:
                    found.append(one)
        return found

    def get(self, name: str) -> Job:
        """One. Raises `EngineError` where there is none."""
        place = self._folder / name
        try:
            asked = json.loads((place / "wish.json").read_text())
        except (OSError, ValueError):
            raise EngineError(
                ExitCode.NOTHING_TO_DO,
                f"There is no job {name!r}.",
                "It may be of an earlier boot.",
            ) from None
        living = self._living(place)  # before its end is looked for, which may come in between
        told = self.events(name)
        wish: dict[str, Any] = asked["wish"]
        job = Job(id=name, kind=wish["kind"], wish=wish, started=asked["started"], state="running",
                  release=wish.get("release"), events=len(told))  # fmt: skip
        try:
            end = json.loads((place / "end.json").read_text())
        except (OSError, ValueError):
            end = None
        if end is not None:
            return job.model_copy(update={"release": job.release, **end})
        if living:
            return job.model_copy(update=_doing(told))
        return job.model_copy(update={
            "state": "lost", "ended": told[-1].event.get("time") if told else None,
            "message": LOST, "hint": "Start it again; nothing is harmed by that.",
        })  # fmt: skip

    def events(self, name: str, after: int = 0) -> list[JobEvent]:
        """What it has told, from number `after` + 1 on."""
        found = []
        try:
            with (self._folder / name / "events.jsonl").open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if number > after and line.endswith(b"\n"):
                        found.append(JobEvent(n=number, event=json.loads(line)))
        except (OSError, ValueError):
            pass
        return found

    def cancel(self, name: str) -> Job:
        """End one, and wait until it has. What it leaves is what a power cut leaves."""
        place = self._folder / name
        if self.get(name).state != "running":
            return self.get(name)
        with suppress(OSError, ValueError):
            process = os.pidfd_open(int((place / "pid").read_text()))
            try:
                # A number may be another process's by now: not while it holds what we look at.
                if self._living(place):
                    signal.pidfd_send_signal(process, signal.SIGTERM)
                    if not select.select([process], [], [], PATIENCE)[0]:
                        raise EngineError(
                            ExitCode.DEVICE_FAULT,
                            f"It was told to stop, and still runs after {PATIENCE:g} seconds.",
                            "It is in a step that cannot be stopped, or the disk hangs.",
                        )
            finally:
                os.close(process)
        self._reap()
        return self.get(name)

    def _refuse_busy(self) -> None:
        held = running_job(self._runtime)
        running = [one.kind for one in map(self.get, self._names()) if one.state == "running"]
        if not running and held is None:
            return
        what = running[-1] if running else (held or {}).get("job") or "another command"
        raise EngineError(
            ExitCode.BUSY,
            f"Only one job can run at a time, and {what!r} is running.",
            "Wait for it, or cancel it.",
        )

    def _names(self) -> Sequence[str]:
        try:
            return sorted(entry.name for entry in self._folder.iterdir())
        except FileNotFoundError:
            return []

    def _living(self, place: Path) -> bool:
        try:
            fd = os.open(place / "alive", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _reap(self) -> None:
        for name, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[name]

    def _forget_old(self) -> None:
        for name in self._names()[:-KEPT]:
            if not self._living(self._folder / name):
                shutil.rmtree(self._folder / name, ignore_errors=True)


def _doing(told: Sequence[JobEvent]) -> dict[str, Any]:
    """The step that runs, and the last that was told of it."""
    step: str | None = None
    progress = None
    for one in told:
        kind = one.event.get("kind")
        if kind == "step-begin":
            step, progress = one.event.get("step"), None
        elif kind == "progress":
            progress = one.event
    return {"step": step, "progress": progress}


def parse_wish(value: object) -> Wish | Quick:
    """What `wish.json` says. Raises `EngineError`."""
    if isinstance(value, dict) and value.get("kind") in QUICK:
        return Quick.model_validate(value)
    return wish_of(value)


def wish_of(value: object) -> Wish:
    """A wish as somebody sends it. Raises `EngineError` that says what is wrong with it."""
    try:
        wish: Wish = TypeAdapter(Wish).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(word) for word in first["loc"]) or "kind"
        raise EngineError(ExitCode.USAGE, f"{where}: {first['msg']}.") from None
    if wish.kind in ("install", "reflash"):
        _one_source(wish.upload, wish.release)
    return wish


def _one_source(upload: str | None, release: str | None) -> None:
    if (upload is None) == (release is None):
        found = "neither" if upload is None else "both"
        raise EngineError(
            ExitCode.USAGE, f"Either an upload or a release was expected, found {found}."
        )
