"""Two changes of one text in one, by diff3 of diffutils; and what is no text."""

from __future__ import annotations

import tempfile
from pathlib import Path

from abupdate.run import run

# Above that a file is no settings that a person wrote (bytes).
_LARGEST = 1 << 20
_SECONDS = 60.0
_TOUCHING = 1


def merge_text(old: bytes, ours: bytes, new: bytes) -> bytes | None:
    """What has the changes from `old` to `ours` and to `new`.

    None where they touch each other, and for what is no text. Raises `ProgramError`.
    """
    sides = (ours, old, new)
    if any(len(side) > _LARGEST or b"\0" in side for side in sides):
        return None
    with tempfile.TemporaryDirectory(prefix="abupdate-") as folder:
        files = [Path(folder, name) for name in ("ours", "old", "new")]
        for file, side in zip(files, sides, strict=True):
            file.write_bytes(side)
        done = run(["diff3", "--merge", *files], timeout=_SECONDS, ok=(0, _TOUCHING))
    return done.stdout if done.code != _TOUCHING else None
