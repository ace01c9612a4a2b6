"""A publisher's repository with signed releases, for tests."""

from __future__ import annotations

import random
from pathlib import Path

from abupdate.events import Events
from abupdate.release.metadata import ReleaseToml, format_release_toml
from abupdate.release.version import Version
from abupdate.signing.signature import format_payload, sign
from abupdate.store.capture import Totals, capture
from abupdate.store.repository import Repository
from tests.unit.release_keys import NOW, Key


def make_tree(folder: Path, release: int) -> Path:
    """A small root filesystem; every release shares a large file with the others."""
    tree = folder / f"tree{release}"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/os-release").write_text(f"VERSION={release}\n")
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/tool").write_bytes(random.Random(0).randbytes(300_000))
    (tree / "usr/bin/link").symlink_to("tool")
    # Nearly the same in each release: the delta is thin.
    text = "".join(f"line {number}\n" for number in range(5000))
    (tree / "usr/notes").write_text(text + f"release {release}\n")
    return tree


def publish(repository: Repository, key: Key, tree: Path, version: str) -> str:
    """Capture, describe and sign a release; its commit."""

    def describe(totals: Totals) -> bytes:
        return format_release_toml(
            ReleaseToml(
                version=Version(version),
                compatible="acme",
                bytes=totals.bytes,
                inodes=totals.inodes,
                created=NOW,
            )
        )

    captured = capture(tree, repository, describe, Events(), subject=version, date=NOW)
    text = format_payload(
        commit=captured.commit,
        version=Version(version),
        manifest_sha256=captured.manifest_sha256,
        compatible="acme",
        tagger="Acme <release@example.org>",
        tagger_time=NOW,
    )
    tag = repository.write_object("tag", sign(text, key.path))
    repository.set_ref(Version(version).ref, tag)
    return captured.commit
