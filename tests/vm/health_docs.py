"""What a person reads after each kind of trial, kept for docs/health-stories.md.

With ABUPDATE_STORIES=FILE, tests/vm/test_health.py writes them there as it goes.
"""

from __future__ import annotations

import os
from pathlib import Path

_written: set[str] = set()


def keep(story: str, command: str, text: str) -> None:
    """Add what a command printed to the story's section."""
    file = os.environ.get("ABUPDATE_STORIES")
    print(f"--- {story}: abupdate {command}\n{text}")
    if not file:
        return
    path = Path(file)
    if not _written:
        path.write_text(_TOP)
    with path.open("a") as out:
        if story not in _written:
            out.write(f"\n## {story}\n")
            _written.add(story)
        out.write(f"\n```\n$ abupdate {command}\n{text.rstrip()}\n```\n")


_TOP = """\
# What a trial leaves to read

One device in a virtual machine, one trial after the other; written by
`make test-health`. What the words mean: [health.md](health.md).
"""
