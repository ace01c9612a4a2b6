"""A bundle is made: one file that carries a release. Format: docs/release-format.md."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from abupdate.bundle.candidate import cosignatures
from abupdate.bundle.header import BundleHeader, format_header
from abupdate.errors import UsageError
from abupdate.release.tag import MAX_TAG, parse_tag
from abupdate.release.version import Version
from abupdate.store.repository import Repository

_SIGNATURE = b"# v"


def create(
    repository: Repository, version: Version, since: Sequence[Version], out: Path
) -> BundleHeader:
    """Write the bundle of a signed release to `out`, whole or not at all.

    With `since`, a delta for those who have one of these releases: it leaves out
    what any of them has, and needs all of them.
    """
    _refuse_to_replace(out)
    tag_oid, commit = _signed(repository, version)
    needed = []
    for older in dict.fromkeys(since):
        if older == version:
            raise UsageError(f"A delta from {version} to itself would be empty.")
        needed.append((_signed(repository, older)[1], older.tag))
    cosigned = cosignatures(repository, version)
    header = BundleHeader(
        repository.object_format, version, tag_oid, tuple(needed), tuple(cosigned.items())
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(format_header(header))
            file.flush()
            tags = [tag_oid, *cosigned.values()]
            repository.pack(tags, commit, file, [oid for oid, _ in needed])
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(name).rename(out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return header


def _refuse_to_replace(out: Path) -> None:
    """A new file is renamed over `out`: it may be another bundle, never a device or a key."""
    if not os.path.lexists(out):
        return
    if out.is_file() and not out.is_symlink():
        with out.open("rb") as file:
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return
    raise UsageError(
        f"A bundle replaces another bundle at most, and {out} is something else.",
        "Give the path of a new file.",
    )


def _signed(repository: Repository, version: Version) -> tuple[str, str]:
    """Tag and commit of a release in a publisher's repository."""
    tag_oid = repository.resolve(version.ref)
    if tag_oid is None:
        raise UsageError(
            f"{repository.path} has no signed release {version}.",
            f"Sign it first: abupdate publish sign --version {version}",
        )
    with repository.reader() as reader:
        return tag_oid, parse_tag(reader.read(tag_oid, "tag", MAX_TAG), version).commit
