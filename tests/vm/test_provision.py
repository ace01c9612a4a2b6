"""`abupdate provision` on real disks, inside a booted Debian: every bus, refusals, a power cut.

The release that it installs is small and has the probe as its kernel, so that each disk is
booted on its bus afterwards in a second. Debian's parted, sgdisk and fsck say what they think
of what was made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import device
import guest
import publisher
import pytest
from device_vm import MEDIUM, DeviceVM, make_medium
from vm import VM, Disk, accelerator

import installer
from abupdate.disk.drive import look
from abupdate.disk.images import content_hash
from abupdate.disk.layout import MIB, PartitionSpec
from tests.grub import grubbox
from tests.slots.newdisk import SIZE, Factory, make_factory

_SYSTEM, _MEDIUM, _SMALL, _OWNED, _VIRTIO, _NVME, _SATA, _USB, _CUT, _LUKS = (
    f"disk{number}" for number in range(10)
)
_KEY = "opens sesame"
_BUNDLE = (f"{MEDIUM}/1.bundle", "--signers", f"{MEDIUM}/signers", "--layout", f"{MEDIUM}/layout")


@dataclass(frozen=True)
class Bench:
    """The machine that installs, and the images of its disks by serial number."""

    device: DeviceVM
    disks: dict[str, Disk]
    factory: Factory
    accel: str

    def node(self, serial: str) -> str:
        """The device of a disk inside."""
        told = self.device.run("lsblk", "--json", "--nodeps", "--output", "PATH,SERIAL").stdout
        found = [one["path"] for one in json.loads(told)["blockdevices"] if one["serial"] == serial]
        assert len(found) == 1, told
        return str(found[0])

    def provision(self, serial: str, *options: str, ok: int = 0, env: Any = None) -> str:
        """One run inside; what it said."""
        words = ("abupdate", "provision", self.node(serial), *_BUNDLE, *options)
        done = self.device.run(*words, timeout=600, ok=(ok,), env=env)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def bench(images: Path) -> Iterator[Bench]:
    top = images / "factory"
    top.mkdir()
    top.chmod(0o755)
    factory = make_factory(top)
    series = publisher.publish([installer.RELEASE])
    signers = publisher.key().allowed_signers
    built = device.build(series.bundle("1"), signers)
    accel = accelerator(lambda: guest.kernel(guest.build(installer.RELEASE, signers.read_text())))
    owned = top / "owned.img"
    assert factory.provision(owned, "--size", str(SIZE)) == 0
    files = {"1.bundle": factory.bundle, "signers": factory.signers, "layout": factory.layout}
    medium = make_medium(images / "medium.img", files)
    disks = {
        _SYSTEM: Disk(device.copy(built, images / "system.img"), bootindex=1),
        _MEDIUM: Disk(medium, readonly=True),
        _SMALL: Disk(empty(images / "small.img", 80 * MIB), "sata"),
        _OWNED: Disk(owned, "usb"),
        _VIRTIO: Disk(empty(images / "virtio.img")),
        _NVME: Disk(empty(images / "nvme.img"), "nvme", sector=4096),
        _SATA: Disk(empty(images / "sata.img"), "sata"),
        _USB: Disk(empty(images / "usb.img"), "usb"),
        _CUT: Disk(empty(images / "cut.img"), "nvme"),
        _LUKS: Disk(empty(images / "luks.img", 4096 * MIB)),
    }
    with VM(list(disks.values()), accel=accel) as vm:
        found = Bench(DeviceVM(vm), disks, factory, accel)
        power_on(found)
        yield found


def power_on(bench: Bench) -> None:
    bench.device.power_on()
    bench.device.wait_for_boot(release="1")
    bench.device.settle()
    bench.device.mount_medium()


def empty(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.row("S19")
def test_refused(bench: Bench) -> None:
    """Nothing is written to any disk, its own or another."""
    before = {name: content_hash(bench.disks[name].path) for name in (_SMALL, _OWNED, _VIRTIO)}
    system, owned = bench.node(_SYSTEM), bench.node(_OWNED)
    said = bench.provision(_SYSTEM, "--erase", _SYSTEM, ok=7)
    assert f"{system} holds the system that runs" in said and "mounted at /data" in said
    said = bench.provision(_OWNED, ok=7)
    assert f"{owned} carries data, and nobody has said that it may be lost" in said
    said = bench.provision(_OWNED, "--erase", _VIRTIO, ok=7)
    assert f"is '{_OWNED}', and '{_VIRTIO}' was given: nothing was written" in said
    said = bench.provision(_VIRTIO, ok=7)
    assert "is empty, and nobody has said that it may be lost" in said
    said = bench.provision(_SMALL, "--erase", _SMALL, ok=8)
    assert "need 92 MiB and more" in said and "the disk has 80 MiB" in said
    words = ("abupdate", "provision", f"{system}1", *_BUNDLE)
    assert "is a partition" in bench.device.run(*words, ok=(7,)).stderr
    assert bench.device.run("abupdate", "provision", ok=(2,)).stderr
    data = look(bench.disks[_OWNED].path).partitions[5].entry
    mounted = f"{owned}{data.number}"
    bench.device.run("mkdir", "-p", "/run/owned")
    bench.device.run("mount", "-o", "ro,noload", mounted, "/run/owned")
    said = bench.provision(_OWNED, "--erase", _OWNED, ok=7)
    assert f"must not be in use, and it is: {mounted} is mounted at /run/owned" in said
    bench.device.run("umount", "/run/owned")
    plan = bench.provision(_OWNED, "--dry-run")
    assert "data: ext4 'data'" in plan and "Nothing was written." in plan
    assert before == {name: content_hash(bench.disks[name].path) for name in before}


@pytest.mark.row("U18", "U19", "S19")
@pytest.mark.long
def test_every_bus(bench: Bench, tmp_path: Path) -> None:
    untouched = content_hash(bench.disks[_OWNED].path)
    for name in (_VIRTIO, _NVME, _SATA, _USB):
        assert "Release 1 is on" in bench.provision(name, "--erase", name)
        agree(bench, name)
    assert content_hash(bench.disks[_OWNED].path) == untouched
    assert "Release 1 is on" in bench.provision(_OWNED, "--erase", _OWNED, "--keep", "data")
    agree(bench, _OWNED)
    bench.device.run("sync")
    for name in (_VIRTIO, _NVME, _SATA, _USB, _OWNED):
        boots(bench.disks[name], tmp_path)


def agree(bench: Bench, name: str) -> None:
    """Debian's own programs find nothing wrong."""
    node = bench.node(name)
    bench.device.run("udevadm", "settle")
    table = bench.device.run("parted", "--script", "--machine", node, "unit", "B", "print").stdout
    assert len(table.splitlines()) == 8 and ":gpt:" in table, table
    assert "No problems found" in bench.device.run("sgdisk", "--verify", node).stdout
    # What opened the disk for writing has its table read again.
    bench.device.run("udevadm", "settle")
    told = bench.device.run("lsblk", "--json", "--output", "NAME,PATH,PARTLABEL,FSTYPE,LABEL", node)
    (found,) = json.loads(told.stdout)["blockdevices"]
    kinds = {one["partlabel"]: (one["fstype"], one["label"]) for one in found["children"]}
    assert kinds == {
        "bios": (None, None), "boot": ("vfat", "BOOT"), "rescue": ("ext4", "empty"),
        "rootA": ("ext4", "rootA"), "rootB": ("ext4", "newB"), "data": ("ext4", "data"),
    }  # fmt: skip
    for one in found["children"]:
        if one["fstype"] == "ext4":
            bench.device.run("e2fsck", "-f", "-n", one["path"])
        elif one["fstype"] == "vfat":
            bench.device.run("fsck.fat", "-n", one["path"])


