"""GRUB's environment block: a header line, `name=value` lines, `#` up to the end.

Format and reading rules: grub-core/lib/envblk.c and util/grub-editenv.c of GRUB
2.06 and 2.12. The reader gives what GRUB's `load_env` would set, oddities
included: a later line of a name wins, and a value counts only with its newline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SIGNATURE = b"# GRUB Environment Block\n"
SIZE = 1024

# Up to the newline; a backslash takes the next byte along, whatever it is.
_LINE = re.compile(rb"(?:[^\\\n]|\\.)*", re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def parse_block(raw: bytes) -> dict[str, str] | None:
    """All variables, as GRUB sees them; None where GRUB says "invalid environment block"."""
    lines = parse_lines(raw)
    return None if lines is None else dict(lines)


def parse_lines(raw: bytes) -> list[tuple[str, str]] | None:
    """Every name and value in the order of the block, as `grub-editenv FILE list` prints them."""
    # GRUB compares with the size of the C string, its terminating zero included.
    if len(raw) < len(SIGNATURE) + 1 or not raw.startswith(SIGNATURE):
        return None
    lines: list[tuple[str, str]] = []
    position = len(SIGNATURE)
    while position < len(raw):
        if raw[position] != ord("#"):
            equals = raw.find(b"=", position)
            if equals < 0:
                break
            end = _end_of_line(raw, equals + 1)
            if raw[end : end + 1] != b"\n":
                break
            value = _ESCAPED.sub(rb"\1", raw[equals + 1 : end])
            lines.append((_text(raw[position:equals]), _text(value)))
            position = end
        position = _end_of_line(raw, position) + 1
    return lines


def _end_of_line(raw: bytes, position: int) -> int:
    found = _LINE.match(raw, position)
    assert found is not None  # it matches nothing as well
    return found.end()


def _text(raw: bytes) -> str:
    # A C string: GRUB sees nothing behind a zero byte.
    return raw.split(b"\0")[0].decode("latin-1")


def format_block(values: Mapping[str, str]) -> bytes:
    """A block with these variables, in a multiple of 1024 bytes."""
    text = bytearray(SIGNATURE)
    for name, value in values.items():
        escaped = value.replace("\\", "\\\\").replace("\n", "\\\n")
        text += f"{name}={escaped}\n".encode("latin-1")
    return bytes(text) + b"#" * (-len(text) % SIZE)
