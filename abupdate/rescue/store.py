"""A store where there is none: of a rescue system's own releases, or in memory without data."""

from __future__ import annotations

import shutil

from abupdate.store.repository import Repository
from abupdate.update.slots import Machine


def ensure_store(machine: Machine) -> None:
    """Make an empty store where a machine has none. Right again after a cut."""
    path = machine.paths.state / "store.git"
    if (path / "HEAD").is_file():
        return
    path.mkdir(parents=True, exist_ok=True)
    if machine.sandbox is not None:
        user = machine.sandbox.user
        shutil.chown(path, int(user) if user.isdecimal() else user)
    Repository.create(path, sandbox=machine.sandbox)