def boots(disk: Disk, tmp_path: Path) -> None:
    """GRUB starts the release from it, on that bus: with BIOS where one can, and with UEFI."""
    image = Path(shutil.copyfile(disk.path, tmp_path / "boots.img"))
    parts = look(image, disk.sector).partitions
    specs = [PartitionSpec(one.entry.number, one.entry.name, None, None, None,
                           one.entry.extent.size) for one in parts]  # fmt: skip
    box = grubbox.Disk(image, specs, disk.sector)
    for firmware in ("bios", "uefi") if disk.sector == 512 else ("uefi",):
        found = grubbox.boot(box, firmware, bus=disk.bus)
        grubbox.assert_booted(found, box, "A", "normal")


@pytest.mark.long
def test_encrypted_data(bench: Bench) -> None:
    """LUKS, opened by the owner's key; kept by the next run with it, and not without."""
    node, run = bench.node(_VIRTIO), bench.device.run
    run("sh", "-c", "echo secret > /run/key; echo other > /run/other; mkdir -p /run/opened")
    key = ("--erase", _VIRTIO, "--luks-key", "/run/key")
    assert "data is encrypted: the release's initramfs must open it" in bench.provision(
        _VIRTIO, *key
    )
    run("cryptsetup", "isLuks", f"{node}6")
    assert run("lsblk", "--noheadings", "--output", "TYPE", f"{node}6").stdout.split() == ["part"]
    opened = ("cryptsetup", "open", f"{node}6", "mine", "--key-file")
    run(*opened, "/run/other", ok=(2,))
    run(*opened, "/run/key")
    run("mount", "/dev/mapper/mine", "/run/opened")
    run("sh", "-c", "test -f /run/opened/abupdate/slots/A.json && echo mine > /run/opened/films")
    said = bench.provision(_VIRTIO, *key, "--keep", "data", ok=7)
    assert "must not be in use" in said and "lies on" in said
    run("umount", "/run/opened")
    run("cryptsetup", "close", "mine")
    said = bench.provision(_VIRTIO, "--erase", _VIRTIO, "--keep", "data", ok=7)
    assert "is encrypted, and nothing here opens it" in said
    bench.provision(_VIRTIO, *key, "--keep", "data")
    run(*opened, "/run/key")
    run("mount", "/dev/mapper/mine", "/run/opened")
    assert run("cat", "/run/opened/films").stdout == "mine\n"
    run("umount", "/run/opened")
    run("cryptsetup", "close", "mine")


