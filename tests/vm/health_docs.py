"""What a person reads after each kind of trial, kept for docs/health-stories.md.

With ABUPDATE_STORIES=FILE, tests/vm/test_health.py writes them there as it goes.
"""

from __future__ import annotations

from tests.pages import Page

_TOP = """\
# What a trial leaves to read

One device in a virtual machine, one trial after the other; written by
`make test-health`. What the words mean: [health.md](health.md).
"""
_page = Page("ABUPDATE_STORIES", _TOP)


def keep(story: str, command: str, text: str) -> None:
    """Add what a command printed to the story's section."""
    print(f"--- {story}: abupdate {command}\n{text}")
    _page.add(story, f"\n```\n$ abupdate {command}\n{text.rstrip()}\n```\n")
