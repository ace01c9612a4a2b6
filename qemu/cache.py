"""Built parts in one ignored folder: each under the hash of what it was made from.

A part is built under a temporary name and renamed when it is complete, so a
run that was stopped leaves nothing half-made behind. Each kind has a folder, in which the
parts used last are kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
KEEP = 6


def directory() -> Path:
    """The cache folder: `ABUPDATE_CACHE`, or `.cache` in the project."""
    path = Path(os.environ.get("ABUPDATE_CACHE") or PROJECT / ".cache")
    path.mkdir(parents=True, exist_ok=True)
    return path


def cached(kind: str, inputs: Iterable[object], suffix: str, build: Callable[[Path], None]) -> Path:
    """The part of that kind made from `inputs`; `build(path)` makes it when it is not there.

    `build` may make a file or a folder. Inputs are told apart by their `repr`;
    a `Path` among them stands for its content (see `tree_hash`).
    """
    key = hashlib.sha256()
    for value in inputs:
        text = tree_hash(value) if isinstance(value, Path) else repr(value)
        key.update(text.encode() + b"\0")
    path = directory() / kind / f"{key.hexdigest()[:16]}{suffix}"
    path.parent.mkdir(exist_ok=True)
    with _locked(path):
        if not path.exists():
            temporary = path.with_name(f".{path.name}.new")
            _remove(temporary)
            build(temporary)
            temporary.rename(path)
            _prune(path)
        os.utime(path)
    return path


def tree_hash(path: Path) -> str:
    """A hash over names, modes and contents of a file or of all files below a folder."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        if not file.is_file() or "__pycache__" in file.parts:
            continue
        digest.update(f"{file.relative_to(path)} {file.stat().st_mode & 0o111}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two runs that need the same part: the second waits for the first."""
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prune(newest: Path) -> None:
    found = [path for path in newest.parent.iterdir() if path.name[0] != "." and path != newest]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[KEEP - 1 :]:
        _remove(path)
        path.with_name(f".{path.name}.lock").unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
