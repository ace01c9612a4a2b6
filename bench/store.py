"""What a device's store needs on its disk: for each bundle as it comes in, and for tidying up.

python -m bench.store FULL.bundle DELTA.bundle…
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from abupdate.bundle.read import Incoming
from abupdate.events import Events
from abupdate.store import packs
from abupdate.store.repository import Repository

_LARGE = 1 << 40
_LOOK_SECONDS = 0.01


def main(bundles: list[str]) -> None:
    """Take them in one after the other, then tidy up; a line each, in MB."""
    with tempfile.TemporaryDirectory(prefix="abupdate-") as name:
        top = Path(name)
        store = Repository.create(top / "store.git")
        for bundle in bundles:
            with (
                Path(bundle).open("rb") as file,
                _told(top, f"{Path(bundle).name} comes in"),
                Incoming(file, store, _LARGE, Events()).receive() as received,
            ):
                received.join()
        with _told(top, "one pack of all"):
            packs.repack(store)


@contextmanager
def _told(folder: Path, what: str) -> Iterator[None]:
    before = most = _used(folder)
    over = threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(_LOOK_SECONDS):
            most = max(most, _used(folder))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    yield
    over.set()
    watcher.join()
    figures = [f"{size / 1e6:.1f}" for size in (before, most, _used(folder))]
    print(f"{what}: {figures[0]} MB before, {figures[1]} at the most, {figures[2]} after")


def _used(folder: Path) -> int:
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # gone meanwhile
                total += (Path(top) / name).lstat().st_blocks * 512
    return total


if __name__ == "__main__":
    main(sys.argv[1:])
