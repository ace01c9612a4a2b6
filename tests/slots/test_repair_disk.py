"""`abupdate doctor --repair` in rescue: partition table, ESP, boot code, labels, data, boot state.

Each is made bad for real. It is found, said before it is done, done, and nothing else is
changed; done again nothing is left to do; cut at a failpoint the next run ends it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from abupdate import failpoints
from abupdate.boot.grubenv import BACKUP, PRIMARY
from abupdate.boot.state import Ustate
from abupdate.disk import gptcopies, grubimage
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import RESCUE, Slot
from abupdate.doctor import mend_esp
from abupdate.provision.grub import _SIGNED
from abupdate.rescue.retry import attend
from abupdate.update import evidence
from tests.slots.boot_device import BIOS_PLACE, EFI, BootDevice, doctor
from tests.slots.rescue_device import RescueDevice, rescue_of

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def rescue(device: BootDevice) -> Iterator[RescueDevice]:
    """A confirmed 1 in A, a confirmed 2 in B; rescue runs."""
    assert device.run("confirm", "--boot") == 0
    assert device.run("install", device.top / "2.bundle") == 0
    device.power_on()
    assert device.run("confirm") == 0
    device.power_on()
    with rescue_of(device) as found:
        yield found


def marked(found: RescueDevice) -> None:
    """GRUB's own mark of this boot, which is of no matter here."""
    runtime = found.paths.runtime
    (runtime / "seen").write_text("R\n")


def repaired(
    device: BootDevice, capsys: Capsys, *words: str, code: int = 0
) -> dict[str, dict[str, Any]]:
    """What was done, by its id."""
    found, findings, report = doctor(device, capsys, "--repair", *words)
    assert (found, report["failed"]) == (code, []), (findings, report)
    return {one["id"]: one for one in report["repairs"]}  # type: ignore[attr-defined]


def cut(monkeypatch: pytest.MonkeyPatch, device: BootDevice, capsys: Capsys, point: str) -> None:
    """A repair that ends at a failpoint."""
    with monkeypatch.context() as patch:
        patch.setenv(failpoints.VARIABLE, f"{point}:error")
        _, _, report = doctor(device, capsys, "--repair")
    assert point in str(report["failed"]), report


def quiet(device: BootDevice, capsys: Capsys, before: dict[str, str]) -> None:
    """Nothing is wrong any more, nothing is done, and nothing else than it should has changed."""
    code, found, report = doctor(device, capsys, "--repair")
    assert (code, found, report["repairs"]) == (0, {}, [])
    assert isinstance(device, RescueDevice)
    left = device.hashes()
    assert {name: left[name] for name in before} == before
    assert (device.paths.data / "films").read_text() == "mine\n"


def test_a_sound_device_in_rescue(rescue: RescueDevice, capsys: Capsys) -> None:
    marked(rescue)
    quiet(rescue, capsys, rescue.hashes())


@pytest.mark.row("U15")
def test_rescue_mends_by_itself(rescue: RescueDevice, capsys: Capsys) -> None:
    """As soon as it is up; unless its owner does not want that."""
    marked(rescue)
    capsys.readouterr()
    rescue.remove(PRIMARY)
    rescue.configure("rescue.repair=false")
    assert rescue.run("rescue", "repair") == 0
    assert capsys.readouterr().out == ""
    assert not rescue.env().exists()
    rescue.configure("rescue.repair=true")
    assert rescue.run("rescue", "repair") == 0
    assert "Both copies of the boot state were written again" in capsys.readouterr().out
    assert rescue.env().exists()


