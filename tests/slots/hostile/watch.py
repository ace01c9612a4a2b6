"""Runs commands of a device, and looks all the time at the memory and the disk that they take.

A process of its own, the first of a PID namespace, so that its /proc has the command and
its children and nothing else. It forks for each command: most of the time of a small one
is Python's start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from abupdate.disk.layout import Slot
from tests.slots.apart import TOP
from tests.slots.device import Device

_PAUSE = 0.003
_PROC = Path("/proc")


@dataclass(frozen=True)
class Measured:
    """What a command said and took.

    `memory`: bytes; the largest sum, at one time, of what each process of the tree had at its
    worst so far, shared pages counted in each. `disk`: bytes by which the device's data grew,
    and of what programs print into files without a name.
    """

    code: int
    said: str
    memory: int
    disk: int
    seconds: float


class Watch:
    """The process that watches; `close` ends it. `env`: more of the commands' environment."""

    def __init__(self, device: Device, env: dict[str, str]) -> None:
        loops = {str(slot): str(path) for slot, path in device.loops.items()}
        apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        words = [str(device.top), str(device.booted), json.dumps(loops)]
        self._process = subprocess.Popen(
            [*apart, sys.executable, "-m", "tests.slots.hostile.watch", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=TOP,
            env={**os.environ, **env},
            text=True,
        )

    def run(self, *argv: str | Path) -> Measured:
        """One `abupdate` command on the device, to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(word) for word in argv]) + "\n")
        self._process.stdin.flush()
        return Measured(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


def _watched(device: Device, argv: list[str]) -> Measured:
    log, data = device.top / "said", device.paths.data
    start, before, memory, disk = time.monotonic(), _used(data), 0, 0
    child = os.fork()
    if not child:
        _command(device, argv, log)
    code = None
    while code is None:
        others = [pid for pid in os.listdir(_PROC) if pid.isdigit() and pid != "1"]  # noqa: PTH208
        memory = max(memory, sum(map(_worst, others)))
        disk = max(disk, _used(data) - before + sum(map(_printed, others)))
        time.sleep(_PAUSE)
        while code is None:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            code = os.waitstatus_to_exitcode(status) if pid == child else None
    seconds = time.monotonic() - start
    return Measured(code, log.read_text(), memory, disk, round(seconds, 2))


def _command(device: Device, argv: list[str], log: Path) -> None:
    """In the child: the command, its words into a file."""
    code = 70
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number, descriptor in enumerate((nothing, said, said)):
            os.dup2(descriptor, number)
        code = device.run(*argv)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _worst(pid: str) -> int:
    """The most memory that a process ever had, in bytes; 0 when it is gone."""
    with suppress(OSError):
        for line in (_PROC / pid / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _printed(pid: str) -> int:
    """Blocks of the nameless file that a process prints its errors to."""
    with suppress(OSError):
        found = (_PROC / pid / "fd/2").stat()
        return found.st_blocks * 512 if not found.st_nlink else 0
    return 0


def _used(folder: Path) -> int:
    """Blocks of all files of a folder, in bytes."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(above) / name).lstat().st_blocks * 512
    return total


def _main() -> None:
    top, booted, loops = sys.argv[1:]
    slots = {Slot(name): Path(path) for name, path in json.loads(loops).items()}
    device = Device(Path(top), slots, Slot(booted))
    _preload()
    for line in sys.stdin:
        print(json.dumps(asdict(_watched(device, json.loads(line)))), flush=True)


def _preload() -> None:
    """What a command imports when it runs."""
    import sh  # noqa: F401

    import abupdate.cli.show
    import abupdate.update.info
    import abupdate.update.install  # noqa: F401


if __name__ == "__main__":
    _main()
