"""What a new device finds of its owner's on data: files that no release holds.

A folder whose content becomes `/data/state`, with owners, times and attributes: `home`, `root`,
`machine-id`, `ssh-host-keys`. An installer keeps it, and gives it on.
"""

from __future__ import annotations

from pathlib import Path

from abupdate.disk.layout import DATA
from abupdate.errors import UsageError
from abupdate.run import run

_SECONDS = 86400.0


def check_state(folder: Path | None, keep: tuple[str, ...]) -> None:
    """Raise `UsageError` for a folder that cannot be a device's state."""
    if folder is None:
        return
    if not folder.is_dir():
        raise UsageError(f"--state {folder}: a folder was expected, there is none.")
    if DATA in keep:
        raise UsageError(
            "--state fills a new data partition, and --keep data keeps the old one.",
            "Leave one of the two out; files can be copied when the device runs.",
        )


def state_bytes(folder: Path | None) -> int:
    """The room that it takes on data."""
    if folder is None:
        return 0
    told = run(["du", "--summarize", "--block-size=1", folder], timeout=_SECONDS).stdout
    return int(told.split()[0])


def copy_state(folder: Path, target: Path) -> None:
    """Copy its content into a folder, which is there and stays as it is itself."""
    for path in sorted(folder.iterdir()):
        run(["cp", "--archive", "--no-target-directory", path, target / path.name],
            timeout=_SECONDS)  # fmt: skip
