"""A USB stick with a bundle: found by its label, only read, and nothing else of it is mounted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abupdate.bundle.read import read_header
from abupdate.disk.filesystem import mounted_readonly
from abupdate.disk.find import with_label
from abupdate.disk.layout import BootDisk
from abupdate.errors import AbupdateError, RefusedError
from abupdate.events import Events
from abupdate.release.version import Version

LABEL = "ABUPDATE"
_FILESYSTEMS = ("vfat", "exfat", "ext4", "iso9660")


@contextmanager
def stick_bundles(disk: BootDisk, at: Path, events: Events) -> Iterator[list[Path]]:
    """The bundles on the stick labelled `ABUPDATE`, the highest version first.

    It is mounted at `at` for the time of the block. Raises `RefusedError` where there is none,
    or more than one.
    """
    device, kind = _stick(disk)
    with mounted_readonly(device, kind, at) as top:
        found = sorted(_versions(top, events), reverse=True)
        if not found:
            raise RefusedError(
                f"The stick {device} has no bundle.",
                "Copy NAME.bundle to it, not into a folder.",
            )
        yield [path for _, path in found]


def _stick(disk: BootDisk) -> tuple[Path, str]:
    own = {part.device for part in disk.partitions} | {disk.device}
    found = [
        (device, kind) for device, kind in with_label(LABEL)
        if device not in own and kind in _FILESYSTEMS
    ]  # fmt: skip
    if len(found) != 1:
        which = " and ".join(str(path) for path, _ in found) or "none"
        raise RefusedError(
            f"One stick with the label {LABEL} was expected ({', '.join(_FILESYSTEMS)}), "
            f"found {which}.",
            "Label it so (fatlabel, e2label), put it in, and try again.",
        )
    return found[0]


def _versions(top: Path, events: Events) -> Iterator[tuple[Version, Path]]:
    """What the beginnings of the files say; whether it is true, the install asks."""
    for path in top.glob("*.bundle"):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                yield read_header(file).version, path
        except (AbupdateError, OSError) as error:
            events.warning(f"{path.name} on the stick is no bundle: {error}")
