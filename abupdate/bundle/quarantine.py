"""A place for what is not trusted yet: a repository of its own beside the store.

It reads the store's objects as alternates and nothing ever reads from it but
the checks. It lies in the folder `spool` beside the store, so that joining the
store is a rename. Every file in it is made, moved and deleted as the user that
owns the store: root never writes where that user could swap a path.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.errors import DeviceFaultError, NoSpaceError
from abupdate.run import run
from abupdate.store.repository import Repository

_PREFIX = "quarantine-"
_PACK_FILE = re.compile(r"pack-[0-9a-f]{40,64}\.(pack|rev|idx)")
# git finds a pack by its .idx: that comes last.
_ORDER = (".pack", ".rev", ".idx")


# How much more than a slot can hold may come in: what is only just too large is then told with
# all that it needs, and a manifest, trees and git's own objects are no files of a slot.
_TIMES = 2
_MORE_OBJECTS = 64
_MORE_BYTES = 64 << 20
_HINT = "Take the bundle that was made for this device; `abupdate publish bundle` makes them."


@dataclass(frozen=True)
class Room:
    """What the largest slot of a device can hold: bytes and inodes.

    A release has an object for each of its files and folders at most, and none is larger than
    what it becomes. So this bounds what a bundle may unpack to, whoever made it.
    """

    bytes: int
    inodes: int

    def most_bytes(self, bases: int) -> int:
        """What a bundle may unpack to. `bases`: releases that it is a delta to.

        What such a delta begins from is among its objects.
        """
        return (_TIMES + bases) * self.bytes + _MORE_BYTES

    def check_objects(self, count: int) -> None:
        """Raise `NoSpaceError` for a bundle of more objects than a release for here has."""
        if count > _TIMES * self.inodes + _MORE_OBJECTS:
            raise NoSpaceError(
                f"The bundle has {count} objects, and a slot of this device can hold "
                f"{self.inodes} files and folders.",
                _HINT,
            )

    def check_bytes(self, size: int, bases: int) -> None:
        """The same for their bytes; see `most_bytes`."""
        if size > self.most_bytes(bases):
            raise NoSpaceError(
                f"The bundle unpacks to {size >> 20} MiB, and a slot of this device can hold "
                f"{self.bytes >> 20} MiB.",
                _HINT,
            )


def quarantines(store: Repository) -> list[Path]:
    """What lies in the spool: nothing of it is needed, as long as no job runs."""
    return sorted(_place(store).glob(f"{_PREFIX}*"))


def clear_quarantines(store: Repository) -> None:
    """Delete what earlier runs left behind. The caller holds the device's lock."""
    _spool(store)
    for left in quarantines(store):
        drop_quarantine(store, left)


def drop_quarantine(store: Repository, path: Path) -> None:
    """Delete one; one that is gone is fine."""
    store.as_owner("rm", "-rf", "--", path)


def open_quarantine(store: Repository, file_size: int, *, borrow: bool) -> Repository:
    """An empty quarantine.

    `file_size`: bytes that git may write to one file of it. `borrow`: the store's objects
    are there to read from the start.
    """
    path = _spool(store) / f"{_PREFIX}{secrets.token_hex(8)}"
    try:
        return Repository.create(
            path,
            object_format=store.object_format,
            alternates=store.path.absolute() / "objects" if borrow else None,
            sandbox=store.sandbox and replace(store.sandbox, file_size=file_size),
        )
    except BaseException:
        drop_quarantine(store, path)
        raise


def _place(store: Repository) -> Path:
    return store.path.absolute().parent / "spool"


def _spool(store: Repository) -> Path:
    path = _place(store)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        if store.sandbox is not None:
            # Every time: whoever provisioned the disk may have made it as root.
            run(["chown", f"{store.sandbox.user}:{store.sandbox.user}", path])
    except OSError as error:
        raise DeviceFaultError(
            f"{path} cannot be made: {error.strerror}.", "Is the data partition writable?"
        ) from error
    return path


def migrate(quarantine: Repository, store: Repository) -> None:
    """Move the packs of a quarantine into the store, on the disk when this returns."""
    source, target = quarantine.path / "objects/pack", store.path / "objects/pack"
    found = [name for name in os.listdir(source) if _PACK_FILE.fullmatch(name)]  # noqa: PTH208
    names = sorted(found, key=lambda name: _ORDER.index(Path(name).suffix))
    if not names:
        return
    paths = [source / name for name in names]
    store.as_owner("sync", *paths)
    # The same pack may be there already; its name is a hash of what it holds, or should: this
    # one was read just now.
    store.as_owner("mv", "-f", "-t", target, *paths)
    store.as_owner("sync", target)
