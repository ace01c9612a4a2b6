"""Bundles of two releases, and a device that takes them or does not."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from abupdate.bundle.read import Incoming, Received
from abupdate.bundle.write import create
from abupdate.errors import (
    AbupdateError,
)
from abupdate.events import Events
from abupdate.release.version import Version
from abupdate.run import Sandbox
from abupdate.store.repository import Repository
from tests.unit.release_keys import Key, make_key
from tests.unit.release_repository import make_tree, publish

ONE, TWO = Version("1"), Version("2")
LIMIT = 1 << 24


@dataclass(frozen=True)
class Publisher:
    repository: Repository
    key: Key
    commits: dict[Version, str]
    full: dict[Version, bytes]
    delta: bytes


def make_publisher(folder: Path, object_format: str) -> Publisher:
    repository = Repository.create(folder / "releases.git", object_format=object_format)
    key = make_key(folder, "alice")
    commits = {
        version: publish(repository, key, make_tree(folder, number), str(version))
        for number, version in ((1, ONE), (2, TWO))
    }
    full = {version: bundle_of(repository, version, [], folder) for version in commits}
    return Publisher(repository, key, commits, full, bundle_of(repository, TWO, [ONE], folder))


def bundle_of(repository: Repository, version: Version, since: list[Version], to: Path) -> bytes:
    create(repository, version, since, to / "bundle")
    return (to / "bundle").read_bytes()


class Device:
    """A store, and all that a failed bundle may not change of it."""

    def __init__(self, folder: Path, object_format: str, sandbox: Sandbox | None = None) -> None:
        self.folder = folder
        self.store = Repository.create(
            folder / "store.git", object_format=object_format, sandbox=sandbox
        )

    def receive(self, raw: bytes, limit: int = LIMIT) -> Received:
        return Incoming(Pipe(raw), self.store, limit, Events()).receive()

    def install(self, raw: bytes) -> None:
        with self.receive(raw) as received:
            received.join()

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


class Pipe:
    """Bytes that can be read once, in uneven pieces."""

    def __init__(self, raw: bytes) -> None:
        self._stream = io.BytesIO(raw)
        self._sizes = random.Random(1)

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._sizes.choice((1, 7, 100, 5000))))


def names(folder: Path) -> list[str]:
    """What is in a folder; nothing when it is missing."""
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def refused(device: Device, raw: bytes) -> AbupdateError:
    """The error that a bundle is refused with; the device is as before."""
    before = device.files()
    with pytest.raises(AbupdateError) as caught, device.receive(raw):
        pass
    assert device.files() == before
    assert names(device.folder / "spool") == []
    return caught.value


def verify_shape(received: Received) -> None:
    from abupdate.release.tag import parse_tag

    parse_tag(received.statement.tag, received.version)
