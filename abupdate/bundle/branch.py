"""The newest commit of a branch, which nobody has signed: for development only.

A device takes one where its own configuration names the branch, and shouts about it.
"""

from __future__ import annotations

import re

from abupdate.bundle.candidate import Candidate
from abupdate.bundle.quarantine import drop_quarantine, migrate
from abupdate.errors import UsageError
from abupdate.store.repository import Repository

# Where the store keeps what it got: of each branch the newest.
_KEPT = "refs/abupdate/branches/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


def check_branch(name: str) -> str:
    """The name, when it can be a branch's here. Raises `UsageError`."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"A branch's name is up to 64 letters, digits, '_' and '-'; found {name[:80]!r}.",
            "Example: dev",
        )
    return name


class Unsigned(Candidate):
    """A commit in quarantine that has no tag."""

    checked = True

    def __init__(self, branch: str, commit: str, quarantine: Repository, store: Repository) -> None:
        super().__init__(quarantine, "")
        self.branch = branch
        self.commit = commit
        self._store = store

    def join(self) -> None:
        """Make it part of the store: packs, then the ref, each on the disk."""
        migrate(self.repository, self._store)
        self._store.set_ref(f"{_KEPT}{self.branch}", self.commit, alone=True)

    def discard(self) -> None:
        """Delete the quarantine; once or more often."""
        drop_quarantine(self._store, self.repository.path)
