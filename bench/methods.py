"""The ways to get a release onto a slot that are compared."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cache

from abupdate.run import run
from bench import device, image_updaters
from bench.measure import Command
from bench.parts import XATTRS, Parts
from bench.slot import Slot
from tests.slots.device import Device

_LONG = 600.0
FULL, UPDATE, INSTALL = "full", "update", "install"
_NO_TIMES = "times, devices"


@dataclass(frozen=True)
class Method:
    """One way.

    `group`: what it is compared with. `ready` sets up what it starts from,
    untimed, and gives the process id of a service that works for it. `slot` is
    what it writes to; `synced`: its filesystem is flushed by us, and that is
    timed. `lost` is what it does not write.
    """

    name: str
    group: str
    commands: tuple[Command, ...]
    slot: Slot
    ready: Callable[[], AbstractContextManager[int | None]]
    synced: bool = True
    lost: str = ""


def all_of(parts: Parts, slot: Slot, installing: Device) -> list[Method]:
    """Every method, in the order in which they take turns."""
    return [*_writes(parts, slot), *_installs(parts, installing, slot)]


def _writes(parts: Parts, slot: Slot) -> list[Method]:
    """Content that is at hand, onto an empty slot or over the older release."""
    target, store = slot.mountpoint, parts.store
    old, new = parts.commits["old"], parts.commits["new"]
    write = (sys.executable, "-m", "bench.write", store)
    git = ("git", "--git-dir", parts.checkout, "--work-tree", target)
    empty = partial(_empty, slot)
    release = partial(_filled, slot, parts.store, lambda to: _run((*write, old, to)))
    ostree = f"--repo={target}/ostree/repo"
    return [
        Method("tar x", FULL, (("tar", *XATTRS, "-xpf", parts.tars["old"], "-C", target),), slot,
               empty),
        Method("abupdate", FULL, ((*write, old, target),), slot, empty),
        Method("rsync", FULL, (("rsync", "-aHAX", f"{parts.trees['old']}/", target),), slot, empty),
        Method(
            "git checkout", FULL,
            (("rm", "-f", parts.checkout / "index"),
             (*git, "checkout", "-f", "-q", "old", "--", ".")),
            slot, empty, lost="owner, mode, xattrs, times, devices, hard links, empty folders",
        ),
        Method(
            "ostree pull + checkout", FULL,
            (("mkdir", "-p", target / "ostree/repo"),
             ("ostree", ostree, "init", "--mode=bare"),
             ("ostree", ostree, "pull-local", parts.ostree, "old"),
             ("ostree", ostree, "checkout", "-H", "old", target / "ostree/old")),
            slot, empty, lost=_NO_TIMES,
        ),
        Method(
            "casync extract", FULL,
            (("casync", "extract", f"--store={parts.casync}/store.castr",
              parts.casync / "old.caidx", target / "root"),),
            slot, empty,
        ),
        Method("image", FULL, (_dd(parts.image / "old.ext4", slot),), slot,
               partial(_unmounted, slot), synced=False),
        Method("abupdate update", UPDATE, ((*write, new, target, old),), slot, release),
        Method(
            "rsync --delete", UPDATE,
            (("rsync", "-aHAX", "--delete", "--exclude=/.abupdate", "--exclude=/lost+found",
              f"{parts.trees['new']}/", f"{target}/"),),
            slot, release,
        ),
        Method(
            "ostree pull + checkout, update", UPDATE,
            (("ostree", ostree, "pull-local", parts.ostree, "new"),
             ("ostree", ostree, "checkout", "-H", "new", target / "ostree/new")),
            slot, _with_ostree(parts, slot), lost=_NO_TIMES,
        ),
        Method("image, update", UPDATE, (_dd(parts.image / "new.ext4", slot),), slot,
               partial(_unmounted, slot), synced=False),
    ]  # fmt: skip


def _installs(parts: Parts, on: Device, slot: Slot) -> list[Method]:
    """From a bundle file to a slot that may be booted, with all that each program checks."""
    bundles, images = parts.bundles, parts.images
    ours = Slot(on.other, on.paths.runtime / "slot")
    target = slot.mountpoint
    ostree = f"--repo={target}/ostree/repo"

    def abupdate(name: str, state: str, *words: str | Path) -> Method:
        return Method(name, INSTALL, (device.install(on, *words),), ours,
                      partial(_restored, on, parts.device, state), synced=False)  # fmt: skip

    def rauc(name: str) -> Method:
        return Method(
            f"RAUC, {name} bundle", INSTALL, image_updaters.rauc_install(images.rauc[name]), slot,
            partial(image_updaters.rauc_service, slot.device, images.certificate), synced=False,
        )  # fmt: skip

    def swupdate(name: str, words: str) -> Method:
        commands = image_updaters.swupdate_install(images.swupdate[name], images.certificate)
        return Method(
            f"SWUpdate, {words}", INSTALL, commands, slot,
            partial(image_updaters.swupdate_slot, slot.device), synced=False,
        )  # fmt: skip

    return [
        rauc("gzip"),
        rauc("zstd"),
        swupdate("none", "plain image"),
        swupdate("zstd", "zstd image"),
        Method(
            "OSTree static delta + checkout", INSTALL,
            (("ostree", ostree, "static-delta", "apply-offline", parts.ostree_delta),
             ("ostree", ostree, "checkout", "-H", parts.ostree_new, target / "ostree/new")),
            slot, _with_ostree(parts, slot), lost=_NO_TIMES,
        ),
        abupdate("abupdate, delta bundle", device.UPDATE, bundles.delta),
        abupdate("abupdate, full bundle", device.EMPTY, bundles.full),
        abupdate("abupdate, delta, --verify full", device.UPDATE, bundles.delta, "--verify=full"),
    ]  # fmt: skip


@contextmanager
def _empty(slot: Slot) -> Iterator[None]:
    slot.clear()
    with slot.mounted():
        yield


@contextmanager
def _unmounted(slot: Slot) -> Iterator[None]:
    slot.clear()
    yield


@contextmanager
def _filled(slot: Slot, source: Path, fill: Callable[[Path], None]) -> Iterator[None]:
    """A slot with something on it, made once of what is in a folder of the cache."""

    def make(path: Path) -> None:
        slot.clear("rootB")
        with slot.mounted():
            fill(slot.mountpoint)
            slot.sync()
        slot.save(path)

    slot.fill(cache.cached("bench-start", (source.parent.name, source.name), ".ext4", make))
    with slot.mounted():
        yield


@contextmanager
def _restored(on: Device, made: Path, state: str) -> Iterator[None]:
    device.restore(on, made, state)
    yield


def _with_ostree(parts: Parts, slot: Slot) -> Callable[[], AbstractContextManager[None]]:
    def fill(to: Path) -> None:
        at = f"--repo={to}/ostree/repo"
        _run(("mkdir", "-p", to / "ostree/repo"))
        _run(("ostree", at, "init", "--mode=bare"))
        _run(("ostree", at, "pull-local", parts.ostree, "old"))
        _run(("ostree", at, "checkout", "-H", "old", to / "ostree/old"))

    return partial(_filled, slot, parts.ostree, fill)


def _run(command: Command) -> None:
    run(command, timeout=_LONG)


def _dd(image: Path, slot: Slot) -> Command:
    return ("dd", f"if={image}", f"of={slot.device}", "bs=8M", "oflag=direct", "conv=fsync",
            "status=none")  # fmt: skip


def missing_programs() -> list[str]:
    """Programs of the peers that are not installed."""
    needed = ("casync", "ostree", "rsync", "rauc", "swupdate", "dbus-daemon", "mksquashfs", "cpio")
    return [name for name in needed if shutil.which(name) is None]
