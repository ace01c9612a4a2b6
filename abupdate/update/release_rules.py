"""The rules of GRUB that the running release brings, and whether those in use fit it."""

from __future__ import annotations

from pathlib import Path

from abupdate.boot import rules
from abupdate.boot.rules import Rules
from abupdate.paths import Paths

_LIMIT = 64 * 1024


def own_rules(paths: Paths) -> Rules | None:
    """The rules that the running release brings, as they go on the boot partition."""
    try:
        with source(paths).open("rb") as file:
            content = file.read(_LIMIT)
    except OSError:
        return None
    return rules.filled(content) if len(content) <= rules.ROOM else None


def foreign_text(used: Rules, own: Rules | None) -> str:
    """Of rules that do not read the boot state that this abupdate writes: what that means."""
    newer = own is None or used.number >= own.number
    age = "too new" if newer else "too old"
    return (
        f"GRUB's rules (number {used.number}) should read format {rules.FORMAT} of the boot state, "
        f"and read {'those of ' + used.formats if used.formats else 'none that they name'}: they "
        f"are {age} for the release that runs, and GRUB will take its boot state as lost."
    )


def source(paths: Paths) -> Path:
    """Where a release has its rules."""
    return paths.vendor / "grub" / rules.SOURCE
