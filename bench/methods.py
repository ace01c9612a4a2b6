"""The ways to get a release onto a slot that are compared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from abupdate.run import run
from bench.measure import Command
from bench.parts import XATTRS, Parts
from bench.slot import Slot

_LONG = 600.0


@dataclass(frozen=True)
class Start:
    """What the slot holds before: a name, and how it comes there."""

    name: str
    fill: Callable[[Path], None]


@dataclass(frozen=True)
class Method:
    """`group` is `full` (empty slot) or `update`; `lost` is what it does not write."""

    name: str
    group: str
    commands: tuple[Command, ...]
    start: Start | None = None
    lost: str = ""
    mounted: bool = True


def all_of(parts: Parts, slot: Slot) -> list[Method]:
    """Every method, in the order in which they take turns."""
    target, store = slot.mountpoint, parts.store
    old, new = parts.commits["old"], parts.commits["new"]
    write = (sys.executable, "-m", "bench.write", store)
    git = ("git", "--git-dir", parts.checkout, "--work-tree", target)
    repo = f"--repo={target}/ostree/repo"

    def written(to: Path) -> None:
        run([*write, old, to], timeout=_LONG)

    def with_ostree(to: Path) -> None:
        at = f"--repo={to}/ostree/repo"
        for command in (
            ("mkdir", "-p", to / "ostree/repo"),
            ("ostree", at, "init", "--mode=bare"),
            ("ostree", at, "pull-local", parts.ostree, "old"),
            ("ostree", at, "checkout", "-H", "old", to / "ostree/old"),
        ):
            run(command, timeout=_LONG)

    release = Start("release", written)
    return [
        Method("tar x", "full", (("tar", *XATTRS, "-xpf", parts.tars["old"], "-C", target),)),
        Method("abupdate", "full", ((*write, old, target),)),
        Method("rsync", "full", (("rsync", "-aHAX", f"{parts.trees['old']}/", target),)),
        Method(
            "git checkout",
            "full",
            (
                ("rm", "-f", parts.checkout / "index"),
                (*git, "checkout", "-f", "-q", "old", "--", "."),
            ),
            lost="owner, mode, xattrs, times, devices, hard links, empty folders",
        ),
        Method(
            "ostree pull + checkout",
            "full",
            (
                ("mkdir", "-p", target / "ostree/repo"),
                ("ostree", repo, "init", "--mode=bare"),
                ("ostree", repo, "pull-local", parts.ostree, "old"),
                ("ostree", repo, "checkout", "-H", "old", target / "ostree/old"),
            ),
            lost="times, devices",
        ),
        Method(
            "casync extract",
            "full",
            (("casync", "extract", f"--store={parts.casync}/store.castr",
              parts.casync / "old.caidx", target / "root"),),
        ),
        Method("image", "full", (_dd(parts.image / "old.ext4", slot),), mounted=False),
        Method("abupdate update", "update", ((*write, new, target, old),), release),
        Method(
            "rsync --delete",
            "update",
            (("rsync", "-aHAX", "--delete", "--exclude=/.abupdate", "--exclude=/lost+found",
              f"{parts.trees['new']}/", f"{target}/"),),
            release,
        ),
        Method(
            "ostree pull + checkout, update",
            "update",
            (
                ("ostree", repo, "pull-local", parts.ostree, "new"),
                ("ostree", repo, "checkout", "-H", "new", target / "ostree/new"),
            ),
            Start("ostree", with_ostree),
            lost="times, devices",
        ),
        Method("image, update", "update", (_dd(parts.image / "new.ext4", slot),), release,
               mounted=False),
    ]  # fmt: skip


def _dd(image: Path, slot: Slot) -> Command:
    return ("dd", f"if={image}", f"of={slot.device}", "bs=8M", "oflag=direct", "conv=fsync",
            "status=none")  # fmt: skip
