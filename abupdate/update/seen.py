"""GRUB's mark of this boot, kept beyond the health check.

GRUB writes `seen` with each save: the proof that it can write at all. The
judgement of a boot sets it back to x, so that the next boot proves it anew.
What it said before lives in /run until the machine is switched off: `doctor`
is asked when the boot has long been judged.
"""

from __future__ import annotations

from pathlib import Path

from abupdate.boot.state import BootState

# The copy that it was in is lost.
UNKNOWN = "?"

_NAME, _START = "seen", "boot-state-at-start"


def remember(runtime: Path, seen: str) -> None:
    """Keep GRUB's mark before it is set back; only the first of a boot is GRUB's."""
    runtime.mkdir(parents=True, exist_ok=True)
    path = runtime / _NAME
    if not path.exists():
        path.write_text(f"{seen}\n")


def recall(runtime: Path) -> str | None:
    """The mark that was set back in this boot, None when that has not happened yet."""
    try:
        return (runtime / _NAME).read_text(errors="replace").strip()
    except OSError:
        return None


def remember_start(runtime: Path, state: BootState) -> None:
    """Keep the boot state as GRUB left it, to tell what userland changed in this boot."""
    runtime.mkdir(parents=True, exist_ok=True)
    (runtime / _START).write_text(f"{state}\n")


def changed_since_start(runtime: Path, state: BootState) -> bool:
    """Whether this is another state than GRUB left; False where nobody noted that."""
    try:
        return (runtime / _START).read_text(errors="replace") != f"{state}\n"
    except OSError:
        return False
