"""A device of loop devices and folders, so that the real use cases run without a VM.

Slots A and B are real ext4 filesystems in one image file, at an offset each;
data and ESP are folders. Slot A is mounted read-only as the running root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from abupdate.boot import state as boot
from abupdate.boot.grubenv import Grubenv
from abupdate.cli.main import main
from abupdate.config import Paths
from abupdate.disk.filesystem import FEATURES, read_superblock
from abupdate.disk.layout import BootDisk, Partition, Slot
from abupdate.run import Sandbox
from abupdate.store.repository import Repository
from abupdate.update.slots import Machine

SLOT_SIZE = 48 << 20
NOBODY = "65534"
PRODUCT = "testbox"
PARTUUIDS = {
    Slot.A: "aaaaaaaa-0000-4000-8000-00000000000a",
    Slot.B: "bbbbbbbb-0000-4000-8000-00000000000b",
}


def have_loop_devices() -> bool:
    """Whether this process may make loop devices."""
    return os.geteuid() == 0 and Path("/dev/loop-control").exists()


@dataclass
class Device:
    """The device and the publisher of its releases. `close` frees what the kernel holds."""

    top: Path
    loops: dict[Slot, Path] = field(default_factory=dict)
    booted: Slot = Slot.A

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
                size=SLOT_SIZE,
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

    def _unmount_root(self) -> None:
        if os.path.ismount(self.paths.root):
            subprocess.run(["umount", self.paths.root], check=True)

    def close(self) -> None:
        for mountpoint in (self.paths.runtime / "slot", self.paths.root):
            if os.path.ismount(mountpoint):
                subprocess.run(["umount", mountpoint], check=True)
        for loop in self.loops.values():
            subprocess.run(["losetup", "--detach", loop], check=True)
        shutil.rmtree(self.top)


def make_device(top: Path) -> Device:
    """A device with release 1 running in slot A, and nothing in slot B."""
    device = Device(top)
    for folder in ("root", "data/etc/A/upper", "data/etc/A/work", "esp/grub", "run"):
        (top / folder).mkdir(parents=True)
    device.publish("keygen", "--out", top / "keys")
    rootfs = make_rootfs(top / "rootfs1", "1")
    shutil.copy(top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers")
    _make_slots(device)
    bundle = make_release(device, rootfs, "1")
    _make_store(device)
    Grubenv(device.paths.esp / "grub").write(boot.provision(tries=3, limit=8))
    _fill_running_slot(device, rootfs)
    device.boot(Slot.A, "normal")
    _install_first_release(device, bundle)
    return device


def _make_slots(device: Device) -> None:
    disk = device.top / "disk"
    offset = 1 << 20
    with disk.open("wb") as file:
        file.truncate(offset + 2 * SLOT_SIZE)
    for number, slot in enumerate(Slot):
        loop = subprocess.run(
            ["losetup", "--find", "--show", "--offset", str(offset + number * SLOT_SIZE),
             "--sizelimit", str(SLOT_SIZE), disk],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        device.loops[slot] = Path(loop)
        label = slot.label if slot is Slot.A else slot.unfinished_label
        subprocess.run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", FEATURES, "-L", label, loop],
            check=True,
        )


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


def _fill_running_slot(device: Device, rootfs: Path) -> None:
    mountpoint = device.top / "fill"
    mountpoint.mkdir()
    subprocess.run(["mount", device.loops[Slot.A], mountpoint], check=True)
    subprocess.run(["cp", "-a", f"{rootfs}/.", mountpoint], check=True)
    subprocess.run(["umount", mountpoint], check=True)


def _install_first_release(device: Device, bundle: Path) -> None:
    """Slot A is filled by hand; its record says so, as provisioning will."""
    (device.top / "release1.bundle").write_bytes(bundle.read_bytes())


def make_rootfs(top: Path, version: str) -> Path:
    """A small root filesystem with everything that git alone would lose."""
    for folder in ("usr/bin", "usr/lib/abupdate/required.d", "etc", "boot", "empty/inside", "dev"):
        (top / folder).mkdir(parents=True)
    (top / "usr/lib/abupdate/config.toml").write_text(f'[device]\ncompatible = "{PRODUCT}"\n')
    (top / "etc/release").write_text(f"release {version}\n")
    (top / "usr/bin/tool").write_bytes(os.urandom(300_000) if version != "1" else b"tool" * 50_000)
    (top / "usr/bin/su").write_text("setuid\n")
    (top / "usr/bin/su").chmod(0o4755)
    (top / "usr/bin/ping").write_text("ping\n")
    subprocess.run(["setcap", "cap_net_raw+ep", top / "usr/bin/ping"], check=True)
    os.link(top / "usr/bin/tool", top / "usr/bin/tool-again")
    (top / "usr/bin/sh").symlink_to("tool")
    os.mknod(top / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
    os.mkfifo(top / "dev/pipe")
    os.chown(top / "etc/release", 1000, 1001)
    (top / "etc/.gitattributes").write_text("* text=auto eol=crlf\n")
    (top / "etc" / os.fsdecode(b"odd \xff\nname")).write_text("odd\n")
    return top


def make_release(
    device: Device,
    rootfs: Path,
    version: str,
    *,
    since: Sequence[str] = (),
    key: str = "release-key",
) -> Path:
    """Publish a root filesystem and bundle it."""
    repo = ("--repo", device.publisher, "--version", version)
    device.publish("commit", rootfs, *repo, "--compatible", PRODUCT)
    device.publish("sign", *repo, "--key", device.top / "keys" / key)
    bundle = device.top / f"{version}.bundle"
    earlier = [word for old in since for word in ("--since", old)]
    device.publish("bundle", *repo, *earlier, "-o", bundle)
    return bundle
