"""Patterns of paths, as settings and releases write them."""

from __future__ import annotations

import re
from collections.abc import Callable

_ANY = rb"(?:/[^/]+)*"
_WILD = {b"*": rb"[^/]*", b"?": rb"[^/]"}


def glob(pattern: str) -> Callable[[bytes], bool]:
    """Whether a path, relative, is meant.

    `*` and `?` stand for what has no slash; `**` for any number of parts, none
    included, so that `a/**` has `a` as well.
    """
    parts = []
    for part in pattern.encode().split(b"/"):
        if part != b"**":
            words = re.split(rb"([*?])", part)
            parts.append(b"/" + b"".join(_WILD.get(word, re.escape(word)) for word in words))
        elif not parts or parts[-1] != _ANY:  # two of them say no more than one
            parts.append(_ANY)
    expression = re.compile(b"".join(parts), re.DOTALL)
    return lambda path: expression.fullmatch(b"/" + path) is not None
