"""What the initramfs could not mount, by its own report (`initramfs/abupdate-mount`)."""

from __future__ import annotations

from pathlib import Path

_MAX_REPORT = 64 * 1024


def failed_mounts(runtime: Path) -> list[str]:
    """A line for each of data, /etc, /var and the others in `RUNTIME/mounts` that is not there."""
    try:
        with (runtime / "mounts").open(errors="replace") as file:
            lines = file.read(_MAX_REPORT).splitlines()
    except OSError:
        return []  # another initramfs, or none
    words = [line.split(" ", 2) for line in lines]
    return [f"{name}: {' '.join(what)}" for name, result, *what in
            (word for word in words if len(word) > 1) if result == "failed"]  # fmt: skip
