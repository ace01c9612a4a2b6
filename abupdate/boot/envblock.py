"""GRUB's environment block: a header line, `name=value` lines, `#` up to the end.

Format and reading rules: grub-core/lib/envblk.c and util/grub-editenv.c of GRUB
2.06 and 2.12. The reader gives what GRUB's `load_env` would set, oddities
included: a later line of a name wins, and a value counts only with its newline.
"""

from __future__ import annotations

from collections.abc import Mapping

SIGNATURE = b"# GRUB Environment Block\n"
SIZE = 1024


def parse_block(raw: bytes) -> dict[str, str] | None:
    """All variables, as GRUB sees them; None where GRUB says "invalid environment block"."""
    # GRUB compares with the size of the C string, its terminating zero included.
    if len(raw) < len(SIGNATURE) + 1 or not raw.startswith(SIGNATURE):
        return None
    values: dict[str, str] = {}
    position = len(SIGNATURE)
    while position < len(raw):
        if raw[position] != ord("#"):
            equals = raw.find(b"=", position)
            if equals < 0:
                break
            value, end = _value(raw, equals + 1)
            if end >= len(raw):
                break
            values[_text(raw[position:equals])] = _text(value)
            position = end
        position = _next_line(raw, position)
    return values


def _value(raw: bytes, position: int) -> tuple[bytes, int]:
    """The value that starts here, without its escapes, and where its newline is."""
    value = bytearray()
    while position < len(raw) and raw[position] != ord("\n"):
        if raw[position] == ord("\\"):
            position += 1
        value += raw[position : position + 1]
        position += 1
    return bytes(value), position


def _next_line(raw: bytes, position: int) -> int:
    while position < len(raw):
        if raw[position] == ord("\\"):
            position += 2
        elif raw[position] == ord("\n"):
            break
        else:
            position += 1
    return position + 1


def _text(raw: bytes) -> str:
    # A C string: GRUB sees nothing behind a zero byte.
    return raw.split(b"\0")[0].decode("latin-1")


def format_block(values: Mapping[str, str]) -> bytes:
    """A block with these variables, in a multiple of 1024 bytes."""
    text = bytearray(SIGNATURE)
    for name, value in values.items():
        escaped = value.replace("\\", "\\\\").replace("\n", "\\\n")
        text += f"{name}={escaped}\n".encode("latin-1")
    return bytes(text) + b"#" * (-len(text) % SIZE or SIZE)