@pytest.mark.long
def test_boots_with_encrypted_data(bench: Bench) -> None:
    """The key comes from outside (here QEMU, as a TPM would give it); without it the slot boots
    all the same, and says that its data is not there."""
    node, run = bench.node(_LUKS), bench.device.run
    run("sh", "-c", f"printf '{_KEY}' > /run/sesame")
    words = ("abupdate", "provision", node, "release/1", "--erase", _LUKS)
    said = run(*words, "--luks-key", "/run/sesame", timeout=900).stdout
    assert "Release 1 is on" in said
    run("sync")
    bench.device.vm.power_cut()
    key = ("-fw_cfg", f"name=opt/abupdate.key,string={_KEY}")
    try:
        with VM([bench.disks[_LUKS]], accel=bench.accel, extra=key) as vm:
            device = start(vm)
            assert device.status()["problems"] == []
            data = device.run("findmnt", "--noheadings", "--output", "SOURCE", "/data").stdout
            assert data.startswith("/dev/dm-")
            device.run("abupdate", "doctor")
            device.run("sh", "-c", "echo mine > /etc/owner && echo mine > /home/demo/owner && sync")
        with VM([bench.disks[_LUKS]], accel=bench.accel) as vm:
            device = start(vm)
            (problem,) = [one for one in device.status()["problems"] if one.startswith("data")]
            assert "cannot be mounted" in problem
            device.run("test", "-e", "/etc/owner", ok=(1,))
        with VM([bench.disks[_LUKS]], accel=bench.accel, extra=key) as vm:
            device = start(vm)
            assert device.run("cat", "/etc/owner", "/home/demo/owner").stdout == "mine\nmine\n"
    finally:
        power_on(bench)


def start(vm: VM) -> DeviceVM:
    device = DeviceVM(vm)
    device.power_on()
    device.wait_for_boot(release="1", boot="normal")
    device.settle()
    return device


@pytest.mark.row("S19")
@pytest.mark.long
@pytest.mark.parametrize("point", ["table-made", "slot-filled", "data-filled"])
def test_power_cut_and_done_again(bench: Bench, tmp_path: Path, point: str) -> None:
    node, vm = bench.node(_CUT), bench.device.vm
    since = vm.serial.position
    words = " ".join(("abupdate", "provision", node, *_BUNDLE, "--erase", _CUT))
    run = f"ABUPDATE_FAILPOINT={point}:hang {words} > /dev/ttyS0 2>&1"
    vm.agent.start(["sh", "-c", run])
    vm.serial.wait_for(f"failpoint {point}: hang", 300, since)
    vm.power_cut()
    assert look(bench.disks[_CUT].path).unfinished
    power_on(bench)
    said = bench.provision(_CUT)
    assert "a first install that has not finished; it is started over" in said
    agree(bench, _CUT)
    bench.device.run("sync")
    boots(bench.disks[_CUT], tmp_path)
