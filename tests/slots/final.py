"""What an install left, in a form that is the same for two installs of one release.

All but times, and what is random: the filesystem's UUID and the name of a trial.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from abupdate.disk.layout import Slot
from tests.slots.device import Device, hash_of

_OWN = ("uuid", "superblock", "written", "started", "armed", "trial")
_SLOT_OPTIONS = "ro,noload"


def left(device: Device) -> dict[str, Any]:
    """Slot B, who boots next, what is recorded, stored and waiting in the spool."""
    state = device.paths.state
    records = {
        str(path.relative_to(state)): path.read_text()
        for path in sorted([*state.glob("*.json"), *state.glob("slots/*"), *state.glob("trust/*")])
    }
    last = device.machine.records.history()[-1]
    return {
        "slot": content(device.loops[Slot.B]),
        "boot state": device.state(),
        "boot files": {
            path.name: path.read_bytes() for path in sorted((device.paths.esp / "grub").iterdir())
        },
        "records": {name: _without_times(name, text) for name, text in records.items()},
        "state": sorted(path.name for path in state.iterdir() if path.name != "history.jsonl"),
        "history": (last.event, last.release, last.slot),
        "tags": device.machine.store().refs("refs"),
        "spool": sorted((state / "spool").iterdir()),
        "etc": sorted(map(str, (device.paths.data / "etc").rglob("*"))),
        "mounted": os.path.ismount(device.machine.mountpoint),
    }


def content(slot: Path) -> dict[str, tuple[Any, ...]]:
    """Each path of a slot with all that the kernel tells of it, inode numbers apart."""
    found: dict[str, tuple[Any, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-o", _SLOT_OPTIONS, slot, folder], check=True)
        try:
            for directory, names, files in os.walk(folder):
                if "lost+found" in names:  # the filesystem's own, as old as it
                    names.remove("lost+found")
                for name in (".", *names, *files):
                    path = Path(directory, name)
                    found[str(path.relative_to(folder))] = _entry(path)
        finally:
            subprocess.run(["umount", folder], check=True)
    return found


def _entry(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    what = ""
    if path.is_symlink():
        what = str(path.readlink())
    elif path.is_file():
        what = hash_of(path)
    attributes = sorted(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in os.listxattr(path, follow_symlinks=False)
    )
    owner = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev)
    return (*owner, status.st_mtime_ns, status.st_nlink, what, tuple(attributes))


def _without_times(name: str, text: str) -> Any:
    if not name.endswith(".json"):
        return text
    value = json.loads(text)
    assert isinstance(value, dict)
    return {key: kept for key, kept in value.items() if key not in _OWN}