@pytest.mark.row("U15")
def test_after_mending_a_slot_is_tried_soon_and_once(
    rescue: RescueDevice, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    reboots: list[str] = []
    monkeypatch.setattr("abupdate.cli.rescue.systemctl", reboots.append)

    def tried_after(seconds: float) -> bool:
        reboots.clear()
        monkeypatch.setattr(evidence, "uptime", lambda: seconds)
        assert rescue.run("rescue", "retry") == 0
        return bool(reboots)

    marked(rescue)
    for soonest in (170.0, 1800.0):  # the second time, the same damage has brought it back
        monkeypatch.setattr(evidence, "uptime", lambda: 50.0)
        for name in (PRIMARY, BACKUP):
            rescue.remove(name)
        assert rescue.run("rescue", "repair") == 0
        assert "done: Slot B is what boots" in capsys.readouterr().out
        assert not tried_after(soonest - 1)
        assert tried_after(soonest), capsys.readouterr().out
        monkeypatch.setattr(evidence, "uptime", lambda: 60.0)
        attend(rescue.machine)  # a key was pressed at the menu
        assert not tried_after(1859.0)
        assert tried_after(1860.0)
        (rescue.paths.runtime / "attended").unlink()
        (rescue.paths.runtime / "mended").unlink(missing_ok=True)  # a boot empties /run
    assert rescue.run("rescue", "repair") == 0
    assert not (rescue.paths.runtime / "mended").exists()  # nothing was mended


# --- Partition table ---


def zero(disk: Path, at: int, length: int) -> None:
    with disk.open("r+b") as file:
        file.seek(at, 2 if at < 0 else 0)
        file.write(bytes(length))


@pytest.mark.row("U15")
@pytest.mark.parametrize(
    ("name", "at", "point"),
    [
        ("gpt-primary", 512, "gpt-entries-written"),
        ("gpt-backup", -512, "gpt-entries-written"),
        ("gpt-protective", 0x1BE, ""),
    ],
)
def test_partition_table(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch,
    name: str, at: int, point: str,
) -> None:  # fmt: skip
    marked(rescue)
    disk, before = rescue.top / "disk", rescue.hashes()
    whole = disk.read_bytes()
    zero(disk, at, 64)
    code, found, _ = doctor(rescue, capsys)
    assert (code, set(found)) == (0 if name == "gpt-backup" else 11, {name})
    assert found[name]["repairable"]
    if point:
        cut(monkeypatch, rescue, capsys, point)
        assert set(doctor(rescue, capsys)[1]) == {name}
    done = repaired(rescue, capsys)
    assert set(done) == {name}
    assert str(disk) in done[name]["says"]
    assert "because" in done[name]["says"]
    assert disk.read_bytes() == whole
    quiet(rescue, capsys, before)


@pytest.mark.row("U15")
def test_where_rescue_and_slots_are(rescue: RescueDevice, capsys: Capsys) -> None:
    """What GRUB goes by without a table; what it says besides is nobody's harm."""
    marked(rescue)
    disk, before, where = rescue.top / "disk", rescue.hashes(), grubimage.PLACES
    whole = disk.read_bytes()
    block = whole[where.start : where.end]
    assert b"\nrootA=2048+" in block and b"\nrootB_partuuid=" in block
    grubimage.put_places(disk, block.replace(b"#####", b"x=yz\n", 1))
    quiet(rescue, capsys, before)
    for bad in (bytes(len(block)), block.replace(b"rootA=2048+", b"rootA=2049+")):
        grubimage.put_places(disk, bad)
        code, found, _ = doctor(rescue, capsys)
        assert (code, set(found)) == (0, {"places-lost"})
        assert set(repaired(rescue, capsys)) == {"places"}
        assert disk.read_bytes() == whole
    quiet(rescue, capsys, before)


def test_both_copies_of_the_table_lost(rescue: RescueDevice, capsys: Capsys) -> None:
    marked(rescue)
    disk = rescue.top / "disk"
    zero(disk, 512, 64)
    zero(disk, -512, 64)
    before = disk.read_bytes()
    code, found, report = doctor(rescue, capsys, "--repair")
    assert (code, set(found), report["repairs"]) == (11, {"gpt-lost"}, [])
    assert disk.read_bytes() == before


def test_a_name_that_the_table_lost(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked(rescue)
    disk, before = rescue.top / "disk", rescue.hashes()
    whole = disk.read_bytes()
    for name in ("", "films"):
        gptcopies.rename(gptcopies.look(disk), 5, name)
        find = RescueDevice._disk

        def renamed(
            device: RescueDevice, root: Path, name: str = name, find: Callable[..., Any] = find
        ) -> Any:
            known = find(device, root)
            parts = [replace(p, name=name) if p.number == 5 else p for p in known.partitions]
            return replace(known, partitions=tuple(parts))

        with monkeypatch.context() as patch:
            patch.setattr(RescueDevice, "_disk", renamed)
            words = ("--also", "name-rootB") if name else ()
            if name:
                found = doctor(rescue, capsys, "--repair")[1]
                assert "--also name-rootB" in str(found["partition-missing"]["advice"])
                assert disk.read_bytes() != whole
            done = repaired(rescue, capsys, *words, code=11)
            assert set(done) == {"name-rootB"}
            assert disk.read_bytes() == whole
            found = doctor(rescue, capsys)[1]
            assert "reboot" in str(found["partition-missing"]["advice"])
        quiet(rescue, capsys, before)


# --- ESP and boot code ---


def empty(device: BootDevice) -> None:
    """All is gone but what a firmware needs to start GRUB."""
    device.remount("rw")
    for path in (device.paths.esp / "grub").iterdir():
        path.unlink()
    (device.paths.esp / "grub").rmdir()
    device.remount("ro")


@pytest.mark.row("U15")
def test_an_esp_that_was_emptied(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked(rescue)
    before = rescue.hashes()
    state, config = rescue.state(), rescue.env("grub.cfg").read_bytes()
    empty(rescue)
    rescue.remount("rw")
    (rescue.paths.esp / "EFI/BOOT/BOOTX64.EFI").write_bytes(b"")
    (rescue.paths.esp / "mine").write_text("mine\n")
    rescue.remount("ro")
    code, found, _ = doctor(rescue, capsys)
    assert code == 11
    assert set(found) == {
        "grub-cfg-missing", "esp-file-missing", "copies-lost", "copy-missing",
        "rules-choice-lost", "rules-damaged",
    }  # fmt: skip
    cut(monkeypatch, rescue, capsys, "esp-file-written")
    assert rescue.env("grub.cfg").read_bytes() == config
    lose_state(rescue)
    cut(monkeypatch, rescue, capsys, "state-primary-written")
    lose_state(rescue)
    done = repaired(rescue, capsys)
    assert set(done) == {"boot-state"}  # the files came back in the run before
    assert (rescue.paths.esp / "EFI/BOOT/BOOTX64.EFI").read_bytes() == EFI
    assert (rescue.paths.esp / "mine").read_text() == "mine\n"
    assert rescue.state() == replace(
        state, slot="B", good="AB", ustate=Ustate.FAILED, countdown=state.limit, seen="x"
    )
    quiet(rescue, capsys, before)


@pytest.mark.row("U15")
def test_an_esp_without_a_filesystem(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This kernel may have no vfat: it is made and filled, and read with mtools."""
    marked(rescue)
    before = rescue.hashes()
    rescue.unmount_esp()
    subprocess.run(["wipefs", "--all", rescue.esp], check=True, capture_output=True)
    asked: list[object] = []

    def mount(*where: object) -> str:
        asked.append(where)
        return "It is mounted."

    monkeypatch.setattr(mend_esp, "mount", mount)
    found = doctor(rescue, capsys)[1]
    assert found["esp-unreadable"]["repairable"]
    with monkeypatch.context() as patch:
        patch.setattr("abupdate.disk.images._PIECE", 1 << 20)
        patch.setattr("abupdate.disk.images._place", _place_some(3))
        doctor(rescue, capsys, "--repair")
    assert "esp-unreadable" in doctor(rescue, capsys)[1]
    done = repaired(rescue, capsys, code=11)
    assert list(done) == ["esp", "esp-mount"]  # which did nothing here
    assert str(rescue.esp) in done["esp"]["says"]
    listed = subprocess.run(
        ["mdir", "-i", rescue.esp, "-/", "-b", "::"], check=True, capture_output=True, text=True
    ).stdout
    assert "::/EFI/BOOT/BOOTX64.EFI" in listed and "::/grub/grub.cfg" in listed
    read = ["mtype", "-i", str(rescue.esp), "::/grub/grub.cfg"]
    config = subprocess.run(read, check=True, capture_output=True).stdout
    assert config == (rescue.paths.vendor / "grub/grub.cfg").read_bytes()
    subprocess.run(["fsck.fat", "-n", rescue.esp], check=True, capture_output=True)
    assert len(asked) == 2
    assert {name: rescue.hashes()[name] for name in before} == before
    assert "esp-unreadable" not in doctor(rescue, capsys)[1]


def _place_some(count: int) -> Callable[..., None]:
    """The power goes at that write."""
    from abupdate.disk import images
    from abupdate.errors import DeviceFaultError

    place = images._place
    done: list[object] = []

    def some(*arguments: Any) -> None:
        if len(done) == count:
            raise DeviceFaultError("The power went.")
        done.append(arguments)
        place(*arguments)

    return some


def test_what_is_there_on_the_boot_partition_is_not_overwritten_unasked(
    rescue: RescueDevice, capsys: Capsys
) -> None:
    marked(rescue)
    rescue.unmount_esp()
    _, found, report = doctor(rescue, capsys, "--repair")
    assert not found["esp-unreadable"]["repairable"]
    assert "--also esp" in str(found["esp-unreadable"]["advice"])
    assert "ext4" in str(found["esp-unreadable"]["message"])
    assert [one["outcome"] for one in report["repairs"]] == ["asked"]  # type: ignore[attr-defined]
    rescue.mount_esp("ro")


def test_the_owners_settings_of_grub_stay(rescue: RescueDevice, capsys: Capsys) -> None:
    rescue.put("settings.env", b"menu_wait=0")
    rescue.remove("grub.cfg")
    assert set(repaired(rescue, capsys, "--also", "grub-images")) >= {"esp-files", "grub-images"}
    assert rescue.env("settings.env").read_bytes() == b"menu_wait=0"


def test_images_stay_unless_they_are_asked_for(rescue: RescueDevice, capsys: Capsys) -> None:
    marked(rescue)
    rescue.remount("rw")
    image = rescue.paths.esp / "EFI/BOOT/BOOTX64.EFI"
    image.write_bytes(b"MZ of an older release")
    rescue.remount("ro")
    assert repaired(rescue, capsys) == {}
    assert image.read_bytes() == b"MZ of an older release"
    assert set(repaired(rescue, capsys, "--also", "grub-images")) == {"grub-images"}
    assert image.read_bytes() == EFI


@pytest.mark.parametrize("at", [0, BIOS_PLACE.start, BIOS_PLACE.start + (30 << 10)])
def test_what_a_bios_starts(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    marked(rescue)
    disk, before = rescue.top / "disk", rescue.hashes()
    whole = disk.read_bytes()
    zero(disk, at, 446 if at == 0 else BIOS_PLACE.end - at)
    assert set(doctor(rescue, capsys)[1]) == {"boot-code-missing"}
    if at:
        zero(disk, 0, 446)
        cut(monkeypatch, rescue, capsys, "boot-code-half-written")
        assert set(doctor(rescue, capsys)[1]) == {"boot-code-missing"}
    assert set(repaired(rescue, capsys)) == {"boot-code"}
    assert grubimage.core_fault(disk, BIOS_PLACE.start) is None
    assert disk.read_bytes() == whole
    quiet(rescue, capsys, before)


def test_secure_boot_gets_no_image_that_no_firmware_takes(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marked(rescue)
    firmware = tmp_path / "SecureBoot"
    firmware.write_bytes(b"\6\0\0\0\1")
    monkeypatch.setattr("abupdate.doctor.diagnose_esp._SECURE_BOOT", firmware)
    rescue.remove("grub.cfg")
    rescue.remount("rw")
    (rescue.paths.esp / "EFI/BOOT/BOOTX64.EFI").unlink()
    rescue.remount("ro")
    code, found, report = doctor(rescue, capsys, "--repair")
    assert (code, "esp-file-missing" in found, "grub-cfg-missing" in found) == (11, True, False)
    assert "shim-signed" in str(report["failed"])
    for name in _SIGNED:
        (rescue.paths.root / name).parent.mkdir(parents=True, exist_ok=True)
        (rescue.paths.root / name).write_bytes(b"MZ " + name.encode())
    repaired(rescue, capsys)
    boot = rescue.paths.esp / "EFI/BOOT"
    assert b"shim" in (boot / "BOOTX64.EFI").read_bytes()
    assert b"grubx64" in (boot / "grubx64.efi").read_bytes()
    early = (rescue.paths.vendor / "grub/early.cfg").read_bytes()
    assert (rescue.paths.esp / "EFI/debian/grub.cfg").read_bytes() == early


# --- Labels ---


def label(device: Path, text: str) -> None:
    subprocess.run(["tune2fs", "-L", text, device], check=True, capture_output=True)


@pytest.mark.row("U15")
@pytest.mark.parametrize("erased", ["", "newB"])
def test_a_label_that_was_erased(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, erased: str
) -> None:
    marked(rescue)
    slot = rescue.loops[Slot.B]
    before = rescue.hashes(slot)
    label(slot, erased)
    code, found, _ = doctor(rescue, capsys)
    assert (code, set(found)) == (11, {"slot-lost"})
    assert found["slot-lost"]["repairable"]
    cut(monkeypatch, rescue, capsys, "slot-verified")
    assert set(doctor(rescue, capsys)[1]) == {"slot-lost"}
    done = repaired(rescue, capsys)
    assert set(done) == {"label-B"}
    assert "Read all of slot B" in done["label-B"]["says"]
    superblock, record = read_superblock(slot), rescue.machine.records.slot(Slot.B)
    assert superblock is not None and record is not None
    assert (superblock.label, record.state) == ("rootB", "clean")
    assert (record.uuid, record.superblock) == (superblock.uuid, superblock.fingerprint)
    quiet(rescue, capsys, before)
    label(slot, erased)
    cut(monkeypatch, rescue, capsys, "slot-labelled")
    quiet(rescue, capsys, before)


def test_labels_and_boot_state_lost_together(rescue: RescueDevice, capsys: Capsys) -> None:
    """The label comes back first; A, which holds something that no release has, stays without."""
    marked(rescue)
    for slot in Slot:
        label(rescue.loops[slot], "")
    lose_state(rescue)
    try:
        _, found, report = doctor(rescue, capsys, "--repair")
        outcomes = [(one["id"], one["outcome"]) for one in report["repairs"]]  # type: ignore[attr-defined]
        assert outcomes == [("label-A", "failed"), ("label-B", "done"), ("boot-state", "done")]
        assert set(found) == {"slot-unfinished"}
        assert (rescue.state().slot, rescue.state().good) == ("B", "xB")
    finally:
        label(rescue.loops[Slot.A], "rootA")


def test_a_slot_that_is_not_its_release_gets_no_label(
    rescue: RescueDevice, capsys: Capsys, tmp_path: Path
) -> None:
    slot = rescue.loops[Slot.B]
    label(slot, "newB")
    subprocess.run(["mount", slot, tmp_path], check=True)
    with (tmp_path / "usr/bin/tool").open("r+b") as file:
        file.write(b"X")
    subprocess.run(["umount", tmp_path], check=True)
    code, found, report = doctor(rescue, capsys, "--repair")
    assert (code, "slot-lost" in found) == (11, True)
    assert "usr/bin/tool" in str(report["failed"])
    superblock = read_superblock(slot)
    assert superblock is not None and superblock.label == "newB"


def test_a_slot_whose_install_did_not_end_gets_no_label(
    rescue: RescueDevice, capsys: Capsys
) -> None:
    record = rescue.machine.records.slot(Slot.B)
    assert record is not None
    rescue.machine.records.write_slot(replace(record, state="writing"))
    label(rescue.loops[Slot.B], "newB")
    before = rescue.hashes()
    _, found, report = doctor(rescue, capsys, "--repair")
    assert "did not end" in str(found["slot-lost"]["advice"])
    assert report["repairs"] == []
    assert rescue.hashes() == before


def test_the_slot_that_runs_is_not_labelled(device: BootDevice, capsys: Capsys) -> None:
    label(device.loops[Slot.A], "")
    try:
        _, found, report = doctor(device, capsys, "--repair")
        assert "rescue" in str(found["slot-lost"]["advice"])
        assert report["repairs"] == []
    finally:
        label(device.loops[Slot.A], "rootA")


def test_a_label_that_is_there_twice(rescue: RescueDevice, capsys: Capsys) -> None:
    marked(rescue)
    before = rescue.hashes()
    # rootA's copy in B, as dd would leave it, is nobody's.
    label(rescue.loops[Slot.B], "rootA")
    stranger = rescue.attach("films", 7, "rescue")
    try:
        _, found, report = doctor(rescue, capsys, "--repair")
        outcomes = {one["id"]: one["outcome"] for one in report["repairs"]}  # type: ignore[attr-defined]
        of_slot = f"label-of-{rescue.loops[Slot.B].name}"
        assert outcomes == {
            of_slot: "done", f"label-of-{stranger.name}": "asked", "label-B": "done"
        }  # fmt: skip
        assert set(found) == {"label-doubled"}
        superblock = read_superblock(stranger)
        assert superblock is not None and superblock.label == RESCUE
        repaired(rescue, capsys, "--also", f"label-of-{stranger.name}")
        superblock = read_superblock(stranger)
        assert superblock is not None and superblock.label == "was-rescue"
    finally:
        rescue.detach("films", 7)
    after = rescue.hashes()
    del before["B"], after["B"]  # its superblock has other times
    assert after == before
    assert doctor(rescue, capsys)[1] == {}


# --- Data ---


def damage_tree(device: Path) -> None:
    """The folder of the owner is gone, its files are not."""
    words = ["debugfs", "-w", "-R", "clri mine", str(device)]
    subprocess.run(words, check=True, capture_output=True)


def tear_superblock(device: Path) -> None:
    zero(device, 1024, 1024)


@pytest.mark.row("U15")
@pytest.mark.parametrize("harm", [damage_tree, tear_superblock])
def test_data_that_is_damaged(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
) -> None:  # fmt: skip
    marked(rescue)
    before = rescue.hashes()
    (rescue.paths.data / "mine").mkdir()
    (rescue.paths.data / "mine/film").write_text("a film\n" * 1000)
    rescue.unmount_data()
    harm(rescue.data)
    code, found, _ = doctor(rescue, capsys)
    assert (code, found["data-unmounted"]["repairable"]) == (11, True)
    cut(monkeypatch, rescue, capsys, "data-checked")
    done = repaired(rescue, capsys)
    assert set(done) == {"data"}
    assert "e2fsck" in done["data"]["says"]
    kept = [path.read_text() for path in rescue.paths.data.glob("*/*") if "film" in path.name
            or path.parent.name == "lost+found"]  # fmt: skip
    assert "a film\n" * 1000 in kept
    quiet(rescue, capsys, before)


def test_data_that_the_initramfs_left_damaged(rescue: RescueDevice, capsys: Capsys) -> None:
    marked(rescue)
    report = rescue.paths.runtime / "mounts"
    report.write_text("data damaged /dev/x has damage that e2fsck -p leaves\n")
    assert set(doctor(rescue, capsys)[1]) == {"data-damaged"}
    assert set(repaired(rescue, capsys)) == {"data"}
    report.unlink()


def test_data_that_nothing_can_be_done_with(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked(rescue)
    before = rescue.hashes()
    rescue.unmount_data()
    rescue.data.write_bytes(bytes(24 << 20))
    code, found, report = doctor(rescue, capsys, "--repair")
    outcomes = {one["id"]: one["outcome"] for one in report["repairs"]}  # type: ignore[attr-defined]
    assert (code, outcomes) == (11, {"data": "failed", "data-new": "asked"})
    assert set(found) == {"data-unmounted"}, "what is on data is not asked for"
    assert "owner's files" in str(found["data-unmounted"]["advice"])
    assert "--also data-new" in str(found["data-unmounted"]["advice"])
    assert not any(rescue.data.read_bytes()), "something was written unasked"
    with monkeypatch.context() as patch:
        patch.setenv(failpoints.VARIABLE, "data-made:error")
        doctor(rescue, capsys, "--repair", "--also", "data-new")
    _, found, report = doctor(rescue, capsys, "--repair", "--also", "data-new")
    assert "data-unmounted" not in found
    superblock = read_superblock(rescue.data)
    assert superblock is not None and superblock.label == "data"
    assert (rescue.paths.data / "etc/A/upper").is_dir()
    assert {name: rescue.hashes()[name] for name in before} == before


def test_a_slot_leaves_data_to_rescue(device: BootDevice, capsys: Capsys) -> None:
    report = device.paths.runtime / "mounts"
    report.write_text("data failed /dev/x cannot be mounted\n")
    try:
        code, found, told = doctor(device, capsys, "--repair")
        assert (code, told["repairs"]) == (11, [])
        assert "abupdate rescue boot" in str(found["data-unmounted"]["advice"])
    finally:
        report.unlink()


# --- Boot state ---


def lose_state(device: BootDevice) -> None:
    device.remove(PRIMARY)
    device.put(BACKUP, b"")


@pytest.mark.row("U15", "S41")
def test_both_copies_lost_in_rescue(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked(rescue)
    before, state = rescue.hashes(), rescue.state()
    lose_state(rescue)
    assert "copies-lost" in doctor(rescue, capsys)[1]
    cut(monkeypatch, rescue, capsys, "state-primary-written")
    lose_state(rescue)
    done = repaired(rescue, capsys)
    assert "slot B" in done["boot-state"]["says"]
    assert "release 1" in done["boot-state"]["says"]
    assert (rescue.state().slot, rescue.state().good, rescue.state().trial) == ("B", "AB", "x")
    assert rescue.state().limit == state.limit
    quiet(rescue, capsys, before)


def test_what_is_not_confirmed_is_not_made_good(rescue: RescueDevice, capsys: Capsys) -> None:
    marked(rescue)
    records = rescue.machine.records
    for slot in Slot:
        record = records.slot(slot)
        assert record is not None
        records.write_slot(replace(record, confirmed=None) if slot is Slot.B else record)
    lose_state(rescue)
    repaired(rescue, capsys)
    assert (rescue.state().slot, rescue.state().good) == ("A", "Ax")
    record = records.slot(Slot.A)
    assert record is not None
    records.write_slot(replace(record, state="writing"))
    lose_state(rescue)
    code, found, report = doctor(rescue, capsys, "--repair")
    assert (code, report["repairs"]) == (11, [])
    assert "No slot is confirmed" in str(found["copies-lost"]["advice"])


def test_a_slot_rebuilds_the_state_only_without_rescue(device: BootDevice, capsys: Capsys) -> None:
    assert device.run("confirm", "--boot") == 0
    record = device.machine.records.slot(Slot.A)
    assert record is not None
    device.machine.records.write_slot(replace(record, confirmed=1.0))
    lose_state(device)
    assert doctor(device, capsys, "--repair")[2]["repairs"] == []
    label(device.others[RESCUE, 3], "empty")
    try:
        line = device.paths.cmdline.read_text()
        device.paths.cmdline.write_text(line.replace("=normal", "=trial"))
        assert doctor(device, capsys, "--repair")[2]["repairs"] == []
        device.paths.cmdline.write_text(line)
        assert "boot-state" in repaired(device, capsys)
    finally:
        label(device.others[RESCUE, 3], RESCUE)
    assert (device.state().slot, device.state().good) == ("A", "Ax")


# --- What is said ---


def test_it_is_said_before_it_is_done(
    rescue: RescueDevice, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked(rescue)
    disk = rescue.top / "disk"
    zero(disk, 512, 64)
    rescue.remove("grub.cfg")
    before = disk.read_bytes()
    capsys.readouterr()
    assert rescue.run("doctor", "--repair", "--dry-run") == 11
    out = capsys.readouterr().out
    assert "Nothing was changed." in out
    assert out.index("gpt-primary: Write the first copy") < out.index(
        "esp-files: Put grub/grub.cfg"
    )
    assert (disk.read_bytes(), rescue.env("grub.cfg").exists()) == (before, False)
    heard: list[str] = []
    write = gptcopies.write_first

    def listen(copies: gptcopies.Copies) -> None:
        heard.append(capsys.readouterr().out)
        write(copies)

    monkeypatch.setattr(gptcopies, "write_first", listen)
    assert rescue.run("doctor", "--repair") == 0
    assert len(heard) == 1 and heard[0].startswith("gpt-primary: Write the first copy")
    assert "because" in heard[0]
    out = capsys.readouterr().out
    assert "    done: The first copy of the table" in out
    assert "Nothing is wrong." in out
    history = [one for one in rescue.machine.records.history() if one.event == "repaired"]
    assert [one.detail["repair"] for one in history] == ["gpt-primary", "esp-files"]


def test_options_go_with_repair(device: BootDevice, capsys: Capsys) -> None:
    for words in (("--also", "esp"), ("--from", "x"), ("--dry-run",)):
        assert device.run("doctor", *words) == 2
        assert "--repair" in capsys.readouterr().err


def test_nothing_is_repaired_on_the_wrong_disk(rescue: RescueDevice, capsys: Capsys) -> None:
    zero(rescue.top / "disk", 512, 64)
    lose_state(rescue)
    line = rescue.paths.cmdline.read_text()
    rescue.paths.cmdline.write_text(line.replace("uuid-3", "uuid-9"))
    before = (rescue.top / "disk").read_bytes()
    code, found, report = doctor(rescue, capsys, "--repair")
    assert (code, report["repairs"], "root-mismatch" in found) == (11, [], True)
    assert (rescue.top / "disk").read_bytes() == before
