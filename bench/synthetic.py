"""Releases made up to measure growth: many small files, and one release that changes modes only."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from typing import IO

import cache

from abupdate.events import Events
from abupdate.store.capture import capture
from abupdate.store.repository import Repository

SMALL, LARGE = 20_000, 200_000
CHMODS = 10_000
# Every so many files one is another in the newer release.
_EVERY = 100
_IN_FOLDER, _GROUPS, _TIME = 50, 97, 1_700_000_000


def build() -> Path:
    """A folder with `store.git`, and `commits`: a name and an id a line. Cached; minutes."""
    return cache.cached("bench-synthetic", (SMALL, LARGE, CHMODS, _EVERY, 1), "", _make)


def commits(made: Path) -> dict[str, str]:
    """`<files>-old` and `<files>-new` of both sizes, and `chmods`, which is over `<SMALL>-old`."""
    lines = (made / "commits").read_text().splitlines()
    return {name: oid for name, oid in map(str.split, lines)}  # noqa: C416 - names the two


def _make(path: Path) -> None:
    (path / "store.git").mkdir(parents=True)
    store = Repository.create(path / "store.git")
    found = {}
    for files in (SMALL, LARGE):
        found[f"{files}-old"] = _captured(store, files)
        found[f"{files}-new"] = _captured(store, files, every=_EVERY)
    found["chmods"] = _captured(store, SMALL, executable=CHMODS)
    (path / "commits").write_text("".join(f"{name} {oid}\n" for name, oid in found.items()))


def _captured(store: Repository, files: int, *, every: int = 0, executable: int = 0) -> str:
    with tempfile.TemporaryFile() as file:
        _tar(file, files, every, executable)
        file.seek(0)
        return capture(file, store, lambda _: b"format = 1\n", Events(), subject="made up").commit


def _tar(file: IO[bytes], files: int, every: int, executable: int) -> None:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        groups = [f"usr/share/package-{group:02d}" for group in range(_GROUPS)]
        for folder in (".", "usr", "usr/share", *groups):
            _add(tar, folder, tarfile.DIRTYPE, 0o755, b"")
        for number in range(files):
            folder = f"{groups[number // _IN_FOLDER % _GROUPS]}/folder-{number // _IN_FOLDER:05d}"
            if number % _IN_FOLDER == 0:
                _add(tar, folder, tarfile.DIRTYPE, 0o755, b"")
            word = "changed" if every and number % every == 0 else "same"
            mode = 0o755 if number < executable else 0o644
            content = f"{number} {word}\n".encode() * 20
            _add(tar, f"{folder}/file-{number:06d}.txt", tarfile.REGTYPE, mode, content)


def _add(tar: tarfile.TarFile, path: str, kind: bytes, mode: int, content: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.mtime, entry.size = kind, mode, _TIME, len(content)
    tar.addfile(entry, io.BytesIO(content))
