"""Real processes that write the boot state: killed at every system call, and many at once."""

from __future__ import annotations

import fcntl
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from abupdate.boot.grubenv import BACKUP, PRIMARY, Grubenv, Reading, decode
from abupdate.boot.inplace import read_from_disk
from abupdate.boot.state import BootState
from tests.unit.boot_states import CONFIRMED, NEW, OLD, block
from tests.unit.grubenv_attempt import COPIES, state_in
from tests.unit.grubenv_worker import BEGUN, STATES, marked

ROOT = Path(__file__).parent.parent.parent
WRITERS = (1, 2, 3)
SECONDS = 3.0


class Workers:
    """The process that forks the writers."""

    def __init__(self) -> None:
        self._writers: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.grubenv_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, verb: str, directory: Path, number: int) -> int:
        assert self._process.stdin
        self._process.stdin.write(f"{verb} {directory} {number}\n")
        self._process.stdin.flush()
        writer = self._answer()
        self._writers.append(writer)
        return writer

    def end_of(self, writer: int) -> int:
        """How a writer that was started with `once` ended."""
        code = self._answer()
        self._writers.remove(writer)
        return code

    def _answer(self) -> int:
        assert self._process.stdout
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End what is left: the ids are still those of our writers, whose parent is not gone."""
        for writer in self._writers:
            with suppress(ProcessLookupError):
                os.kill(writer, signal.SIGKILL)
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(30) == 0


@pytest.fixture
def workers() -> Iterator[Workers]:
    started = Workers()
    yield started
    started.close()


@pytest.fixture(params=["disk", "tmpfs"])
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder on a disk (which knows O_DIRECT), and one on a tmpfs (which need not)."""
    (ROOT / ".cache").mkdir(exist_ok=True)
    parent = ROOT / ".cache" if request.param == "disk" else Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)


def put(directory: Path, primary: BootState | None, backup: BootState) -> None:
    (directory / BACKUP).write_bytes(block(backup))
    if primary:
        (directory / PRIMARY).write_bytes(block(primary))
    else:
        (directory / PRIMARY).unlink(missing_ok=True)


def states(directory: Path) -> tuple[BootState | None, ...]:
    files = [directory / name for name in COPIES]
    return tuple(state_in(file.read_bytes()) if file.exists() else None for file in files)


@pytest.mark.row("S41")
@pytest.mark.parametrize(
    ("directory", "primary", "number", "between"),
    [
        pytest.param("disk", CONFIRMED, 0, (CONFIRMED, BEGUN), id="begin"),
        pytest.param("tmpfs", NEW, 1, (CONFIRMED, OLD), id="confirm"),
        pytest.param("disk", None, 1, (CONFIRMED, OLD), id="primary missing"),
    ],
    indirect=["directory"],
)
def test_killed_at_every_system_call(
    workers: Workers,
    directory: Path,
    primary: BootState | None,
    number: int,
    between: tuple[BootState, BootState],
) -> None:
    """strace kills the writer before each call that has to do with a file."""
    before = (primary, CONFIRMED if primary == CONFIRMED else OLD)
    state, backup_first = STATES[number]

    def write(*injection: str) -> tuple[int, list[str]]:
        put(directory, *before)
        return traced(workers, workers.start("once", directory, number), *injection)

    ended, calls = write()
    assert ended == 0 and states(directory) == (state, state)
    found = []
    for index, call in enumerate(calls):
        # strace counts each kind of call for itself.
        occurrence = calls[: index + 1].count(call)
        ended, _ = write("-e", f"inject={call}:signal=SIGKILL:when={occurrence}")
        assert ended == -signal.SIGKILL, (call, occurrence)
        found.append(states(directory))
        Grubenv(directory).write(state, backup_first=backup_first)
        assert Grubenv(directory).read() == Reading(state, "primary", ())
    steps = [before, between, (state, state)]
    assert list(dict.fromkeys(found)) == steps, calls
    assert {file.name for file in directory.iterdir()} == set(COPIES)
    print(f"{len(calls)} kills; copies left: {[found.count(step) for step in steps]}")


def traced(workers: Workers, stopped: int, *injection: str) -> tuple[int, list[str]]:
    """Let a stopped process go on under strace. Gives how it ended, and its calls."""
    with subprocess.Popen(
        ["strace", "-e", "trace=%file,%desc", "-e", "signal=none", *injection, "-p", str(stopped)],
        stderr=subprocess.PIPE,
        text=True,
    ) as tracer:
        assert tracer.stderr
        first = tracer.stderr.readline()
        assert "attached" in first, first
        os.kill(stopped, signal.SIGCONT)
        text = tracer.stderr.read()
    return workers.end_of(stopped), re.findall(r"^(\w+)\(", text, re.MULTILINE)


@pytest.mark.row("S41")
def test_lock_is_held_and_goes_with_its_holder(workers: Workers, directory: Path) -> None:
    put(directory, OLD, OLD)
    holder = workers.start("hold", directory, 2)
    wait_until(lambda: in_state(holder, "T"))
    writer = workers.start("loop", directory, 1)
    assert not came_true(lambda: states(directory) != (OLD, OLD), 0.5)
    os.kill(holder, signal.SIGKILL)
    wait_until(lambda: states(directory) != (OLD, OLD))
    os.kill(writer, signal.SIGKILL)
    wait_until(lambda: free(directory))


@pytest.mark.row("S41")
@pytest.mark.parametrize("directory", ["disk"], indirect=True)
def test_many_writers_of_which_some_are_killed(workers: Workers, directory: Path) -> None:
    """A reader sees whole states only; the copies end up the same.

    On a disk: a tmpfs gives a reader the half of a write that is under way.
    """
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    put(directory, OLD, OLD)
    written = {OLD, *(marked(writer, count) for writer in WRITERS for count in range(20))}
    running = {writer: workers.start("loop", directory, writer) for writer in WRITERS}
    seen: list[BootState] = []
    killed = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        reading = Grubenv(directory).read()
        assert reading.source == "primary" and reading.problems == (), seed
        assert reading.state in written, seed
        assert reading.state is not None
        seen.append(reading.state)
        assert decode(read_from_disk(directory / BACKUP, 1025)) in written, seed
        if chance.random() < 0.01:
            writer = chance.choice(WRITERS)
            os.kill(running[writer], signal.SIGKILL)
            running[writer] = workers.start("loop", directory, writer)
            killed += 1
    (directory / "stop").touch()
    wait_until(lambda: all(in_state(process, "Z") for process in running.values()))
    assert free(directory)
    primary, backup = states(directory)
    assert primary in written and primary == backup, seed
    print(f"seed {seed}: {len(seen)} reads, {len(set(seen))} states, {killed} writers killed")
    assert killed > 0 and {state.tries for state in seen} >= set(WRITERS)


def in_state(process: int, letter: str) -> bool:
    """Whether the kernel says so: T stopped, Z ended."""
    stat = Path(f"/proc/{process}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == letter


def free(directory: Path) -> bool:
    """Whether nobody holds the lock."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def came_true(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    assert came_true(condition, 20)
