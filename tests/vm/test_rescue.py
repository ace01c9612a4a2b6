"""Rescue in booted machines: it comes up by itself, and puts slots back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import demo_parts
import device
import guest
import publisher
import pytest
from device_vm import MEDIUM, make_medium
from serial_console import SerialConsole
from vm import accelerator

from abupdate.disk.images import content_hash, make_vfat
from abupdate.disk.layout import MIB
from tests.slots.webserver import Site, serving
from tests.vm.rescue_vm import RESCUE, SIZES, Parts, extent, in_rescue, machine, zero

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def parts(images: Path) -> Parts:
    slots = publisher.publish([demo_parts.ONE, demo_parts.TWO])
    rescue = publisher.publish([RESCUE])
    signers = publisher.key().allowed_signers
    disk = device.build(slots.bundle("1"), signers, SIZES)
    medium = make_medium(images / "medium.img", {"rescue.bundle": rescue.bundle("1")})
    accel = accelerator(lambda: guest.kernel(guest.build(demo_parts.ONE, signers.read_text())))
    return Parts(disk, slots.bundle("2"), medium, accel)


def hash_of(disk: Path, name: str, tmp_path: Path) -> str:
    where, copy = extent(disk, name), tmp_path / "part"
    with disk.open("rb") as file, copy.open("wb") as out:
        file.seek(where.start)
        out.write(file.read(where.size))
    return content_hash(copy)


@pytest.fixture(scope="module")
def with_rescue(parts: Parts, images: Path) -> Path:
    """The disk of a device that has got its rescue system by `rescue update`."""
    disk = device.copy(parts.disk, images / "with-rescue.img")
    with machine(disk, parts) as found:
        found.wait_for_boot(release="1", boot="normal")
        found.settle()
        assert found.status()["rescue"] == "empty"
        found.mount_medium()
        said = found.run("abupdate", "rescue", "update", f"{MEDIUM}/rescue.bundle", timeout=600)
        assert "Release 1 is the rescue system." in said.stdout
        assert found.status()["rescue"] == "ready"
        found.run("abupdate", "doctor")
        found.run("sh", "-c", "echo mine > /home/demo/film && echo mine > /etc/mine && sync")
        found.power_off()
    return disk


@pytest.mark.row("S47", "S48")
def test_both_slots_zeroed(with_rescue: Path, parts: Parts, images: Path, tmp_path: Path) -> None:
    disk = device.copy(with_rescue, images / "zeroed.img")
    before = hash_of(disk, "rescue", tmp_path)
    for name in ("rootA", "rootB"):
        zero(disk, name)
    with serving(Site(parts.two.read_bytes())) as site, machine(disk, parts) as found:
        in_rescue(found)
        mounted = found.run("findmnt", "--json", "--list", "--output", "SOURCE,TARGET").stdout
        of_disk = {
            one["target"] for one in json.loads(mounted)["filesystems"]
            if one["source"].startswith("/dev/")
        }  # fmt: skip
        assert of_disk == {"/data", "/boot/efi"}
        url = site.url.replace("127.0.0.1", "10.0.2.2")
        revoked = "/data/abupdate/trust/revoked"
        key = publisher.key().private.with_suffix(".pub").read_text().strip()
        found.run("sh", "-c", f"echo '{key}' > {revoked}")
        said = found.run("abupdate", "rescue", "reflash", "A", url, timeout=300, ok=(6,))
        assert "revoked" in said.stderr
        found.run("rm", revoked)
        said = found.run("abupdate", "rescue", "reflash", "A", url, timeout=900)
        assert "Release 2 is installed in slot A, on trial from the next boot." in said.stdout
        found.reboot()
        found.wait_for_boot(release="2", boot="trial")
        found.settle()
        status = found.status()
        assert (status["booted"]["release"], status["boot"]["ustate"]) == ("2", 0)
        assert found.run("cat", "/home/demo/film", "/etc/mine").stdout == "mine\nmine\n"
        found.power_off()
    assert hash_of(disk, "rescue", tmp_path) == before


@pytest.mark.row("S47")
def test_from_a_stick_by_the_console(with_rescue: Path, parts: Parts, images: Path) -> None:
    """No network, and nothing but the menu; a word of nonsense changes nothing."""
    disk = device.copy(with_rescue, images / "zeroed.img")
    for name in ("rootA", "rootB"):
        zero(disk, name)
    folder, stick = images / "stick", images / "stick.img"
    folder.mkdir()
    shutil.copy(parts.two, folder / "gateway-2.bundle")
    (folder / "broken.bundle").write_bytes(b"not a bundle")
    make_vfat(stick, 256 * MIB, folder, label="ABUPDATE")
    before = content_hash(stick)
    with machine(disk, parts, stick) as found:
        in_rescue(found)
        serial = found.vm.serial
        choose(serial, "nonsense", "A number, or Enter to look again")
        choose(serial, "3", "Into slot A, B, or both")
        choose(serial, "C", "A, B or both was expected, found 'C'")
        choose(serial, "3", "Into slot A, B, or both")
        choose(serial, "A", "Release 2 is installed in slot A, on trial from the next boot", 900)
        serial.wait_for("A number, or Enter to look again", 60)
        found.restarts()
        serial.write("8\r")
        found.wait_for_boot(release="2", boot="trial")
        found.settle()
        assert found.status()["booted"]["text"] == "confirmed on this boot"
        found.power_off()
    assert content_hash(stick) == before


def test_little_memory(with_rescue: Path, parts: Parts, images: Path) -> None:
    """Rescue runs from its partition then, says so, and puts a slot back from the store."""
    disk = device.copy(with_rescue, images / "zeroed.img")
    zero(disk, "rootA")
    with machine(disk, parts, memory=512) as found:
        in_rescue(found)
        (problem,) = [one for one in found.status()["problems"] if one.startswith("memory")]
        assert "rescue runs from its partition: it needs" in problem
        found.run("abupdate", "rescue", "reflash", "A", "release/1", timeout=900)
        found.reboot()
        found.wait_for_boot(release="1", boot="trial")
        found.settle()
        assert found.status()["boot"]["ustate"] == 0


def choose(serial: SerialConsole, answer: str, outcome: str, timeout: float = 60) -> None:
    since = serial.position
    serial.write(f"{answer}\r")
    serial.wait_for(outcome, timeout, since)
