"""What hostile inputs cost and what is said about them, kept for docs/hostile-inputs.md."""

from __future__ import annotations

import re

from tests.pages import Page
from tests.slots.hostile.cases import Case
from tests.slots.hostile.watch import Measured

_MB = 1_000_000
# What differs from run to run, and tells nobody anything.
_OF_THIS_RUN = (
    (re.compile(r"/tmp/abupdate-\w+"), ""),
    (re.compile(r"SHA256:[\w+/]+"), "SHA256:…"),
    (re.compile(r"\b([0-9a-f]{7})[0-9a-f]{33,57}\b"), r"\1…"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT[\d:]+Z"), "…"),
)
_HEAD = """
| input | its size | what is said | exit | MB of memory | MB of disk | seconds |
|---|---|---|---|---|---|---|
"""
_TOP = """\
# Hostile inputs

What `abupdate install` does with each, measured on a device of loop devices; written by
`make hostile`. Slots, boot state and every file on data have the hashes of before
afterwards, but for the release that is good, and for a file of another size or hash than its
manifest says: that is seen when it is written, and the slot is then never armed.

Memory: the processes of the command together, git among them, each at its worst, pages that
they share counted in each. Disk: by what the data partition grew at its worst, and what
programs print into files. Seconds: of a machine with other work.
"""
_page = Page("ABUPDATE_HOSTILE", _TOP)


def keep(name: str, case: Case, size: int, done: Measured) -> None:
    """Print the row of one input; with ABUPDATE_HOSTILE=FILE, write it there."""
    row = (
        f"| {name} | {_size(size)} | {_sentence(done.said)} | {done.code} "
        f"| {done.memory / _MB:.0f} | {done.disk / _MB:.1f} | {done.seconds:.1f} |\n"
    )
    print(row)
    _page.add(case.title, row, _HEAD)


def _size(size: int) -> str:
    if not size:
        return "in the store"
    return f"{size / _MB:.1f} MB" if size >= _MB // 10 else f"{-(-size // 1000)} kB"


def _sentence(said: str) -> str:
    """What was said after `abupdate:`, or at the end; in one line."""
    _, found, error = said.partition("abupdate: ")
    text = error if found else said.strip().splitlines()[-1]
    for pattern, instead in _OF_THIS_RUN:
        text = pattern.sub(instead, text)
    return " ".join(text.split()).replace("|", "\\|")
