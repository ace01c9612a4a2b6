"""The first objects of a pack, read here and not by git: a release's tags stand before its content.

So its signature is checked when a few kilobytes have come, and the rest is not fetched where
it is not believed. Format: gitformat-pack(5). A pack that begins otherwise is fine, too: its
tags are read once it is in quarantine.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterator

from abupdate.release.tag import MAX_TAG

_HEADER = 12
_TYPES = {1: "commit", 4: "tag"}
# What may stand before the last tag: the tags of its signers, and in packs of git's own
# commits as well.
_MAX_OBJECTS = 64


def tags_at_start(data: bytes, object_format: str, wanted: Collection[str]) -> dict[str, bytes]:
    """The tags among the first objects of a pack whose ids are wanted, by id.

    `data` is where the pack begins, cut off anywhere.
    """
    found = {}
    for kind, content, _ in _objects(data):
        if kind == "tag":
            raw = b"tag %d\0" % len(content) + content
            oid = hashlib.new(object_format, raw).hexdigest()
            if oid in wanted:
                found[oid] = content
    return found


def end_of_tags(data: bytes) -> int:
    """Where the last of the tags at the start of a pack ends: bytes."""
    return max((end for kind, _, end in _objects(data) if kind == "tag"), default=0)


def _objects(data: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Commits and tags and where each ends, up to one of another kind or that is cut off."""
    if len(data) < _HEADER or not data.startswith((b"PACK\0\0\0\2", b"PACK\0\0\0\3")):
        return
    at = _HEADER
    for _ in range(min(_MAX_OBJECTS, int.from_bytes(data[8:12], "big"))):
        if at >= len(data):
            return
        first = data[at]
        kind, size, shift = _TYPES.get(first >> 4 & 7), first & 15, 4
        while data[at] & 128:
            at += 1
            # More than four bytes of size are no tag of ours.
            if at >= len(data) or shift > 4 + 3 * 7:
                return
            size |= (data[at] & 127) << shift
            shift += 7
        at += 1
        if kind is None or size > MAX_TAG:
            return
        inflate = zlib.decompressobj()
        try:
            content = inflate.decompress(data[at:], size + 1)
        except zlib.error:
            return
        if not inflate.eof or len(content) != size:
            return
        at = len(data) - len(inflate.unused_data)
        yield kind, content, at
