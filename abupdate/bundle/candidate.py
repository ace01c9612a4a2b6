"""A release that nobody trusts yet: its tag, and the repository that its content comes from.

It came in a bundle (`bundle.receive`), or an earlier install left it in the store
(`stored`): that one is checked again as well, since keys are revoked and disks rot.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Self

from abupdate.errors import SourceError, UsageError
from abupdate.release.tag import (
    MAX_TAG,
    Reason,
    Statement,
    TagRefusedError,
    is_cosigner,
    tag_name,
)
from abupdate.release.version import Version
from abupdate.store.repository import Repository

_PREFIX = "refs/tags/release/"
_SHOWN = 5


class Candidate:
    """A release to be checked, and where its content is read from. Use as a context.

    Nothing of it is trusted. `needs`: releases or commits that it was a delta to;
    `transferred`: bytes that were read to have it; `checked`: whether every object was
    hashed as it came. `tag_oid` is empty where nobody has signed it.
    """

    transferred = 0
    checked = False
    needs: tuple[str, ...] = ()

    def __init__(self, repository: Repository, tag_oid: str) -> None:
        self.repository = repository
        self.tag_oid = tag_oid

    def join(self) -> None:
        """Make the release part of the store, on the disk when this returns."""

    def discard(self) -> None:
        """Delete what has not joined; once or more often."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


class Signed(Candidate):
    """A release with a tag; here one that the store has.

    `statement` is for `threshold.believe`. `cosigned`: further signers and the objects of
    their tags.
    """

    def __init__(
        self,
        version: Version,
        tag_oid: str,
        repository: Repository,
        cosigned: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(repository, tag_oid)
        self.version = version
        self.cosigned = dict(cosigned or {})

    @cached_property
    def statement(self) -> Statement:
        """The tags, their ids checked. Raises `TagRefusedError` when there are none."""
        return Statement(
            self.version,
            self._tag(self.tag_oid, None),
            {signer: self._tag(oid, signer) for signer, oid in self.cosigned.items()},
        )

    def _tag(self, oid: str, cosigner: str | None) -> bytes:
        kind = self.repository.kind(oid)
        if kind is None:
            raise SourceError(
                f"The tag of release {self.version} should be object {oid}, "
                "and the repository does not hold it.",
                "Get the bundle again from its source.",
            )
        if kind != "tag":
            raise TagRefusedError(
                Reason.NO_SIGNATURE,
                f"{tag_name(self.version, cosigner)} names a {kind} directly, "
                "without a signed tag.",
                "Sign the release with `abupdate publish sign`.",
            )
        with self.repository.reader() as reader:
            return reader.read(oid, "tag", MAX_TAG)


def stored(store: Repository, version: Version) -> Signed:
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
    return Signed(version, tag_oid, store, cosignatures(store, version))


def signed_releases(repository: Repository) -> dict[Version, str]:
    """Version → tag of every release, as refs tell; a ref that is no version is let be."""
    found = {}
    for ref, oid in repository.refs(_PREFIX).items():
        with suppress(UsageError):
            found[Version(ref.removeprefix(_PREFIX))] = oid
    return found


def cosignatures(repository: Repository, version: Version) -> dict[str, str]:
    """Further signers of a release → their tags."""
    prefix = f"{version.ref}+"
    found = {
        ref.removeprefix(prefix): oid
        for ref, oid in repository.refs(_PREFIX).items()
        if ref.startswith(prefix)
    }
    return {signer: oid for signer, oid in found.items() if is_cosigner(signer)}
