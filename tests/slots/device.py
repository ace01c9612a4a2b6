"""A device of loop devices and folders, so that the real use cases run without a VM.

Slots A and B are real ext4 filesystems in one image file, at an offset each;
data and ESP are folders. Slot A is mounted read-only as the running root.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from abupdate.boot import state as boot
from abupdate.boot.grubenv import Grubenv
from abupdate.bundle.read import Incoming
from abupdate.cli.main import main
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import BootDisk, Partition, Slot
from abupdate.events import Events
from abupdate.paths import Paths
from abupdate.release.tag import parse_tag
from abupdate.run import Sandbox
from abupdate.store.content import open_commit
from abupdate.store.materialise.apply import materialise
from abupdate.store.repository import Repository
from abupdate.update.records import SlotRecord, SlotState
from abupdate.update.slots import Machine
from tests.slots import loop
from tests.slots.rootfs import PRODUCT, make_rootfs

SLOT_SIZE = 48 << 20
NOBODY = "65534"
PARTUUIDS = {
    Slot.A: "aaaaaaaa-0000-4000-8000-00000000000a",
    Slot.B: "bbbbbbbb-0000-4000-8000-00000000000b",
}


# Bytes of a file that releases 5 and 6 have.
LARGE = 400_000
# What is given to `install`, how that ends, and what is said.
Refused = Callable[[str | Path, int, str], None]


@dataclass
class Device:
    """The device and the publisher of its releases. `close` frees what the kernel holds."""

    top: Path
    loops: dict[Slot, Path] = field(default_factory=dict)
    booted: Slot = Slot.A
    slot_size: int = SLOT_SIZE

    @property
    def paths(self) -> Paths:
        return Paths(
            root=self.top / "root",
            data=self.top / "data",
            esp=self.top / "esp",
            runtime=self.top / "run",
            cmdline=self.top / "cmdline",
        )

    @property
    def machine(self) -> Machine:
        return Machine(self.paths, self._disk, Sandbox(NOBODY))

    @property
    def other(self) -> Path:
        """The device of the slot that is not booted."""
        return self.loops[self.booted.other]

    @property
    def publisher(self) -> Path:
        return self.top / "publisher"

    def _disk(self, _root: Path) -> BootDisk:
        parts = {}
        for number, slot in enumerate(self.loops, start=4):
            superblock = read_superblock(self.loops[slot])
            parts[slot] = Partition(
                device=self.loops[slot],
                number=number,
                name=slot.label,
                partuuid=PARTUUIDS[slot],
                label=superblock.label if superblock else None,
                uuid=superblock.uuid if superblock else None,
                size=self.slot_size,
            )
        return BootDisk(self.top / "disk", tuple(parts.values()), parts[self.booted])

    def run(self, *argv: str | Path) -> int:
        """One `abupdate` command on this device; its exit code."""
        return main([str(word) for word in argv], machine=self.machine)

    def publish(self, *argv: str | Path) -> None:
        """One `abupdate publish` command, which must succeed."""
        assert main(["publish", *[str(word) for word in argv]]) == 0

    def state(self) -> boot.BootState:
        state = Grubenv(self.paths.esp / "grub").read().state
        assert state is not None
        return state

    def boot(self, slot: Slot, how: str) -> None:
        """What a reboot into `slot` looks like from userland (GRUB itself is tested elsewhere)."""
        self._unmount_root()
        self.booted = slot
        self.paths.cmdline.write_text(
            f"root=PARTUUID={PARTUUIDS[slot]} ro abupdate.slot={slot} abupdate.boot={how}\n"
        )
        subprocess.run(["mount", "-o", "ro", self.loops[slot], self.paths.root], check=True)

    def configure(self, *settings: str) -> None:
        """Settings (`section.key=value`) on the kernel's command line, until the next boot."""
        words = [self.paths.cmdline.read_text().strip(), *(f"abupdate.{one}" for one in settings)]
        self.paths.cmdline.write_text(" ".join(words) + "\n")

    def _unmount_root(self) -> None:
        if os.path.ismount(self.paths.root):
            subprocess.run(["umount", self.paths.root], check=True)

    def free(self) -> None:
        """Free what the kernel holds."""
        self.machine.unmount_leftovers()
        self._unmount_root()
        for device in self.loops.values():
            loop.detach(device)

    def close(self) -> None:
        self.free()
        shutil.rmtree(self.top)


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def snapshot(device: Device) -> tuple[str, bytes, str]:
    """What a refused command must not change: slot B, boot state, history and records."""
    records = subprocess.run(
        ["find", device.paths.state, "-type", "f", "!", "-path", "*/objects/info/*",
         "-exec", "sha256sum", "{}", "+"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    env = device.paths.esp / "grub/grubenv"
    return hash_of(device.loops[Slot.B]), env.read_bytes(), "\n".join(sorted(records.splitlines()))


@contextmanager
def within_memory(limit: int) -> Iterator[None]:
    """In the block this process grows by less than `limit` KiB at its most."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_memory()
    yield
    assert _peak_memory() - before < limit


def _peak_memory() -> int:
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1])


def make_device(top: Path, slot_size: int = SLOT_SIZE) -> Device:
    """A device with release 1 running in slot A, and nothing in slot B."""
    device = Device(top, slot_size=slot_size)
    device.publish("keygen", "--out", top / "keys")
    rootfs = make_rootfs(top / "rootfs1", "1")
    shutil.copy(top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers")
    provision(device, make_release(device, rootfs, "1"))
    return device


def provision(device: Device, bundle: Path) -> None:
    """What is not there yet of a device: its disk, with release 1 in slot A, which runs."""
    for folder in ("root", "data/etc/A/upper", "data/etc/A/work", "esp/grub", "run"):
        (device.top / folder).mkdir(parents=True)
    _make_slots(device)
    _make_store(device)
    Grubenv(device.paths.esp / "grub").write(boot.provision(tries=3, limit=8))
    _fill_first_slot(device, bundle)
    device.boot(Slot.A, "normal")


def _make_slots(device: Device) -> None:
    disk = device.top / "disk"
    with disk.open("wb") as file:
        file.truncate(loop.OFFSET + 2 * device.slot_size)
    for number, slot in enumerate(Slot):
        offset = loop.OFFSET + number * device.slot_size
        device.loops[slot] = loop.attach(disk, offset, device.slot_size)
        label = slot.label if slot is Slot.A else slot.unfinished_label
        loop.make_ext4(device.loops[slot], label)


def _make_store(device: Device) -> None:
    state = device.paths.state
    state.mkdir()
    store = state / "store.git"
    store.mkdir()
    spool = state / "spool"
    spool.mkdir()
    for path in (store, spool):
        os.chown(path, int(NOBODY), int(NOBODY))
    Repository.create(store, sandbox=Sandbox(NOBODY))


def _fill_first_slot(device: Device, bundle: Path) -> None:
    """What provisioning does: release 1 in the store, slot A, and its record."""
    with bundle.open("rb") as source:
        received = Incoming(source, device.machine.store(), 1 << 30, Events()).receive()
    with received:
        received.join()
        tag, commit = received.tag_oid, parse_tag(received.statement.tag, received.version).commit
    device.paths.root.mkdir(exist_ok=True)
    subprocess.run(["mount", device.loops[Slot.A], device.paths.root], check=True)
    with open_commit(device.machine.store(), commit) as content:
        materialise(content, device.machine.store(), device.paths.root, Events())
        manifest_sha256 = content.manifest_sha256
    subprocess.run(["umount", device.paths.root], check=True)
    device.machine.records.write_slot(
        SlotRecord(Slot.A, SlotState.CLEAN, "1", commit, manifest_sha256, tag, "tests")
    )


def make_release(
    device: Device,
    rootfs: Path,
    version: str,
    *,
    since: Sequence[str] = (),
    key: str = "release",
) -> Path:
    """Publish a root filesystem and bundle it."""
    repo = ("--repo", device.publisher, "--version", version)
    device.publish("commit", rootfs, *repo, "--compatible", PRODUCT)
    device.publish("sign", *repo, "--key", device.top / "keys" / key)
    bundle = device.top / f"{version}.bundle"
    earlier = [word for old in since for word in ("--since", old)]
    device.publish("bundle", *repo, *earlier, "-o", bundle)
    return bundle
