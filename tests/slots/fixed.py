"""Releases with fixups, and what they leave in slot B."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from abupdate.disk import filesystem
from abupdate.disk.layout import Slot
from tests.slots.device import Device
from tests.slots.programs import add_programs
from tests.slots.rootfs import PRODUCT, make_rootfs

# A version is published once, and tests share a publisher.
_versions = itertools.count(100)


def make_fixed(
    device: Device,
    fixups: Mapping[str, str],
    writes: Sequence[str] = (),
    change: Callable[[Path], object] = lambda rootfs: None,
) -> Path:
    """A bundle of a release whose fixups are shell scripts: name → body."""
    version = str(next(_versions))
    rootfs = make_rootfs(device.top / f"fixed{version}", "fixed")
    add_programs(rootfs)
    for folder in ("proc", "tmp", "run", "data", "var/cache"):
        (rootfs / folder).mkdir(parents=True)
    for name, body in fixups.items():
        path = rootfs / ".git-fixups" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    change(rootfs)
    repo = ("--repo", device.publisher, "--version", version)
    patterns = [word for pattern in writes for word in ("--fixups-write", pattern)]
    device.publish("commit", rootfs, *repo, "--compatible", PRODUCT, *patterns)
    device.publish("sign", *repo, "--key", device.top / "keys/release")
    bundle = device.top / f"{version}.bundle"
    device.publish("bundle", *repo, "-o", bundle)
    shutil.rmtree(rootfs)
    return bundle


@contextmanager
def opened(device: Device) -> Iterator[Path]:
    """Slot B, to look into."""
    target = device.top / "look"
    with filesystem.mounted(device.loops[Slot.B], target, "ro,noload") as mounted:
        yield mounted


def set_time_limit(device: Device, seconds: float) -> None:
    """`hooks.timeout`, until the next boot."""
    device.configure(f"hooks.timeout={seconds}")


def running(word: str) -> list[int]:
    """Processes with a word on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in words and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found
