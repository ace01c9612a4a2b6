"""How the initramfs mounted what lies beside the root, by its own report."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

_MAX_REPORT = 64 * 1024

FAILED = frozenset({"failed"})
# Mounted, and not as it was left.
TOLD = FAILED | {"repaired", "damaged"}


def mounts_that(results: Collection[str], runtime: Path) -> list[str]:
    """A line for each mount with such a result in `RUNTIME/mounts` (`initramfs/abupdate-mount`)."""
    try:
        with (runtime / "mounts").open(errors="replace") as file:
            lines = file.read(_MAX_REPORT).splitlines()
    except OSError:
        return []  # another initramfs, or none
    words = [line.split(" ", 2) for line in lines]
    return [f"{name}: {' '.join(what)}" for name, result, *what in
            (word for word in words if len(word) > 1) if result in results]  # fmt: skip
