"""A release that nobody trusts yet: its tag, and the repository that its content comes from.

It came in a bundle (`bundle.receive`), or an earlier install left it in the store
(`stored`): that one is checked again as well, since keys are revoked and disks rot.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Self

from abupdate.errors import SourceError, UsageError
from abupdate.release.tag import MAX_TAG, Reason, TagRefusedError
from abupdate.release.version import Version
from abupdate.store.repository import Repository

_PREFIX = "refs/tags/release/"
_SHOWN = 5


class Candidate:
    """A release to be checked; here one that the store has. Use as a context.

    Nothing of it is trusted: `raw_tag` is for `signature.verify`, `repository` for the
    verified content. `needs`: releases or commits that it was a delta to; `transferred`:
    bytes that were read to have it; `checked`: whether every object was hashed as it came.
    """

    transferred = 0
    checked = False
    needs: tuple[str, ...] = ()

    def __init__(self, version: Version, tag_oid: str, repository: Repository) -> None:
        self.version = version
        self.tag_oid = tag_oid
        self.repository = repository

    @cached_property
    def raw_tag(self) -> bytes:
        """The tag object, its id checked. Raises `TagRefusedError` when there is none."""
        kind = self.repository.kind(self.tag_oid)
        if kind is None:
            raise SourceError(
                f"The tag of release {self.version} should be object {self.tag_oid}, "
                "and the repository does not hold it.",
                "Get the bundle again from its source.",
            )
        if kind != "tag":
            raise TagRefusedError(
                Reason.NO_SIGNATURE,
                f"{self.version.tag} names a {kind} directly, without a signed tag.",
                "Sign the release with `abupdate publish sign`.",
            )
        with self.repository.reader() as reader:
            return reader.read(self.tag_oid, "tag", MAX_TAG)

    def join(self) -> None:
        """Make the release part of the store, on the disk when this returns."""

    def discard(self) -> None:
        """Delete what has not joined; once or more often."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def stored(store: Repository, version: Version) -> Candidate:
    """A release that the store has. Raises `SourceError` where it has not."""
    tag_oid = store.resolve(version.ref)
    if tag_oid is None:
        kept = sorted(signed_releases(store))
        newest = ", ".join(str(one) for one in kept[::-1][:_SHOWN]) or "none"
        raise SourceError(
            f"The store should have release {version}, found {newest}"
            f"{' and older ones' if len(kept) > _SHOWN else ''}.",
            f"Install it from a bundle. A file of that name is given as ./{version.tag}",
        )
    return Candidate(version, tag_oid, store)


def signed_releases(repository: Repository) -> dict[Version, str]:
    """Version → tag of every release, as refs tell; a ref that is no version is let be."""
    found = {}
    for ref, oid in repository.refs(_PREFIX).items():
        with suppress(UsageError):
            found[Version(ref.removeprefix(_PREFIX))] = oid
    return found
