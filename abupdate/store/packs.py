"""The packs of a store: how many there are, making one of them, and what a killed git left.

Every release that comes in brings a pack. The caller holds the device's lock: nobody
else writes, so whatever is half done is nobody's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from abupdate.errors import NoSpaceError
from abupdate.failpoints import failpoint
from abupdate.store.repository import Repository

_REPACK_SECONDS = 3 * 3600.0
_ROOM = 16 << 20
_NAME = re.compile(rb"(?:[0-9a-f]{40}|[0-9a-f]{64})\s*")
# A pack that lost its .idx first is none: git finds a pack by that file.
_ORDER = (".idx", ".rev", ".pack")


@dataclass(frozen=True)
class Packs:
    """How many packs there are, and their bytes with their indexes."""

    count: int
    bytes: int


def count(repository: Repository) -> Packs:
    """What lies in a repository."""
    number = size = 0
    for path in _files(repository):
        with suppress(FileNotFoundError):  # tidied up meanwhile
            size += path.stat().st_size
            number += path.suffix == ".pack"
    return Packs(number, size)


def leftovers(repository: Repository) -> list[Path]:
    """Locks and temporary files that a killed git left, as long as none runs."""
    top = repository.path
    return sorted([*top.glob("*.lock"), *top.rglob("refs/**/*.lock"), *_temporary(top)])


def torn_refs(repository: Repository) -> list[Path]:
    """Refs whose bytes were lost: no object can be packed while there is one."""
    return sorted(
        path
        for path in (repository.path / "refs").rglob("*")
        if path.is_file() and path.suffix != ".lock" and not _NAME.fullmatch(path.read_bytes())
    )


def clear_leftovers(repository: Repository) -> list[str]:
    """Remove locks and temporary files that a killed git left, and refs that name nothing.

    Their names.
    """
    left = leftovers(repository) + torn_refs(repository)
    if left:
        repository.as_owner("rm", "-rf", "--", *left)
    return sorted(str(path.relative_to(repository.path)) for path in left)


def repack(repository: Repository, commits: Sequence[str] = ()) -> None:
    """Make one pack of all that refs and these commits reach, and drop the rest.

    The old packs go once the new one is on the disk: whenever the power goes, each
    object is in one of them. Deltas are taken over as they are, where what they are deltas
    to stays. Raises `NoSpaceError` when both do not fit beside each other, as a rule before
    it begins; the old packs are whole then.
    """
    require_room(repository, commits)
    old = list(_files(repository))
    wanted = "".join(f"{commit}\n" for commit in commits).encode()
    folder = repository.path / "objects" / "pack"
    try:
        written = repository.git(
            "pack-objects", "--all", "--quiet", "--delta-base-offset", "--window=0",
            folder / "pack", stdin=wanted, timeout=_REPACK_SECONDS,
        )  # fmt: skip
    except NoSpaceError:
        clear_leftovers(repository)
        raise
    # Named by what it holds: it may be one of the old ones.
    name = f"pack-{written.stdout.decode().strip()}"
    gone = [path for path in old if path.stem != name]
    if not gone:
        return
    repository.as_owner("sync", *(path for path in _files(repository) if path.stem == name), folder)
    failpoint("packed")
    repository.as_owner("rm", "-f", "--", *sorted(gone, key=lambda path: _ORDER.index(path.suffix)))
    repository.as_owner("sync", folder)


def require_room(
    repository: Repository, commits: Sequence[str], without: Sequence[str] = ()
) -> None:
    """Raise `NoSpaceError` where `repack` would not fit, once the refs `without` are gone."""
    found = repository.git(
        "rev-list", *(f"--exclude={ref}" for ref in without), "--all",
        "--objects", "--disk-usage", "--stdin",
        stdin="".join(f"{commit}\n" for commit in commits).encode(), timeout=_REPACK_SECONDS,
    )  # fmt: skip
    size = int(found.stdout)
    disk = os.statvfs(repository.path)
    free = disk.f_bavail * disk.f_frsize
    if free < size + _ROOM:
        raise NoSpaceError(
            f"To tidy up the store {size + _ROOM} bytes should be free for a moment, "
            f"found {free} on the disk of {repository.path}.",
            "Free space on that disk.",
        )


def _files(repository: Repository) -> Iterator[Path]:
    for path in sorted((repository.path / "objects" / "pack").glob("pack-*")):
        if path.suffix in _ORDER:
            yield path


def _temporary(top: Path) -> Iterator[Path]:
    objects = top / "objects"
    yield from objects.glob("pack/tmp_*")
    yield from objects.glob("pack/.tmp-*")
    yield from objects.glob("??/tmp_obj_*")
    yield from top.glob("fast_import_crash_*")
