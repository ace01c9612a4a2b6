"""What a publisher does: commit a root filesystem, sign it, check a bundle, list releases.

A commit waits at `refs/abupdate/commits/<version>` until it is signed; the tag
`release/<version>` then takes its place. A version is published once.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from abupdate.bundle.branch import check_branch
from abupdate.bundle.candidate import cosignatures, signed_releases
from abupdate.bundle.read import Incoming, read_header
from abupdate.errors import (
    NothingToDoError,
    NotTrustedError,
    RefusedError,
    SourceError,
    UsageError,
)
from abupdate.events import Events
from abupdate.release.fixups import fixups
from abupdate.release.metadata import ReleaseToml, format_release_toml, parse_release_toml
from abupdate.release.tag import MAX_COSIGNERS, MAX_TAG, SignedTag, is_cosigner, parse_tag
from abupdate.release.version import Version
from abupdate.signing.signature import TrustFiles, Verified, format_payload, sign
from abupdate.signing.threshold import believe
from abupdate.store.capture import Captured, Totals, capture
from abupdate.store.content import CommitContent, open_commit
from abupdate.store.repository import Repository

_WAITING = "refs/abupdate/commits/"
# Bytes: somebody checks a file of his own.
_LARGEST = 1 << 50


@dataclass(frozen=True)
class Description:
    """What the publisher says of a release; sizes and date come from the content."""

    version: Version
    compatible: str
    floor: Version | None = None
    min_from: Version | None = None
    fixups_write: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Refused here, and not after minutes of capturing.
        self.release_toml(Totals(0, 0, 0, 0), 0)

    def release_toml(self, totals: Totals, created: int | None) -> ReleaseToml:
        """All of it; `created` (seconds since the epoch) defaults to the newest file's time."""
        return ReleaseToml(
            version=self.version,
            compatible=self.compatible,
            bytes=totals.bytes,
            inodes=totals.inodes,
            created=max(0, totals.newest) if created is None else created,
            floor=self.floor,
            min_from=self.min_from,
            fixups_write=self.fixups_write,
        )


@dataclass(frozen=True)
class Checked:
    """A bundle that a device would believe, and what it holds."""

    verified: Verified
    release: ReleaseToml
    files: int
    bytes: int
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """One release of a repository. `tag` is None while it is not signed."""

    version: Version
    commit: str
    tag: SignedTag | None
    cosigners: tuple[str, ...] = ()


