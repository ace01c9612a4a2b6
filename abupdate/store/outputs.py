"""What fixups left in a slot: the paths that are not as the slot's commit has them.

A slot whose fixups ran holds its commit apart from these, so whoever asks what is
there (read-back, `verify`, the plan of the next install) needs both. As text they
are lines of a manifest, and `PATH -` for what was removed; docs/release-format.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from heapq import merge

from abupdate.store.manifest import (
    Entry,
    check_path,
    escape,
    format_entry,
    line_at,
    parse_line,
    path_of,
)

HEADER = b"abupdate-outputs 1\n"
MAX_OUTPUTS = 100_000
MAX_TEXT = 64 << 20


@dataclass(frozen=True)
class Outputs:
    """By path, sorted: what is there now, None for what was removed. No hard links."""

    by_path: Mapping[bytes, Entry | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_path)

    @cached_property
    def text(self) -> bytes:
        """One text for the same outputs."""
        lines = (
            format_entry(entry) if entry is not None else escape(path) + b" -\n"
            for path, entry in self.by_path.items()
        )
        return b"".join((HEADER, *lines))

    @property
    def digest(self) -> str | None:
        """SHA-256 of the text, None when there are no outputs."""
        return hashlib.sha256(self.text).hexdigest() if self.by_path else None

    def entries(self) -> list[Entry]:
        """What is there, sorted by path."""
        return [entry for entry in self.by_path.values() if entry is not None]

    def removed(self) -> list[bytes]:
        """What is not there any more."""
        return [path for path, entry in self.by_path.items() if entry is None]

    def over(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """A commit's paths, sorted, as the slot has them."""
        kept = (entry for entry in entries if entry.path not in self.by_path)
        return merge(kept, self.entries(), key=_path)


NOTHING = Outputs()


def make_outputs(found: Mapping[bytes, Entry | None]) -> Outputs:
    """The outputs of an unsorted mapping."""
    return Outputs(dict(sorted(found.items())))


def parse_outputs(text: bytes) -> Outputs:
    """The inverse of `Outputs.text`. Raises `ValueError` for anything else."""
    if not text.startswith(HEADER):
        raise ValueError("it does not begin with its format")
    found: dict[bytes, Entry | None] = {}
    offset = len(HEADER)
    while offset < len(text):
        line = line_at(text, offset)
        offset += len(line)
        if line.endswith(b" -\n"):
            path = path_of(line)
            check_path(path)
            found[path] = None
        else:
            entry = parse_line(line)
            found[entry.path] = entry
    outputs = make_outputs(found)
    if outputs.text != text:
        raise ValueError("its lines are not sorted, or not written the one way that there is")
    return outputs


def _path(entry: Entry) -> bytes:
    return entry.path
