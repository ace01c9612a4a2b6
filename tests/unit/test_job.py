"""One job at a time, and a lock that frees itself."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from abupdate.errors import AbupdateError, BusyError, InterruptedByUserError, TerminatedError
from abupdate.update.job import job, running_job
from abupdate.update.slots import attempt_note

HOLD = """
import sys, time
from pathlib import Path
from abupdate.update.job import job
with job(Path(sys.argv[1]), "hold"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_job_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with job(tmp_path, "install"):
        assert running_job(tmp_path) is not None
        with pytest.raises(BusyError, match=rf"install.*{os.getpid()}"), job(tmp_path, "confirm"):
            pass
        assert (running_job(tmp_path) or {})["job"] == "install"
    assert running_job(tmp_path) is None
    with job(tmp_path, "again"):
        pass


def test_lock_frees_itself_when_its_holder_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BusyError, match="hold"), job(tmp_path, "install"):
            pass
        holder.kill()
        holder.wait()
    assert running_job(tmp_path) is None
    with job(tmp_path, "install"):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_undoes_what_is_open(tmp_path: Path, number: signal.Signals) -> None:
    undone = False
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with pytest.raises(TerminatedError, match=number.name), job(tmp_path, "install"):
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            finally:
                undone = True
    finally:
        signal.signal(number, before)
    assert undone
    assert running_job(tmp_path) is None


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with job(tmp_path, "install"):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_look_at_the_lock_holds_up_nobody(tmp_path: Path) -> None:
    """Whoever asks whether a job runs has the lock for a moment."""
    lock = tmp_path / "lock"
    lock.touch()
    with lock.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.03, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with job(tmp_path, "install"):
            pass


@pytest.mark.parametrize("stop", [TerminatedError, InterruptedByUserError])
def test_a_stop_is_no_note_that_failed(stop: type[AbupdateError]) -> None:
    def stopped() -> None:
        raise stop("Stopped.")

    told: list[str] = []
    with pytest.raises(stop):
        attempt_note(stopped, told.append, "history")
    assert told == []
