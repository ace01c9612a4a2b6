"""Processes that write the boot state: `python -m tests.unit.grubenv_worker`.

Forks one for each line of standard input, so that none has to start Python anew:
`VERB DIRECTORY NUMBER`. Answers with the process's id; for `once` then, when it
has ended, with how: an exit code, or the signal as a negative number.

- `once`: stops itself, then, when continued, writes state NUMBER of `STATES`
- `loop`: writes whole states of `marked(NUMBER, ...)` until there is DIRECTORY/stop
- `hold`: stops itself for good while it holds the lock
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from abupdate.boot import grubenv
from abupdate.boot.grubenv import Grubenv
from abupdate.boot.state import BootState, begin
from tests.unit.boot_states import CONFIRMED, NEW, OLD, block

BEGUN = begin(CONFIRMED, "A", "B")
# With the order of the copies.
STATES = [(BEGUN, True), (CONFIRMED, False), (NEW, False)]


def marked(writer: int, count: int) -> BootState:
    """The same number in many places: a mixture of two states would show."""
    number = count % 10
    return replace(OLD, tries=writer, limit=number, countdown=number, seen="ABRx"[number % 4])


@contextmanager
def _stopped() -> Iterator[None]:
    os.kill(os.getpid(), signal.SIGSTOP)
    yield


def _work(verb: str, directory: Path, number: int) -> None:
    grubenv.encode = block
    if verb == "once":
        os.kill(os.getpid(), signal.SIGSTOP)
    if verb != "loop":
        state, backup_first = STATES[number]
        copies = Grubenv(directory, _stopped if verb == "hold" else nullcontext)
        copies.write(state, backup_first=backup_first)
        return
    for count in itertools.count():
        if (directory / "stop").exists():
            return
        Grubenv(directory).write(marked(number, count))


def main() -> None:
    for line in sys.stdin:
        verb, directory, number = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _work(verb, Path(directory), int(number))
                code = 0
            finally:
                os._exit(code)
        if verb == "once":
            os.waitpid(child, os.WUNTRACED)
        print(child, flush=True)
        if verb == "once":
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
