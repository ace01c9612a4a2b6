"""A device that abupdate installs to, on loop devices: `python -m bench.device DEVICE install …`.

Its running release is a tiny one in slot A; what is measured is slot B. Store,
records and boot state are real, git runs as another user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cache

from abupdate.disk.layout import Slot
from abupdate.run import run
from bench.measure import Command
from tests.slots import loop
from tests.slots.device import Device, make_device
from tests.slots.rootfs import PRODUCT

_SIZE = 2400 << 20
_LONG = 1800.0
# The states in which an install starts: slot B empty, or holding the older release.
EMPTY, UPDATE = "empty", "update"


@dataclass(frozen=True)
class Bundles:
    """The newer release whole, and as a delta to the older one."""

    full: Path
    delta: Path


def build(tars: dict[str, Path]) -> tuple[Path, Bundles]:
    """A folder with the device in both states, and the bundles; cached, minutes the first time."""
    made = cache.cached("bench-device", (tars["old"].name, tars["new"].name, 3), "",
                        lambda path: _make(path, tars))  # fmt: skip
    return made, Bundles(made / "full.bundle", made / "delta.bundle")


@contextmanager
def device(made: Path) -> Iterator[Device]:
    """The device with its loop devices, slot A mounted; `restore` puts it into a state."""
    # Not in the cache: git runs as a user that may not be able to get there.
    top = Path(tempfile.mkdtemp(prefix="abupdate-bench-"))
    top.chmod(0o755)
    found = Device(top, slot_size=_SIZE)
    (top / "root").mkdir()
    try:
        for number, slot in enumerate(Slot):
            found.loops[slot] = loop.attach(
                made / "disk", loop.OFFSET + number * _SIZE, _SIZE, "--direct-io=on"
            )
        found.boot(Slot.A, "normal")
        yield found
    finally:
        found.close()


def restore(found: Device, made: Path, state: str) -> None:
    """Slot B, data and ESP as they were."""
    for name in ("data", "esp", "run"):
        shutil.rmtree(found.top / name, ignore_errors=True)
        run(["cp", "-a", made / state / name, found.top / name], timeout=_LONG)
    if state == EMPTY:
        loop.make_ext4(found.loops[Slot.B], Slot.B.unfinished_label)
    else:
        _copy(made / state / "slot", found.loops[Slot.B], "oflag=direct")
    os.sync()


def install(found: Device, *words: str | Path) -> Command:
    """The command line of an install on the device."""
    where = [found.top, *found.loops.values()]
    return (sys.executable, "-m", "bench.device", *where, "install", *words)


def _make(path: Path, tars: dict[str, Path]) -> None:
    path.mkdir()
    top = Path(tempfile.mkdtemp(prefix="abupdate-bench-"))
    top.chmod(0o755)
    found = make_device(top, _SIZE)
    try:
        _save(found, path / EMPTY)
        _release(found, "2", tars["old"], [], top / "older.bundle")
        _release(found, "3", tars["new"], ["2"], path / "delta.bundle")
        _bundle(found, "3", [], path / "full.bundle")
        assert found.run("install", "--no-arm", top / "older.bundle") == 0
        _save(found, path / UPDATE)
        _copy(found.loops[Slot.B], path / UPDATE / "slot", "conv=sparse")
    finally:
        found.free()
    run(["fallocate", "-l", str(loop.OFFSET + 2 * _SIZE), top / "disk"])
    shutil.move(top / "disk", path / "disk")
    shutil.rmtree(top)


def _release(found: Device, version: str, tar: Path, since: list[str], bundle: Path) -> None:
    repo = ("--repo", found.publisher, "--version", version)
    found.publish("commit", tar, *repo, "--compatible", PRODUCT)
    found.publish("sign", *repo, "--key", found.top / "keys/release")
    _bundle(found, version, since, bundle)


def _bundle(found: Device, version: str, since: list[str], to: Path) -> None:
    earlier = [word for old in since for word in ("--since", old)]
    found.publish("bundle", "--repo", found.publisher, "--version", version, *earlier, "-o", to)


def _save(found: Device, to: Path) -> None:
    to.mkdir()
    for name in ("data", "esp", "run"):
        run(["cp", "-a", found.top / name, to / name], timeout=_LONG)


def _copy(source: Path, to: Path, option: str) -> None:
    words = ["dd", f"if={source}", f"of={to}", "bs=8M", option, "status=none"]
    subprocess.run(words, check=True)


def main() -> int:
    """One command on a device that another process has set up."""
    top, first, second, *argv = sys.argv[1:]
    loops = {Slot.A: Path(first), Slot.B: Path(second)}
    return Device(Path(top), loops, slot_size=_SIZE).run(*argv)


if __name__ == "__main__":
    sys.exit(main())
