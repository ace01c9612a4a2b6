"""Pages of docs/ that tests write as they go, where an environment variable names the file."""

from __future__ import annotations

import os
from pathlib import Path


class Page:
    """A page with sections, whose text comes piece by piece."""

    def __init__(self, variable: str, top: str) -> None:
        """`variable` is of the environment; nothing is written while it is not set."""
        self._variable = variable
        self._top = top
        self._written: set[str] = set()

    def add(self, section: str, text: str, opening: str = "") -> None:
        """Add to the section that is written; a new one begins with `opening`."""
        file = os.environ.get(self._variable)
        if not file:
            return
        path = Path(file)
        if not self._written:
            path.write_text(self._top)
        with path.open("a") as out:
            if section not in self._written:
                out.write(f"\n## {section}\n{opening}")
                self._written.add(section)
            out.write(text)