def open_repository(path: Path, *, create: bool = False) -> Repository:
    """A publisher's repository, made with SHA-256 when it is missing and `create` is set."""
    if (path / ".git").is_dir():
        path = path / ".git"
    if (path / "HEAD").is_file() and (path / "objects").is_dir():
        return Repository(path)
    if not create:
        raise UsageError(
            f"A repository of releases was expected at {path}, there is none.",
            "`abupdate publish commit` makes one.",
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is neither empty nor a git repository.", "Choose another folder.")
    path.mkdir(parents=True, exist_ok=True)
    return Repository.create(path)


def require_outside(path: Path, source: Path | IO[bytes]) -> None:
    """Raise `UsageError` for a repository that would become a part of its own releases."""
    if isinstance(source, Path) and source.resolve() in path.resolve().parents:
        raise UsageError(
            f"The repository {path} is inside the root filesystem {source}, and would become a "
            "part of each release.",
            "Put it elsewhere.",
        )


def commit(
    repository: Repository,
    source: Path | IO[bytes],
    description: Description,
    events: Events,
    date: int | None = None,
    branch: str | None = None,
) -> Captured:
    """Capture a root filesystem as the commit of a release that is not signed yet.

    `branch`: one that is to be at this commit, for development. `date`: seconds since the
    epoch, of commit and release (default: the newest file's). The same content again is
    fine; other content for a version that is signed raises `RefusedError`.
    """
    version = description.version
    if branch is not None:
        check_branch(branch)

    def describe(totals: Totals) -> bytes:
        return format_release_toml(description.release_toml(totals, date))

    captured = capture(
        source, repository, describe, events, subject=f"Release {version}", date=date
    )
    signed = repository.resolve(version.ref)
    if signed is None:
        repository.set_ref(_WAITING + version.text, captured.commit)
    elif _tag(repository, version, signed).commit != captured.commit:
        raise RefusedError(
            f"Release {version} is signed already, with other content "
            f"(commit {_tag(repository, version, signed).commit}, this is {captured.commit}).",
            "A version is published once; give the new content a new version.",
        )
    if branch is not None:
        repository.set_ref(f"refs/heads/{branch}", captured.commit)
        repository.list_for_static_servers()
    return captured


def sign_release(
    repository: Repository,
    version: Version,
    key: Path,
    *,
    tagger: str,
    terminal: IO[bytes] | None = None,
) -> str:
    """Sign the commit that waits for it; gives the id of the tag.

    The whole content is hashed before, so that what is signed is what was
    captured. Raises `NothingToDoError` when the release is signed already.
    """
    if (tag := repository.resolve(version.ref)) is not None:
        raise NothingToDoError(
            f"Release {version} is signed already (tag {tag}).",
            "A version is published once; give new content a new version.",
        )
    waiting = repository.resolve(_WAITING + version.text)
    if waiting is None:
        raise UsageError(
            f"{repository.path} has no commit for release {version}.",
            f"Make it first: abupdate publish commit ROOTFS --version {version}",
        )
    with open_commit(repository, waiting) as content:
        release = _described(content, version)
        fixups(content.manifest)
        content.hash_all()
        payload = format_payload(
            commit=waiting,
            version=version,
            manifest_sha256=content.manifest_sha256,
            compatible=release.compatible,
            tagger=tagger,
            tagger_time=int(time.time()),
        )
    raw = sign(payload, key, terminal)
    parse_tag(raw, version)
    tag = repository.write_object("tag", raw)
    repository.set_ref(version.ref, tag)
    repository.delete_ref(_WAITING + version.text)
    repository.list_for_static_servers()
    return tag


def cosign_release(
    repository: Repository,
    version: Version,
    key: Path,
    signer: str,
    *,
    tagger: str,
    terminal: IO[bytes] | None = None,
) -> str:
    """Add the tag of a further signer to a release that is signed; gives its id.

    `signer` is the name under which devices list the key. The whole content is hashed
    before. Raises `NothingToDoError` when this signer has signed it already.
    """
    if not is_cosigner(signer):
        raise UsageError(
            f"A signer's name that can end a tag's name was expected, found {signer[:80]!r}.",
            "Example: bob@example.org, as in the allowed_signers of the devices.",
        )
    first_oid = repository.resolve(version.ref)
    if first_oid is None:
        raise UsageError(
            f"{repository.path} has no signed release {version} to add a signature to.",
            f"Sign it first: abupdate publish sign --version {version}",
        )
    present = cosignatures(repository, version)
    if signer in present:
        raise NothingToDoError(f"{signer} has signed release {version} already.")
    if len(present) == MAX_COSIGNERS:
        raise UsageError(f"Release {version} has {MAX_COSIGNERS} further signers, the most.")
    first = _tag(repository, version, first_oid)
    with open_commit(repository, first.commit, first.manifest_sha256) as content:
        content.hash_all()
    payload = format_payload(
        commit=first.commit,
        version=version,
        manifest_sha256=first.manifest_sha256,
        compatible=first.compatible,
        tagger=tagger,
        tagger_time=int(time.time()),
        cosigner=signer,
    )
    raw = sign(payload, key, terminal)
    parse_tag(raw, version, signer)
    tag = repository.write_object("tag", raw)
    repository.set_ref(f"{version.ref}+{signer}", tag)
    repository.list_for_static_servers()
    return tag


def check_bundle(
    bundle: Path, trust: TrustFiles, base: Repository | None, events: Events
) -> Checked:
    """Do all that a device does to believe a bundle, and hash every byte of it.

    `base`: where the releases are that a delta needs. The signature is judged
    at the tag's own date.
    """
    trust.require_keys()
    with _opened(bundle) as file:
        size = os.fstat(file.fileno()).st_size
        header = read_header(file)
    with tempfile.TemporaryDirectory(prefix="abupdate-") as folder:
        store = Repository.create(
            Path(folder) / "store.git",
            object_format=header.object_format,
            alternates=base.path.absolute() / "objects" if base else None,
        )
        with (
            _opened(bundle) as file,
            Incoming(file, store, _LARGEST, events, size).receive() as received,
        ):
            verified = believe(received.statement, trust, 0)
            with open_commit(
                received.repository, verified.commit, verified.manifest_sha256
            ) as content:
                release = _described(content, verified.version)
                if release.compatible != verified.compatible:
                    raise NotTrustedError(
                        f"The tag is signed for {verified.compatible}, the release inside "
                        f"is for {release.compatible}."
                    )
                files, content_size = content.hash_all()
    needs = tuple(comment or oid for oid, comment in header.prerequisites)
    return Checked(verified, release, files, content_size, needs)


def releases(repository: Repository) -> list[Listed]:
    """All releases, the highest version first. Signatures are not verified."""
    found = []
    for version, tag_oid in signed_releases(repository).items():
        tag = _tag(repository, version, tag_oid)
        found.append(Listed(version, tag.commit, tag, tuple(cosignatures(repository, version))))
    signed = {listed.version for listed in found}
    for ref, oid in repository.refs(_WAITING).items():
        version = Version(ref[len(_WAITING) :])
        if version not in signed:
            found.append(Listed(version, oid, None))
    return sorted(found, key=lambda listed: listed.version, reverse=True)


def _tag(repository: Repository, version: Version, oid: str) -> SignedTag:
    if (kind := repository.kind(oid)) != "tag":
        raise RefusedError(
            f"{version.ref} of {repository.path} is a {kind}, not a signed tag.",
            "Delete that ref, and sign the release with `abupdate publish sign`.",
        )
    with repository.reader() as reader:
        return parse_tag(reader.read(oid, "tag", MAX_TAG), version)


def _described(content: CommitContent, version: Version) -> ReleaseToml:
    release = parse_release_toml(content.release_toml)
    if release.version != version:
        raise NotTrustedError(
            f"Release {version} was expected, its release.toml says {release.version}."
        )
    return release


def _opened(bundle: Path) -> AbstractContextManager[IO[bytes]]:
    try:
        return bundle.open("rb")
    except OSError as error:
        raise SourceError(f"A bundle should be readable at {bundle}: {error.strerror}.") from error
