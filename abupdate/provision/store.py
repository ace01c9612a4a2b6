"""The store of a new device: one release, copied from the repository that it was received into."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from abupdate.errors import ContentDiffersError
from abupdate.release.version import Version
from abupdate.store.repository import Repository

_RELEASES = "refs/tags/release/"
_OF_GIT = ("HEAD", "config")


def store_bytes(store: Repository) -> int:
    """What `copy_release` copies, in bytes."""
    return sum(path.stat().st_size for path in _objects(store.path))


def copy_release(source: Repository, version: Version, target: Path) -> None:
    """Make a repository at `target` that has a release of `source`; what is there stays.

    Without git: who copies is root, and what is copied came from outside.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in _OF_GIT:
        shutil.copyfile(source.path / name, target / name, follow_symlinks=False)
    for path in _objects(source.path):
        copied = target / path.relative_to(source.path)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied, follow_symlinks=False)
        copied.chmod(0o444)
    for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for ref, oid in source.refs(_RELEASES).items():
        if ref == version.ref or ref.startswith(f"{version.ref}+"):
            path = target / ref
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{oid}\n")


def compare_release(source: Repository, target: Path) -> None:
    """Raise `ContentDiffersError` where a copy is not what was copied."""
    for path in _objects(source.path):
        copied = target / path.relative_to(source.path)
        if not copied.is_file() or not filecmp.cmp(path, copied, shallow=False):
            raise ContentDiffersError(
                f"The store on the disk should have {copied.name} as it was written, and has not.",
                "Run it again; if it happens twice, the disk is failing.",
            )


def give(folder: Path, owner: tuple[int, int]) -> None:
    """Make everything in a folder, and itself, somebody's."""
    for top, _, names in os.walk(folder):
        for path in (top, *(os.path.join(top, name) for name in names)):  # noqa: PTH118 - many
            os.chown(path, *owner, follow_symlinks=False)


def _objects(store: Path) -> Iterator[Path]:
    """Packs and single objects, as git names them."""
    objects = store / "objects"
    yield from sorted(path for path in objects.glob("pack/pack-*") if _is_plain(path))
    yield from sorted(path for path in objects.glob("[0-9a-f][0-9a-f]/*") if _is_plain(path))


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
