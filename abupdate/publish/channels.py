"""Channels at the publisher: which release devices should run, said anew with each promotion."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import IO

from abupdate.bundle.candidate import Signed, cosignatures
from abupdate.errors import UsageError
from abupdate.release.channel import PREFIX as CHANNELS
from abupdate.release.channel import (
    ChannelTag,
    check_channel,
    format_channel,
    join_tags,
    parse_channel,
)
from abupdate.release.tag import MAX_TAG, parse_tag
from abupdate.release.version import Version
from abupdate.signing.signature import sign
from abupdate.store.repository import Repository


def promote(
    repository: Repository,
    name: str,
    version: Version,
    key: Path,
    valid_until: int,
    *,
    tagger: str,
    terminal: IO[bytes] | None = None,
) -> ChannelTag:
    """Make a signed release the one of a channel, until `valid_until` (seconds since the epoch).

    The same release again makes the channel fresh again.
    """
    check_channel(name)
    oid = repository.resolve(version.ref)
    if oid is None:
        raise UsageError(
            f"{repository.path} has no signed release {version}.",
            f"Sign it first: abupdate publish sign --version {version}",
        )
    statement = Signed(version, oid, repository, cosignatures(repository, version)).statement
    tags = join_tags(statement)
    before = current(repository, name)
    payload = format_channel(
        name=name,
        tags=repository.write_object("blob", tags),
        tags_sha256=hashlib.sha256(tags).hexdigest(),
        release=version,
        sequence=1 if before is None else before.sequence + 1,
        valid_until=valid_until,
        compatible=parse_tag(statement.tag, version).compatible,
        tagger=tagger,
        tagger_time=int(time.time()),
    )
    raw = sign(payload, key, terminal)
    made = parse_channel(raw, name)
    repository.set_ref(f"{CHANNELS}{name}", repository.write_object("tag", raw))
    repository.list_for_static_servers()
    return made


def current(repository: Repository, name: str) -> ChannelTag | None:
    """What a channel says now; None where there is none. Its signature is not verified."""
    oid = repository.resolve(f"{CHANNELS}{name}")
    if oid is None:
        return None
    with repository.reader() as reader:
        return parse_channel(reader.read(oid, "tag", MAX_TAG), name)


def all_of(repository: Repository) -> list[ChannelTag]:
    """All channels of a repository, by name. Signatures are not verified."""
    names = sorted(ref.removeprefix(CHANNELS) for ref in repository.refs(CHANNELS))
    return [found for name in names if (found := current(repository, name)) is not None]
