"""The `/etc` of the next slot: the owner's changes go along, the booted slot's stay as they are.

`/etc` is an overlay whose upper directory belongs to one slot. An install
gives the target a copy of the booted slot's upper directory, made beside and
renamed, so that a fallback finds its own `/etc` untouched. A file that the
owner changed wins as a whole over the new release's.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from abupdate.disk.layout import Slot
from abupdate.errors import NoSpaceError, ProgramError
from abupdate.failpoints import failpoint
from abupdate.run import run
from abupdate.update.records import sync_directory

# These describe the lower directory of the slot that they come from; the
# kernel must make them anew. `opaque` says that a directory was replaced: kept.
_FOREIGN_ATTRIBUTES = {
    f"{namespace}.overlay.{name}"
    for namespace in ("trusted", "user")
    for name in ("origin", "impure", "nlink", "upper", "redirect", "metacopy")
}


def carry_over(data: Path, booted: Slot | None, target: Slot) -> None:
    """Give `target` the changes that `booted` made in `/etc` (none when booted is rescue)."""
    base = data / "etc"
    new, current, old = (base / f"{target}{suffix}" for suffix in (".new", "", ".old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True, mode=0o755)
    source = base / str(booted) / "upper" if booted is not None else current / "upper"
    if source.is_dir():
        _copy(source, new / "upper")
        _forget_lower(new / "upper")
    else:
        (new / "upper").mkdir(mode=0o755)
    (new / "work").mkdir(mode=0o700)
    run(["sync", "--file-system", base], timeout=300)
    if current.exists():
        current.rename(old)
    new.rename(current)
    sync_directory(base)
    shutil.rmtree(old, ignore_errors=True)
    failpoint("etc-merged")


def _copy(source: Path, target: Path) -> None:
    try:
        run(["cp", "--archive", "--no-target-directory", source, target], timeout=300)
    except ProgramError as error:
        if os.strerror(errno.ENOSPC) in error.stderr:
            raise NoSpaceError(
                f"The disk of {target} is full: the changes in {source} do not fit there again.",
                "Free space on the data partition.",
            ) from error
        raise


def _forget_lower(upper: Path) -> None:
    for directory, names, files in os.walk(upper):
        for name in (".", *names, *files):
            path = Path(directory, name)
            for attribute in os.listxattr(path, follow_symlinks=False):
                if attribute in _FOREIGN_ATTRIBUTES:
                    os.removexattr(path, attribute, follow_symlinks=False)
