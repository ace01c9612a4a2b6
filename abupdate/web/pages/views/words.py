"""Sizes, times and counts as people read them."""

from __future__ import annotations

import re
import time

from markupsafe import Markup, escape

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_TYPED = re.compile(r"`([^`\n]+)`")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def size(count: float | None) -> str:
    """Bytes with three figures, in units of 1024: 12.3 MiB."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in _UNITS:
        # 1023.97 would become "1024".
        if value < 1023.5 or unit == _UNITS[-1]:
            break
        value /= 1024
    if unit == "B":
        return f"{value:.0f} B"
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that matter: 1 min 20 s."""
    if seconds is None:
        return "unknown"
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s".removesuffix(" 0 s")
    if whole < 2 * _DAY:
        text = f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
        return text.removesuffix(" 0 min")
    return f"{whole // _DAY} days"


def count(number: int | None, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 file, 1,204 files."""
    if number is None:
        return f"unknown {many or one + 's'}"
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def commit(name: str | None) -> str:
    """As much of a commit's name as a person compares."""
    return name[:12] if name else "–"  # noqa: RUF001


def when(seconds: float | None, kind: str = "minute") -> Markup:
    """A moment (seconds since the epoch) in UTC; app.js makes it the reader's own time.

    `kind`: minute or second, how exact.
    """
    if not seconds:
        return Markup("at an unknown time")
    try:
        moment = time.gmtime(seconds)
    except (ValueError, OverflowError, OSError):
        return Markup("at an impossible time")
    machine = time.strftime("%Y-%m-%dT%H:%M:%SZ", moment)
    shown = time.strftime("%Y-%m-%d %H:%M" + (":%S" if kind == "second" else ""), moment)
    return Markup('<time datetime="{}" data-kind="{}" title="{}">{} UTC</time>').format(
        machine, kind, machine, shown
    )


def sentence(text: str | None) -> str:
    """With a capital and a full stop, so that it can stand beside others."""
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def told(text: str) -> Markup:
    """A message as the command line has it: what is between backticks is typed."""
    parts = _TYPED.split(str(visible(text)))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part)
        for n, part in enumerate(parts)
    )


def place(slot: str | None) -> str:
    """slot A, or rescue."""
    return "rescue" if slot in ("R", "rescue") else f"slot {slot}" if slot else "no slot"


def marked(text: str) -> Markup:
    """Lines of a log, escaped, with what does not print made visible."""
    return escape(visible(text))


def visible(value: object) -> object:
    """Text in which nothing hides, turns the writing round, or is no text (PEP 383)."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c in "\n\t\xa0" else f"\\x{ord(c):02x}" for c in value)
