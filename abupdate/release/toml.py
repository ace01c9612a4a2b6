"""Values as text of a TOML file, one line each: the standard library reads TOML only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, time

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ESCAPED = {'"': '\\"', "\\": "\\\\"}
_LARGEST = (1 << 63) - 1


def key_text(key: str) -> str:
    """A key, in quotes where it needs them."""
    return key if _BARE.fullmatch(key) else _quote(key)


def value_text(value: object) -> str:
    """What `tomllib` makes `value` of: same values, same text. Recurses as deep as it nests."""
    if isinstance(value, Mapping):
        pairs = [f"{key_text(key)} = {value_text(value[key])}" for key in sorted(value)]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(value_text(item) for item in value)}]"
    return _scalar_text(value)


def _scalar_text(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            # Python writes no decimals of more than 4,300 digits, and reads any length of these.
            return hex(value) if value > _LARGEST else str(value)
        case float():
            return repr(value)
        case str():
            return _quote(value)
        case date() | time():
            return value.isoformat()
    raise TypeError(f"TOML has no {type(value).__name__}")


def _quote(text: str) -> str:
    return f'"{"".join(_character(character) for character in text)}"'


def _character(character: str) -> str:
    if character.isprintable():
        return _ESCAPED.get(character, character)
    return f"\\U{ord(character):08X}"
