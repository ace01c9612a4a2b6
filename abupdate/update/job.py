"""One job at a time: the lock, and the record of who holds it.

The lock is an `flock` on a file in /run: the kernel frees it when its holder
dies, however it dies. SIGTERM and SIGHUP (a connection that breaks) become
exceptions, so that mounts are undone and the state afterwards is the state after
a crash.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from abupdate.errors import BusyError, TerminatedError
from abupdate.failpoints import failpoint

# What takes long, and may be stopped at any moment.
STOPPABLE = ("install", "store prune")
_LOOKS, _LOOK = 5, 0.02  # seconds


@contextmanager
def job(runtime: Path, what: str) -> Iterator[None]:
    """Hold the lock under `runtime` (/run/abupdate) for the time of the block.

    Raises `BusyError` at once when another job runs, `TerminatedError` when
    SIGTERM or SIGHUP arrives.
    """
    runtime.mkdir(parents=True, exist_ok=True, mode=0o755)
    fd = os.open(runtime / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    record = runtime / "job.json"
    try:
        if not _lock(fd):
            raise _busy(record)
        with signals_raise(
            "the booted slot stays what boots next"
        ):  # from before it can be found, and told to stop
            record.write_text(json.dumps({"job": what, "pid": os.getpid(), "since": time.time()}))
            failpoint("locked")
            yield
    finally:
        # Only the holder removes the record: a refused second job must not.
        if _held(fd):
            with suppress(FileNotFoundError):
                record.unlink()
        os.close(fd)


@contextmanager
def unstoppable() -> Iterator[None]:
    """For what takes no time, and is done with its first write: no signal stops it.

    A stop that was told as one, after the slot was armed, would be a lie.
    """
    before = {
        number: signal.signal(number, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def running_job(runtime: Path) -> dict[str, object] | None:
    """The record of the job that runs, None without one (a dead holder counts as none)."""
    try:
        fd = os.open(runtime / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(runtime / "job.json") or {}
    finally:
        os.close(fd)
    return None


def _lock(fd: int) -> bool:
    """Take the lock. Who asks whether a job runs has it for a moment, too."""
    for _ in range(_LOOKS):
        if _held(fd):
            return True
        time.sleep(_LOOK)
    return False


def _held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(record: Path) -> BusyError:
    found = _read(record)
    holder = f"'{found.get('job')}' (process {found.get('pid')})" if found else "another command"
    stop = " `abupdate cancel` stops it." if found and found.get("job") in STOPPABLE else ""
    return BusyError(
        f"Only one job can run at a time, and {holder} is running.", f"Try again later.{stop}"
    )


def _read(record: Path) -> dict[str, object] | None:
    try:
        value = json.loads(record.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def signals_raise(then: str = "run it again") -> Iterator[None]:
    """In the block SIGTERM and SIGHUP raise `TerminatedError`, so that children are ended, too.

    `then`: what people are told of what comes after.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise TerminatedError(f"Stopped by {name}; {then}.")

    # Not where it is ignored, as under nohup.
    wanted = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
