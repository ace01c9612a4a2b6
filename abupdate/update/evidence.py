"""What a boot leaves behind for its post-mortem: its id, its log, what the kernel kept."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abupdate.errors import ProgramError
from abupdate.run import run

_JOURNAL_LINES = 60
_CONSOLE_LINES = 60
_MAX_LINE = 400
_MAX_CONSOLE = 256 * 1024
CRASH = re.compile("Kernel panic|BUG:|Oops")
# Where systemd-pstore puts what the kernel kept, and where the kernel shows it.
_PSTORE = (Path("var/lib/systemd/pstore"), Path("sys/fs/pstore"))
# They are what asks.
_OURS = {f"abupdate-{name}.service" for name in ("deadline", "reject")}


def boot_id(proc: Path = Path("/proc")) -> str:
    """This boot's random id, as the kernel tells it; another one for each boot."""
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def uptime() -> float:
    """Seconds since the kernel started."""
    return round(time.clock_gettime(time.CLOCK_BOOTTIME), 1)


def journal_tail() -> tuple[str, ...]:
    """The last warnings and errors of this boot's log; without a journal, nothing."""
    words = ["journalctl", "--boot", "--priority=warning", f"--lines={_JOURNAL_LINES}"]
    words += ["--output=short-monotonic", "--no-pager", "--no-hostname", "--quiet"]
    try:
        text = run(words, timeout=30.0).stdout.decode(errors="replace")
    except ProgramError:
        return ()
    return tuple(line[:_MAX_LINE] for line in text.splitlines())


def failed_units() -> tuple[str, ...]:
    """The units that failed in this boot, and what still waits to start."""
    told = []
    for words, what in (
        (["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full"], "failed"),
        (["systemctl", "list-jobs", "--plain", "--no-legend", "--full"], "still starting"),
    ):
        try:
            lines = run(words, timeout=30.0).stdout.decode(errors="replace").splitlines()
        except ProgramError:
            continue
        words_of = [line.split() for line in lines if line.split()]
        units = [found[0] if what == "failed" else found[1] for found in words_of
                 if what == "failed" or (len(found) > 3 and found[3] == "running")]  # fmt: skip
        units = [unit for unit in units if unit not in _OURS]
        if units:
            told.append(f"{what}: {', '.join(units[:20])}")
    return tuple(told)


@dataclass(frozen=True)
class Dump:
    """A text that the kernel kept. `identity` tells it from others."""

    path: Path
    identity: str


def crash_dumps(root: Path = Path("/")) -> list[Dump]:
    """All that is kept, oldest first.

    Empty where the platform keeps nothing: that needs ERST, EFI variables or ramoops.
    """
    found = []
    for folder in _PSTORE:
        for path in (root / folder).rglob("dmesg*"):
            try:
                status = path.stat()
            except OSError:
                continue  # systemd-pstore moved it
            # systemd-pstore joins the parts of one crash into dmesg.txt.
            joined = path.name == "dmesg.txt"
            name = path.relative_to(root)
            identity = f"{name} {status.st_size} {status.st_mtime_ns}"
            found.append((status.st_mtime, joined, Dump(path, identity)))
    return [dump for *_, dump in sorted(found, key=lambda item: item[:2])]


def crash_text(dumps: Sequence[Dump]) -> tuple[str, ...]:
    """The last lines of the newest crash among dumps; one of an orderly reboot is none."""
    for dump in reversed(dumps):
        with dump.path.open("rb") as file:
            text = file.read(_MAX_CONSOLE).decode(errors="replace")
        if CRASH.search(text):
            return tuple(line[:_MAX_LINE] for line in text.splitlines()[-_CONSOLE_LINES:])
    return ()


def boot_is_complete() -> bool:
    """Whether `boot-complete.target` was reached."""
    words = ["systemctl", "is-active", "--quiet", "boot-complete.target"]
    try:
        return run(words, timeout=30.0, ok=range(256)).code == 0
    except ProgramError:
        return False
