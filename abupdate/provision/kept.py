"""A data partition that is kept, looked at before anything is written: can the release join it?

What is on it comes from a device that anybody may have had in hands: whoever writes to it here
is root, so no link of it is followed, and it is asked for its floor and its revocations.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from abupdate.disk.layout import MIB, Slot
from abupdate.errors import NoSpaceError, RefusedError
from abupdate.paths import Paths
from abupdate.provision.belongings import statement_of
from abupdate.signing.signers import TrustFiles
from abupdate.signing.threshold import believe
from abupdate.update import trust
from abupdate.update.admit import Examined

# Beside the release: records, and the changes of the filesystem itself.
_ROOM = 8 * MIB
_FOLDERS = ("abupdate", "etc", f"etc/{Slot.A}", f"etc/{Slot.A}/upper")
_OURS = ("abupdate", f"etc/{Slot.A}/upper/abupdate")
_FORMATS = ("sha256", "sha1")


def check(data: Path, found: Examined, believed: TrustFiles, store: int, store_format: str) -> None:
    """Raise `RefusedError`, `NoSpaceError` or `NotTrustedError` where the release cannot join it.

    `data`: where it is mounted. `store`: bytes that the release takes up there.
    """
    for name in _FOLDERS:
        path = data / name
        if os.path.lexists(path) and not stat.S_ISDIR(path.lstat().st_mode):
            raise _odd(name)
    for name in _OURS:
        for path in _odd_ones(data / name):
            raise _odd(str(path.relative_to(data)))
    paths = Paths(data=data)
    trust.check_floor(paths, found.verified.version)
    revoked = trust.kept_revoked(paths)
    if revoked.is_file():
        believe(statement_of(found), replace(believed, revoked=(*believed.revoked, revoked)), 0)
    config = paths.state / "store.git/config"
    if config.is_file():
        text = config.read_text(errors="replace").lower()
        has = next((name for name in _FORMATS if f"objectformat = {name}" in text), "sha1")
        if has != store_format:
            raise RefusedError(
                f"The store that is kept has objects of {has}, and the release has {store_format}.",
                "Take a release of the same publisher's repository, or make data anew.",
            )
    free = os.statvfs(data)
    if free.f_bavail * free.f_frsize < store + _ROOM:
        raise NoSpaceError(
            f"The data partition that is kept has {free.f_bavail * free.f_frsize >> 20} MiB free, "
            f"and the release needs {store + _ROOM >> 20}.",
            "Make room on it, on the device that it is of.",
        )


def _odd_ones(top: Path) -> Iterator[Path]:
    """What is neither a folder nor a plain file, nor what hides a path of the release's /etc."""
    below = (
        Path(folder, name) for folder, folders, files in os.walk(top) for name in (*folders, *files)
    )
    for path in (*([top] if os.path.lexists(top) else []), *below):
        status = path.lstat()
        hides = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
        if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode) or hides):
            yield path


def _odd(name: str) -> RefusedError:
    return RefusedError(
        f"/{name} of the data partition that is kept should be a folder or a plain file of "
        "abupdate's, and is something else.",
        "Nothing is written through links that a device has; look at it, or make data anew.",
    )
