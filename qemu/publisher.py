"""Signed releases and their bundles, for test machines: a publisher with a throw-away key.

Key, commits and bundles live in the cache. Releases that follow each other
share a repository; it is extended one release at a time, so that two tests
with the same first releases build those once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cache
import guest

from abupdate.bundle.write import create
from abupdate.events import Events
from abupdate.release import tag
from abupdate.release.metadata import ReleaseToml, format_release_toml
from abupdate.release.version import Version
from abupdate.run import run
from abupdate.signing import signature
from abupdate.store.capture import Totals, capture
from abupdate.store.repository import Repository

# The code that makes a release: another one is built when it changes.
MADE_BY = ("store", "release", "signing", "bundle", "publish")
PRINCIPAL = "demo@localhost"


@dataclass(frozen=True)
class Key:
    """The publisher's key pair, and what devices are told of it."""

    folder: Path

    @property
    def private(self) -> Path:
        """The private key."""
        return self.folder / "key"

    @property
    def allowed_signers(self) -> Path:
        """The file that devices check signatures against."""
        return self.folder / "allowed_signers"


def key(name: str = "demo") -> Key:
    """The throw-away key of that name; made once."""

    def make(path: Path) -> None:
        path.mkdir()
        line = signature.generate_key(path / "key", PRINCIPAL)
        (path / "allowed_signers").write_text(f"{line}\n")

    return Key(cache.cached("key", (name,), "", make))


@dataclass(frozen=True)
class Series:
    """Releases in one repository, each signed."""

    repository: Path
    releases: tuple[guest.Release, ...]

    def bundle(self, version: str, since: Sequence[str] = ()) -> Path:
        """The bundle of a release: full, or what devices with `since` lack."""
        repository = Repository(self.repository)
        versions = [Version(text) for text in since]
        return cache.cached(
            "bundle",
            (self.repository.name, version, tuple(since)),
            ".bundle",
            lambda path: _bundle(repository, Version(version), versions, path),
        )


def _bundle(repository: Repository, version: Version, since: list[Version], path: Path) -> None:
    create(repository, version, since, path)


def publish(releases: Sequence[guest.Release], signer: Key | None = None) -> Series:
    """Build, commit and sign releases, in their order."""
    signer = signer or key()
    series = Path()
    for number, release in enumerate(releases):
        root = guest.build(release, signer.allowed_signers.read_text())
        before = series if number else None
        series = _extended(before, release, root, signer)
    return Series(series, tuple(releases))


def _extended(before: Path | None, release: guest.Release, root: Path, signer: Key) -> Path:
    project = cache.PROJECT / "abupdate"
    inputs = (
        *(before.name if before else "", root.name, release.version, signer.folder.name),
        release.compatible,
        *(project / name for name in MADE_BY),
        Path(__file__),
    )

    def make(path: Path) -> None:
        if before is not None:
            # git replaces files and never changes them, so the copies can share them.
            run(["cp", "--archive", "--link", before, path])
            repository = Repository(path)
        else:
            repository = Repository.create(path)
        _commit(repository, release, root, signer)

    return cache.cached("series", inputs, ".git", make)


def _commit(repository: Repository, release: guest.Release, root: Path, signer: Key) -> None:
    version = Version(release.version)

    def describe(totals: Totals) -> bytes:
        return format_release_toml(
            ReleaseToml(
                version=version,
                compatible=release.compatible,
                bytes=totals.bytes,
                inodes=totals.inodes,
                created=totals.newest,
            )
        )

    captured = capture(root, repository, describe, Events(), subject=f"Release {version}")
    payload = tag.format_payload(
        commit=captured.commit,
        version=version,
        manifest_sha256=captured.manifest_sha256,
        compatible=release.compatible,
        tagger=f"Demo <{PRINCIPAL}>",
        tagger_time=guest.midnight(),
    )
    signed = repository.write_object("tag", signature.sign(payload, signer.private))
    repository.set_ref(version.ref, signed)
