"""A bundle is made: one file that carries a release. Format: docs/release-format.md."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from abupdate.bundle import zstd
from abupdate.bundle.candidate import cosignatures
from abupdate.bundle.header import BundleHeader, format_header
from abupdate.bundle.packstart import end_of_tags
from abupdate.errors import UsageError
from abupdate.release.tag import MAX_TAG, parse_tag
from abupdate.release.version import Version
from abupdate.store.readable import chunks
from abupdate.store.repository import Repository

_SIGNATURE = b"# v"


def create(
    repository: Repository,
    version: Version,
    since: Sequence[Version],
    out: Path,
    *,
    in_zstd: bool = False,
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
    with _new(out) as file:
        tags = [tag_oid, *cosigned.values()]
        bases = [oid for oid, _ in needed]
        with (
            tempfile.TemporaryFile(dir=out.parent) if in_zstd else nullcontext(file) as plain,
            repository.packing(tags, commit, bases, small=True) as pack,
        ):
            plain.write(format_header(header))
            plain.writelines(chunks(pack))
            plain.flush()
            if in_zstd:
                os.lseek(plain.fileno(), 0, os.SEEK_SET)  # another program reads on from there
                zstd.pack_up(plain, _beginning(header, plain), file)
    return header


def _beginning(header: BundleHeader, bundle: IO[bytes]) -> bytes:
    """As much of it as tells who has signed it."""
    text = os.pread(bundle.fileno(), zstd.MAX_BEGINNING, 0)
    length = len(format_header(header))
    return text[: length + end_of_tags(text[length:])]


@contextmanager
def _new(out: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `out` once it is whole, and on the disk."""
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(name).rename(out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _refuse_to_replace(out: Path) -> None:
    """A new file is renamed over `out`: it may be another bundle, never a device or a key."""
    if not os.path.lexists(out):
        return
    if out.is_file() and not out.is_symlink():
        with out.open("rb") as file:
            first = file.read(zstd.MAGIC_SIZE)
            if first.startswith(_SIGNATURE) or zstd.is_zstd(first):
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
