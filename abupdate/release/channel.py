"""A channel: the signed word on which release devices should run, and until when that is news.

The tag `channel/NAME` stands on a blob that holds the release's own tags, so that few
bytes tell what is to be fetched and who says so. Its sequence rises with each tag, and
a device goes back to none that it has seen; after `valid_until` it is stale: perhaps
somebody keeps newer ones away. Format: docs/release-format.md.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from abupdate.errors import UsageError
from abupdate.release.compatible import check_compatible
from abupdate.release.tag import (
    COMPATIBLE,
    LAST_SECOND,
    MAX_COSIGNERS,
    MAX_TAG,
    Reason,
    SignedText,
    Statement,
    TagRefusedError,
    is_cosigner,
    open_tag,
    tag_name,
)
from abupdate.release.version import MAX_VERSION, Version

PREFIX = "refs/tags/channel/"
MAX_TAGS = (1 + MAX_COSIGNERS) * MAX_TAG
MAX_SEQUENCE = 2**53

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_END = b"-----END SSH SIGNATURE-----\n"
_TAG_LINE = re.compile(rb"^tag ([^\n]{1,400})$", re.MULTILINE)


@dataclass(frozen=True)
class ChannelTag(SignedText):
    """A channel's tag of the right shape, its signature not yet verified.

    `valid_until`: seconds since the epoch. `tags`: the object that holds the release's
    tags, `tags_sha256` the hash of those bytes.
    """

    name: str
    tags: str
    release: Version
    sequence: int
    valid_until: int
    compatible: str
    tags_sha256: str


def check_channel(name: str) -> str:
    """The name, when it can be a channel's. Raises `UsageError`."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"A channel's name is up to 64 small letters, digits and '-'; found {name[:80]!r}.",
            "Example: stable",
        )
    return name


def format_channel(
    *,
    name: str,
    tags: str,
    tags_sha256: str,
    release: Version,
    sequence: int,
    valid_until: int,
    compatible: str,
    tagger: str,
    tagger_time: int,
) -> bytes:
    """The text of a channel's tag, up to where its signature begins. Raises `UsageError`."""
    check_channel(name)
    check_compatible(compatible)
    if not 0 < sequence <= MAX_SEQUENCE or not tagger_time < valid_until <= LAST_SECOND:
        raise UsageError(
            f"A channel's sequence begins with 1, and it is valid until after it is signed; found "
            f"sequence {sequence}, signed {_utc(tagger_time)}, valid until {_utc(valid_until)}."
        )
    text = (
        f"object {tags}\ntype blob\ntag channel/{name}\ntagger {tagger} {tagger_time} +0000\n\n"
        f"Channel {name}: release {release}\n\n"
        f"Release: {release}\nSequence: {sequence}\nValid-Until: {_utc(valid_until)}\n"
        f"Compatible: {compatible}\nTags-SHA256: {tags_sha256}\n"
    )
    return text.encode("utf-8")


def parse_channel(raw: bytes, name: str) -> ChannelTag:
    """Take the tag of channel `name` apart. Raises `TagRefusedError`."""
    opened = open_tag(raw, f"channel/{name}", "blob")
    version = opened.field("Release", rb"[0-9a-z.-]{1,%d}" % MAX_VERSION)
    until = opened.field("Valid-Until", rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
    sequence = int(opened.field("Sequence", rb"[1-9][0-9]{0,15}"))
    try:
        release = Version(version)
        valid_until = int(datetime.strptime(until, _TIME).replace(tzinfo=UTC).timestamp())
    except (UsageError, ValueError) as error:
        raise TagRefusedError(
            Reason.SHAPE, f"The tag of channel {name} has a wrong release or date: {error}"
        ) from error
    return ChannelTag(
        **vars(opened.text),
        name=name,
        tags=opened.target,
        release=release,
        sequence=sequence,
        valid_until=valid_until,
        compatible=opened.field("Compatible", COMPATIBLE),
        tags_sha256=opened.field("Tags-SHA256", rb"[0-9a-f]{64}"),
    )


def join_tags(statement: Statement) -> bytes:
    """A release's tags as one text: its own first."""
    return b"".join((statement.tag, *statement.cosigned.values()))


def split_tags(channel: ChannelTag, raw: bytes) -> Statement:
    """The release's tags that a channel's tag is on. Raises `TagRefusedError`."""
    if hashlib.sha256(raw).hexdigest() != channel.tags_sha256:
        raise _wrong(channel, "they are others than its tag says")
    parts = [part + _END for part in raw.split(_END)]
    tags, rest = parts[:-1], parts[-1]
    if not tags or rest != _END or len(tags) > 1 + MAX_COSIGNERS:
        raise _wrong(channel, "they do not end with a signature each")
    cosigned = {}
    for tag in tags[1:]:
        line = _TAG_LINE.search(tag)
        name = line[1].decode("ascii", "replace") if line else ""
        signer = name.removeprefix(tag_name(channel.release) + "+")
        if signer == name or not is_cosigner(signer) or signer in cosigned:
            raise _wrong(channel, f"{name[:80]!r} is none of a further signer")
        cosigned[signer] = tag
    return Statement(channel.release, tags[0], cosigned)


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _wrong(channel: ChannelTag, text: str) -> TagRefusedError:
    return TagRefusedError(
        Reason.SHAPE,
        f"Channel {channel.name} should hold the tags of release {channel.release}, but {text}.",
        "They are made with `abupdate publish promote`.",
    )
