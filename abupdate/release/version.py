"""A release's version, and how versions compare.

Rules: docs/release-format.md. Not beside release.toml, whose model takes long to import.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, total_ordering

from abupdate.errors import UsageError

MAX_VERSION = 64
_NUMBER = r"(?:0|[1-9][0-9]*)"
VERSION_PATTERN = rf"({_NUMBER}(?:\.{_NUMBER})*)(?:-([a-z]+)(?:\.({_NUMBER}))?)?"
_VERSION = re.compile(VERSION_PATTERN, re.ASCII)


@total_ordering
@dataclass(frozen=True)
class Version:
    """A release's version: dotted numbers, and `-word` or `-word.number` for a pre-release.

    Order: the numbers one by one, a missing one before any (1 < 1.0 < 1.0.1);
    with equal numbers a pre-release before the release, by word, then by number
    (2-beta < 2-rc < 2-rc.1 < 2-rc.10 < 2). Numbers have no leading zeros, so two
    texts never stand for one version, and every version is a legal part of a git ref.
    """

    text: str

    def __post_init__(self) -> None:
        if len(self.text) > MAX_VERSION or not _VERSION.fullmatch(self.text):
            raise UsageError(
                f"A version is dotted numbers without leading zeros and at most one suffix "
                f"like -rc.1, {MAX_VERSION} characters at most; found {self.text[:80]!r}.",
                "Examples: 7, 2026.4.1, 1.2.0-rc.1.",
            )

    @classmethod
    def parse(cls, text: str) -> Version:
        """The version that `text` stands for. Raises `UsageError`."""
        return cls(text)

    @cached_property
    def _key(self) -> tuple[tuple[int, ...], bool, str, int]:
        match = _VERSION.fullmatch(self.text)
        assert match is not None
        numbers, word, number = match.groups()
        return (
            tuple(int(part) for part in numbers.split(".")),
            word is None,
            word or "",
            -1 if number is None else int(number),
        )

    def __lt__(self, other: Version) -> bool:
        return self._key < other._key

    def __str__(self) -> str:
        return self.text

    @property
    def tag(self) -> str:
        """The name of the release's tag, without `refs/tags/`."""
        return f"release/{self.text}"

    @property
    def ref(self) -> str:
        """The release's ref."""
        return f"refs/tags/{self.tag}"
