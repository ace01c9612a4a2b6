"""`abupdate provision` into plain files: what is made, the same each time, and what is refused."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from abupdate import failpoints
from abupdate.boot.grubenv import Grubenv
from abupdate.boot.state import provision
from abupdate.cli.main import main
from abupdate.cli.show_provision import disk_text
from abupdate.disk.drive import look, loops_of
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.images import content_hash
from abupdate.disk.layout import MIB, PartitionSpec, Slot
from abupdate.disk.partition import make_table
from abupdate.events import Events
from abupdate.paths import Paths
from abupdate.provision import permission, write
from abupdate.provision.plan import disk_facts
from abupdate.release.tag import parse_tag
from abupdate.release.version import Version
from abupdate.run import Sandbox
from abupdate.store.content import open_commit
from abupdate.store.repository import Repository
from abupdate.store.verify import compare
from abupdate.update import trust
from abupdate.update.records import Records
from abupdate.update.slots import Machine
from abupdate.web.auth import Passwords
from tests.grub.grubbox import Disk, assert_booted, boot
from tests.slots import newdisk
from tests.slots.device import hash_of
from tests.slots.newdisk import SIZE, Factory, drive, extents, make_factory, mounted, part
from tests.slots.programs import add_programs
from tests.slots.rootfs import make_rootfs

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def factory() -> Iterator[Factory]:
    top = Path(tempfile.mkdtemp(prefix="abupdate-"))
    top.chmod(0o755)
    yield make_factory(top)
    shutil.rmtree(top)


@pytest.fixture
def refused(factory: Factory, capsys: pytest.CaptureFixture[str]) -> Refused:
    return partial(newdisk.refused, factory, capsys)


@pytest.fixture(scope="module")
def made(factory: Factory) -> Path:
    """A disk with the small layout. Read it, and copy it before it is written."""
    disk = factory.top / "made.img"
    assert factory.provision(disk, "--size", str(SIZE)) == 0
    return disk


@pytest.fixture
def owned(made: Path, tmp_path: Path) -> Path:
    """A copy with a file of the owner on data and a change in /etc."""
    disk = Path(shutil.copyfile(made, tmp_path / "owned.img"))
    with mounted(disk, extents(disk)["data"], tmp_path / "m", "rw") as data:
        (data / "films").write_text("mine\n")
        (data / "etc/A/upper/hostname").write_text("kiosk\n")
        (data / "abupdate/slots/B.json").write_text("{}")
    return disk


def specs(disk: Path) -> list[PartitionSpec]:
    found = drive(disk).partitions
    return [
        PartitionSpec(one.entry.number, one.entry.name, None, None, None, one.entry.extent.size)
        for one in found
    ]


# --- What is made ---


def test_filesystems_are_sound_and_labelled(made: Path, tmp_path: Path) -> None:
    labels = {}
    for name, extent in extents(made).items():
        if name == "bios":
            continue
        file = part(made, extent, tmp_path / name)
        check = ["fsck.fat", "-n"] if name == "boot" else ["e2fsck", "-fn"]
        subprocess.run([*check, file], check=True, capture_output=True)
        superblock = read_superblock(file)
        labels[name] = superblock.label if superblock else None
        if superblock:
            assert superblock.size == extent.size
    assert labels == {
        "boot": None, "rescue": "empty", "rootA": "rootA", "rootB": "newB", "data": "data"
    }  # fmt: skip


def test_the_slot_is_the_release_and_the_store_has_it(
    factory: Factory, made: Path, tmp_path: Path
) -> None:
    where = extents(made)
    with mounted(made, where["data"], tmp_path / "data") as data:
        store = tmp_path / "store.git"
        subprocess.run(["cp", "-a", data / "abupdate/store.git", store], check=True)
        record = Records(data / "abupdate").slot(Slot.A)
        (entry,) = Records(data / "abupdate").history()
        owners = {path.lstat().st_uid for path in (data / "abupdate/store.git").rglob("*")}
        newest = (data / "abupdate/trust/newest").read_text()
        upper = list((data / "etc/A/upper").iterdir())
    assert owners == {970} and upper == []
    subprocess.run(["chown", "-R", "0:0", store], check=True)
    repository = Repository(store)
    assert list(repository.refs("refs/")) == ["refs/tags/release/1"]
    subprocess.run(["git", "-C", store, "fsck", "--strict"], check=True, capture_output=True)
    assert record is not None and (record.state, record.release) == ("clean", "1")
    assert record.confirmed and (entry.event, entry.release) == ("provisioned", "1")
    with repository.reader() as reader:
        raw = reader.read(record.tag, "tag", 1 << 20)
    tag = parse_tag(raw, Version("1"))
    assert (tag.commit, f"{tag.tagger_time}\n") == (record.commit, newest)
    superblock = read_superblock(made, where["rootA"].start)
    assert superblock and (superblock.uuid, superblock.fingerprint) == (
        record.uuid, record.superblock
    )  # fmt: skip
    with (
        mounted(made, where["rootA"], tmp_path / "slot", "ro,noload") as slot,
        open_commit(repository, record.commit, record.manifest_sha256) as content,
    ):
        assert compare(slot, content, Events()) == []
        assert (slot / "etc/release").stat().st_mtime_ns == 1_700_000_000_123_456_789
        assert (slot / "usr/bin/tool").stat().st_mtime == 5_000_000_000


def test_boot_files(made: Path, tmp_path: Path) -> None:
    esp = part(made, extents(made)["boot"], tmp_path / "esp")
    (tmp_path / "out").mkdir()
    subprocess.run(["mcopy", "-s", "-i", esp, "::/", tmp_path / "out"], check=True)
    env = Grubenv(tmp_path / "out/grub").read()
    assert env.state == provision(3, 8) and not env.problems
    here = Path(__file__).parents[2] / "grub/grub.cfg"
    assert (tmp_path / "out/grub/grub.cfg").read_bytes() == here.read_bytes()


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.row("U18", "U19")
def test_grub_starts_it(made: Path, tmp_path: Path, firmware: Any) -> None:
    image = Path(shutil.copyfile(made, tmp_path / "disk.img"))
    disk = Disk(image, specs(image))
    assert_booted(boot(disk, firmware), disk, "A", "normal")


@pytest.mark.row("U18")
def test_sectors_of_4096_bytes(factory: Factory, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    assert factory.provision(image, "--size", str(SIZE), "--sector", "4096") == 0
    found = look(image, 4096)
    disk = Disk(image, [
        PartitionSpec(one.entry.number, one.entry.name, None, None, None, one.entry.extent.size)
        for one in found.partitions
    ], 4096)  # fmt: skip
    assert_booted(boot(disk, "uefi", bus="nvme"), disk, "A", "normal")


def test_without_rescue_and_bios(
    factory: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And in another order, with partitions of the owner's."""
    layout, image = tmp_path / "layout.toml", tmp_path / "disk.img"
    layout.write_text(
        '[[partition]]\nname = "rootB"\nsize = "32 MiB"\n'
        '[[partition]]\nname = "films"\nsize = "8 MiB"\n'
        '[[partition]]\nname = "exchange"\nsize = "8 MiB"\nfilesystem = "vfat"\n'
        '[[partition]]\nname = "raw"\nsize = "1 MiB"\nfilesystem = "none"\n'
        '[[partition]]\nname = "boot"\nsize = "16 MiB"\n'
        '[[partition]]\nname = "rootA"\nsize = "32 MiB"\n'
        '[[partition]]\nname = "data"\nsize = "40 MiB"\n'
    )
    assert factory.provision(image, "--size", str(SIZE), "--layout", layout) == 0
    told = capsys.readouterr().out
    assert "no rescue partition" in told and "no partition for BIOS" in told
    assert "starts    with UEFI\n" in told
    found = {one.entry.name: (one.entry.number, one.content) for one in drive(image).partitions}
    assert [found[name][0] for name in ("boot", "rootB", "films", "rootA")] == [2, 3, 4, 7]
    kinds = {
        name: content and (content.kind, content.label) for name, (_, content) in found.items()
    }
    assert kinds["films"] == ("ext4", "films") and kinds["raw"] is None
    assert kinds["exchange"] == ("vfat", "EXCHANGE")
    with image.open("rb") as file:
        assert not any(file.read(440))
    disk = Disk(image, specs(image))
    booted = boot(disk, "uefi")
    assert "kernel-A" in booted.text


# --- The same again ---


def test_same_seed_same_bytes(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later, elsewhere, by another clock; another seed has other ids."""
    hashes = {}
    for name, seed in (("a", "one"), ("b", "one"), ("c", "two")):
        monkeypatch.setenv("TZ", {"a": "UTC", "b": "Asia/Tokyo", "c": "UTC"}[name])
        folder = tmp_path / name
        folder.mkdir()
        assert factory.provision(folder / "i.img", "--size", str(SIZE), "--seed", seed) == 0
        hashes[name] = hash_of(folder / "i.img")
    assert hashes["a"] == hashes["b"] != hashes["c"]


def test_without_a_seed_no_two_disks_have_one_id(factory: Factory, tmp_path: Path) -> None:
    ids = []
    for name in "ab":
        image = tmp_path / name
        assert factory.provision(image, "--size", str(SIZE)) == 0
        told = subprocess.run(
            ["blkid", "-p", "-o", "value", "-s", "PTUUID", image], check=True, capture_output=True
        ).stdout
        starts = [extent.start for name, extent in extents(image).items() if name != "bios"]
        uuids = [one.uuid for start in starts if (one := read_superblock(image, start))]
        ids += [told, *uuids]
        disk = Disk(image, specs(image))
        ids += [disk.partuuid(slot) for slot in "AB"]
    assert len(set(ids)) == len(ids)


# --- What is refused ---


@pytest.mark.row("S19")
def test_no_disk_is_no_default(factory: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    assert factory.run("provision") == 2
    assert factory.run("provision", "--erase", "x") == 2
    assert "DISK" in capsys.readouterr().err


@pytest.mark.row("S19")
def test_a_disk_that_nobody_named(refused: Refused, owned: Path) -> None:
    before = hash_of(owned)
    refused(7, "carries data, and nobody has said that it may be lost", owned)
    told = refused(7, "is 'owned.img', and 'other.img' was given", owned, "--erase", "other.img")
    assert "nothing was written" in told
    refused(7, "is 'owned.img', and '' was given", owned, "--erase", "")
    assert hash_of(owned) == before


def test_no_whole_disk(refused: Refused, tmp_path: Path) -> None:
    refused(2, "A disk should be at", tmp_path / "none")
    refused(2, "A disk should be at", tmp_path / "none/none", "--size", "1GiB")
    refused(7, "should be a whole disk or a plain file, and is neither", tmp_path)
    refused(7, "should be a whole disk or a plain file, and is neither", "/dev/null")
    (tmp_path / "link").symlink_to(tmp_path / "none")
    refused(2, "A disk should be at", tmp_path / "link", "--size", "1GiB")
    assert not (tmp_path / "none").exists()


def test_a_size_for_what_is_there(refused: Refused, owned: Path, tmp_path: Path) -> None:
    refused(2, "--size is for a new file", owned, "--size", "1GiB", "--erase", "owned.img")
    refused(2, "a size such as 8GiB was expected", tmp_path / "new", "--size", "much")


def test_too_small(refused: Refused, tmp_path: Path) -> None:
    told = refused(8, "the disk has 80 MiB", tmp_path / "new", "--size", "80 MiB")
    assert "need 92 MiB and more (bios 1, boot 16, rescue 8, rootA 32, rootB 32, data 1)" in told
    refused(8, "The data partition needs", tmp_path / "new", "--size", "95 MiB")
    assert not (tmp_path / "new").exists()
    assert list(tmp_path.iterdir()) == []


def test_in_use(refused: Refused, owned: Path, tmp_path: Path) -> None:
    before = hash_of(owned)
    with mounted(owned, extents(owned)["rescue"], tmp_path / "busy"):
        refused(7, "is attached to it", owned, "--erase", "owned.img")
    assert hash_of(owned) == before


def test_two_at_once(factory: Factory, refused: Refused, owned: Path) -> None:
    with owned.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(5, "Another run is writing this disk or file", owned, "--erase", "owned.img")


def test_a_release_that_nobody_believes(factory: Factory, refused: Refused, tmp_path: Path) -> None:
    new, other = tmp_path / "new", tmp_path / "keys"
    assert factory.run("publish", "keygen", "--out", other) == 0
    size = ("--size", str(SIZE))
    refused(6, "", new, *size, "--signers", other / "allowed_signers")
    refused(2, "An allowed_signers file should be readable", new, *size, "--signers", "/none")
    refused(7, "takes releases for 'kiosk'", new, *size, "--compatible", "kiosk")
    broken = tmp_path / "broken.bundle"
    broken.write_bytes(factory.bundle.read_bytes()[:-5000])
    assert factory.provision(new, *size, release=broken) == 9
    assert not new.exists()


def test_not_a_machine_with_keys(factory: Factory, tmp_path: Path) -> None:
    size = ["--size", str(SIZE), "--layout", str(factory.layout)]
    assert factory.run("provision", tmp_path / "new", factory.bundle, *size) == 6


def test_what_stays_as_it_is_until_agreed(
    factory: Factory, owned: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = hash_of(owned)
    assert factory.provision(owned, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "data: ext4 'data'" in told and told.endswith("Nothing was written.\n")
    assert factory.provision(owned, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["schema_version"] == 1 and plan["confirm"] == "owned.img"
    assert [one["name"] for one in plan["partitions"]] == [
        "bios", "boot", "rescue", "rootA", "rootB", "data"
    ]  # fmt: skip
    assert sum(one["size"] for one in plan["partitions"]) == SIZE - 2 * MIB
    assert hash_of(owned) == before
    assert factory.provision(tmp_path / "new", "--size", str(SIZE), "--dry-run") == 0
    assert not (tmp_path / "new").exists()


# --- What is kept ---


def test_kept_data(factory: Factory, owned: Path, tmp_path: Path) -> None:
    """The owner's files and changes stay; what an old slot B held is forgotten."""
    where = extents(owned)["data"]
    assert factory.provision(owned, "--erase", "owned.img", "--keep", "data") == 0
    assert extents(owned)["data"] == where
    with mounted(owned, where, tmp_path / "m") as data:
        assert (data / "films").read_text() == "mine\n"
        assert (data / "etc/A/upper/hostname").read_text() == "kiosk\n"
        assert not (data / "abupdate/slots/B.json").exists()
        events = [one.event for one in Records(data / "abupdate").history()]
    assert events == ["provisioned", "provisioned"]
    disk = Disk(Path(shutil.copyfile(owned, tmp_path / "boots.img")), specs(owned))
    assert "kernel-A" in boot(disk, "bios").text


def test_kept_partition_of_somebody(factory: Factory, refused: Refused, tmp_path: Path) -> None:
    layout, image = tmp_path / "layout.toml", tmp_path / "disk.img"
    films = '[[partition]]\nname = "films"\nsize = "8 MiB"\n'
    layout.write_text(films + newdisk.LAYOUT)
    assert factory.provision(image, "--size", str(SIZE), "--layout", layout) == 0
    where = extents(image)["films"]
    (number,) = [one.entry.number for one in drive(image).partitions if one.entry.name == "films"]
    content = part(image, where, tmp_path / "before").read_bytes()
    for name in ("films", str(number)):
        options = ("--erase", image.name, "--keep", name)
        assert factory.provision(image, *options) == 0
        assert extents(image)["films"] == where
        assert part(image, where, tmp_path / "after").read_bytes() == content
    assert "rootA" in extents(image)
    refused(2, "one partition of that name or number", image, *options[:2], "--keep", "nothing")
    refused(7, "what starts the device is made anew", image, *options[:2], "--keep", "rootA")
    refused(7, "what starts the device is made anew", image, *options[:2], "--keep", "boot")


def test_what_cannot_be_kept(refused: Refused, owned: Path, tmp_path: Path) -> None:
    before = hash_of(owned)
    erase = ("--erase", "owned.img", "--keep")
    subprocess.run(
        ["tune2fs", "-L", "rootA", f"{owned}?offset={extents(owned)['rescue'].start}"], check=True
    )
    refused(7, "has the label 'rootA', by which GRUB finds a slot", owned, *erase, "rescue")
    with owned.open("r+b") as file:
        file.seek(extents(owned)["data"].start)
        file.write(bytes(MIB))
    refused(7, "should hold an ext4 labelled 'data'", owned, *erase, "data")
    assert hash_of(owned) != before
    for name, table in (("dos.img", "label: dos\n"), ("empty.img", None)):
        image = tmp_path / name
        image.write_bytes(bytes(64 * MIB))
        if table:
            make_mbr(image)
        words = ("--erase", name, "--keep", "1")
        said = "has an MBR" if table else "has none"
        refused(7, said, image, *words)


def test_content_that_nobody_knows(refused: Refused, tmp_path: Path) -> None:
    """A plain file needs no leave only where it has nothing but zeros."""
    file = tmp_path / "thesis.enc"
    file.write_bytes(random.Random(2).randbytes(SIZE))
    before = hash_of(file)
    assert "something that is not known" in plan_of(refused, file)
    assert hash_of(file) == before


def plan_of(refused: Refused, file: Path) -> str:
    refused(7, "carries data", file)
    return disk_text(disk_facts(drive(file)))


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (512 + 60, "the header of its first copy is damaged"),
        (1024 + 128, "the entries of its first copy are damaged"),
        (SIZE - 512, "its second copy is missing"),
        (SIZE - 512 - 128 * 100, "the entries of its second copy are damaged"),
    ],
)
def test_a_damaged_table_is_not_called_empty(
    refused: Refused, owned: Path, at: int, said: str
) -> None:
    with owned.open("r+b") as file:
        file.seek(at)
        file.write(b"\x77" * 8)
    assert f"that cannot be read: {said}" in plan_of(refused, owned)
    refused(7, said, owned, "--erase", "owned.img", "--keep", "data")


def test_a_disk_that_a_virtual_machine_uses(refused: Refused, owned: Path) -> None:
    with owned.open("rb") as file:
        asked = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100, 1, 0)
        fcntl.fcntl(file, 37, asked)  # F_OFD_SETLK
        refused(7, "another program has locked it", owned, "--erase", "owned.img")


def test_changed_while_a_person_thinks(
    factory: Factory, owned: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = Path(shutil.copyfile(owned, tmp_path / "other.img"))
    with other.open("r+b") as file:
        file.truncate(SIZE + MIB)
    before = hash_of(other)

    def swap(_drive: Any, _answer: str) -> None:
        other.rename(owned)

    monkeypatch.setattr(permission, "check", swap)
    assert factory.provision(owned, "--erase", "owned.img") == 7
    assert "is not as it was shown any more: nothing was written" in capsys.readouterr().err
    assert hash_of(owned) == before


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda data: link(data / "abupdate/store.git", data), 7, "should be a folder"),
        (lambda data: link(data / "abupdate/history.jsonl", data), 7, "should be a folder"),
        (lambda data: link(data / "etc/A/upper/abupdate", data), 7, "should be a folder"),
        (lambda data: link(data / "etc/A", data), 7, "should be a folder"),
        (lambda data: (data / "abupdate/trust/floor").write_text("5\n"), 7, "is older than 5"),
        (lambda data: sha1(data / "abupdate/store.git/config"), 7, "has objects of sha1"),
        (lambda data: (data / "full").write_bytes(bytes(56 * MIB)), 8, "that is kept has"),
    ],
    ids=["store", "history", "upper", "etc", "floor", "sha1", "full"],
)
def test_kept_data_that_cannot_take_it(
    refused: Refused, owned: Path, tmp_path: Path, spoil: Any, code: int, said: str
) -> None:
    """Found out before anything is lost, and no link of it leads anywhere."""
    with mounted(owned, extents(owned)["data"], tmp_path / "m", "rw") as data:
        spoil(data)
    before = content_hash(owned)
    refused(code, said, owned, "--erase", "owned.img", "--keep", "data")
    assert content_hash(owned) == before


def link(path: Path, data: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(data / "films")


def sha1(config: Path) -> None:
    config.write_text("[core]\n\tbare = true\n")


def test_kept_data_whose_owner_removed_our_folder(
    factory: Factory, owned: Path, tmp_path: Path
) -> None:
    with mounted(owned, extents(owned)["data"], tmp_path / "m", "rw") as data:
        os.mknod(data / "etc/A/upper/abupdate", stat.S_IFCHR, os.makedev(0, 0))
    rootfs = make_rootfs(tmp_path / "rootfs", "bare")
    bundle = newdisk.publish(factory, rootfs, "23")
    keep = ("--erase", "owned.img", "--keep", "data")
    assert factory.provision(owned, *keep, release=bundle) == 0
    with mounted(owned, extents(owned)["data"], tmp_path / "m") as data:
        assert (data / "etc/A/upper/abupdate/allowed_signers.d/provision").is_file()


@pytest.mark.parametrize("label", ["rescue", "newB", "empty", "data", "BOOT"])
def test_a_kept_label_of_ours(
    factory: Factory, refused: Refused, tmp_path: Path, label: str
) -> None:
    layout, image = tmp_path / "layout.toml", tmp_path / "disk.img"
    layout.write_text('[[partition]]\nname = "films"\nsize = "8 MiB"\n' + newdisk.LAYOUT)
    assert factory.provision(image, "--size", str(SIZE), "--layout", layout) == 0
    where = extents(image)["films"].start
    subprocess.run(["tune2fs", "-L", label, f"{image}?offset={where}"], check=True)
    refused(7, f"has the label '{label}'", image, "--erase", "disk.img", "--keep", "films")


def test_an_esp_is_not_kept(refused: Refused, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(SIZE))
    make_table(image, [PartitionSpec(3, "windows", None, "vfat", "esp", 16 * MIB)])
    refused(7, "is an EFI system partition", image, "--erase", "disk.img", "--keep", "windows")


def make_mbr(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(446)
        file.write(bytes.fromhex("80010100830fffff0008000000080100"))
        file.seek(510)
        file.write(b"\x55\xaa")


# --- Cut off ---


@pytest.mark.parametrize("point", ["table-made", "slot-filled", "data-filled", "esp-written"])
def test_killed_and_done_again(
    factory: Factory, owned: Path, tmp_path: Path, point: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It says that it is unfinished, starts nothing, and asks for no leave to be started over."""
    killed(factory, owned, point, "--erase", "owned.img")
    found = drive(owned)
    if point == "esp-written":
        # A UEFI machine may have started from it since: it is somebody's.
        assert not found.unfinished
    else:
        assert found.unfinished
        assert "first install of this disk has not finished" in bios_screen(owned)
    capfd.readouterr()
    assert list(owned.parent.glob(".scratch-*"))
    again = ("--erase", "owned.img") if point == "esp-written" else ("--size", str(SIZE))
    assert factory.provision(owned, *again) == 0
    assert not list(owned.parent.glob(".*"))
    said = "a first install that has not finished; it is started over"
    assert (said in capfd.readouterr().out) == (point != "esp-written")
    image = Path(shutil.copyfile(owned, tmp_path / "again.img"))
    disk = Disk(image, specs(image))
    assert_booted(boot(disk), disk, "A", "normal")


def bios_screen(disk: Path) -> str:
    """What is on the screen when a BIOS has tried a disk, and knows nothing else to try."""
    words = ["qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-m", "64", "-net", "none"]
    words += ["-machine", "graphics=off", "-display", "none", "-serial", "stdio", "-boot", "c"]
    words += ["-drive", f"if=virtio,format=raw,file={disk}"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        timer = threading.Timer(60, process.kill)
        timer.start()
        lines = []
        for line in process.stdout:
            lines.append(line.decode("latin-1"))
            if "No bootable device" in lines[-1]:
                break
        timer.cancel()
        process.kill()
    return "".join(lines)


def killed(factory: Factory, disk: Path, point: str, *options: str) -> None:
    """A run in a process of its own, which a failpoint kills."""
    pid = os.fork()
    if pid == 0:
        os.environ[failpoints.VARIABLE] = f"{point}:kill"
        code = 1
        try:
            code = factory.provision(disk, *options)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9


def test_a_new_file_is_gone_when_it_fails(
    factory: Factory, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "data-filled:error")
    refused(11, "", tmp_path / "new", "--size", str(SIZE))
    assert list(tmp_path.iterdir()) == []


def test_what_looks_unfinished_and_is_somebodys(
    factory: Factory, refused: Refused, owned: Path, tmp_path: Path
) -> None:
    """The mark is for the table that was made with it, and not where something was kept."""
    kept = Path(shutil.copyfile(owned, tmp_path / "kept.img"))
    killed(factory, kept, "slot-filled", "--erase", "kept.img", "--keep", "data")
    refused(7, "carries data", kept)
    assert factory.provision(kept, "--erase", "kept.img", "--keep", "data") == 0
    with mounted(kept, extents(kept)["data"], tmp_path / "m") as data:
        assert (data / "films").read_text() == "mine\n"
    killed(factory, owned, "slot-filled", "--erase", "owned.img")
    assert drive(owned).unfinished
    with owned.open("rb") as file:
        mark = file.read(120)
    make_table(owned, [PartitionSpec(1, "thesis", "thesis", "ext4", None, None)])
    with owned.open("r+b") as file:
        file.write(mark)  # as other programs leave it
    refused(7, "carries data", owned)


def test_killed_while_something_was_mounted(
    factory: Factory, owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_args: object) -> None:
        os._exit(9)

    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(write, "compare_release", die)
        try:
            factory.provision(owned, "--erase", "owned.img")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert loops_of(owned)
    assert factory.provision(owned, "--erase", "owned.img") == 0
    assert not loops_of(owned) and not list(owned.parent.glob(".*"))


@pytest.mark.parametrize(
    ("place", "file"), [("rootA", "usr/bin/tool"), ("data", "abupdate/store.git/objects/pack/*")]
)
def test_what_is_lost_after_it_was_written(
    factory: Factory, owned: Path, made: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, place: str, file: str,
) -> None:  # fmt: skip
    """As on a stick that says that it is larger than it is: one byte, in a sound filesystem."""
    fill = write._Writer._fill_boot

    def lose(self: Any, spec: PartitionSpec) -> None:
        fill(self, spec)
        with mounted(owned, extents(owned)[place], tmp_path / "m", "rw") as top:
            found = max(top.glob(file), key=lambda path: path.stat().st_size)
            found.chmod(0o644)
            with found.open("r+b") as content:
                content.seek(20)
                content.write(b"\0?\0")

    monkeypatch.setattr(write._Writer, "_fill_boot", lose)
    assert factory.provision(owned, "--erase", "owned.img") == 10
    assert boot_code(owned) != boot_code(made)


def boot_code(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return file.read(400)


# --- What the device has of its own ---


def test_a_release_without_keys_and_product(factory: Factory, tmp_path: Path) -> None:
    """It gets those that it was provisioned with, as its owner's, and would take an update."""
    rootfs = make_rootfs(tmp_path / "rootfs", "bare")
    (rootfs / "usr/lib/abupdate/config.toml").unlink()
    bundle = newdisk.publish(factory, rootfs, "20")
    image = tmp_path / "disk.img"
    assert factory.provision(image, "--size", str(SIZE), release=bundle) == 0
    with mounted(image, extents(image)["data"], tmp_path / "m") as data:
        own = data / "etc/A/upper/abupdate"
        assert (own / "config.d/10-provision.toml").read_text() == (
            '[device]\ncompatible = "testbox"\n'
        )
        paths = Paths(root=tmp_path / "device")
        shutil.copytree(own, paths.etc)
    trust.trust_files(paths).require_keys()


def test_a_release_without_the_stores_user(
    factory: Factory, refused: Refused, tmp_path: Path
) -> None:
    rootfs = make_rootfs(tmp_path / "rootfs", "bare")
    (rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    bundle = newdisk.publish(factory, rootfs, "21")
    assert factory.provision(tmp_path / "new", "--size", str(SIZE), release=bundle) == 7
    assert not (tmp_path / "new").exists()


def test_fixups_run(factory: Factory, tmp_path: Path) -> None:
    rootfs = make_rootfs(tmp_path / "rootfs", "fixed")
    add_programs(rootfs)
    for folder in ("proc", "tmp", "run", "data"):
        (rootfs / folder).mkdir()
    fixup = rootfs / ".git-fixups/10-made"
    fixup.parent.mkdir()
    fixup.write_text("#!/bin/sh\necho made > /etc/made\n")
    fixup.chmod(0o755)
    bundle = newdisk.publish(factory, rootfs, "22", "--fixups-write", "etc/made")
    image = tmp_path / "disk.img"
    assert factory.provision(image, "--size", str(SIZE), release=bundle) == 0
    where = extents(image)
    with mounted(image, where["rootA"], tmp_path / "slot") as slot:
        assert (slot / "etc/made").read_text() == "made\n"
    with mounted(image, where["data"], tmp_path / "data") as data:
        records = Records(data / "abupdate")
        record = records.slot(Slot.A)
        assert record and record.outputs
        outputs = records.outputs(record)
        assert outputs and list(outputs.by_path) == [b"etc/made"]


IDS = ["abc:1", "0:0", "-1:-1", "65534:65534", "99999999999:1"]


@pytest.mark.parametrize("ids", IDS)
def test_a_store_that_nobody_can_own(
    factory: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str], ids: str
) -> None:
    rootfs = make_rootfs(tmp_path / "rootfs", "bare")
    (rootfs / "etc/passwd").write_text(f"abupdate-store:x:{ids}::/:\n")
    bundle = newdisk.publish(factory, rootfs, str(30 + IDS.index(ids)))
    assert factory.provision(tmp_path / "new", "--size", str(SIZE), release=bundle) == 7
    assert "with ids of its own" in capsys.readouterr().err


def test_settings_that_the_release_has_in_etc(factory: Factory, tmp_path: Path) -> None:
    rootfs = make_rootfs(tmp_path / "rootfs", "bare")
    own = rootfs / "etc/abupdate/config.d"
    own.mkdir(parents=True)
    (own / "50-own.toml").write_text("[boot]\nlimit = 7\n")
    shutil.copy(factory.signers, rootfs / "usr/lib/abupdate/allowed_signers")
    bundle, image = newdisk.publish(factory, rootfs, "40"), tmp_path / "disk.img"
    assert factory.provision(image, "--size", str(SIZE), release=bundle) == 0
    esp = part(image, extents(image)["boot"], tmp_path / "esp")
    env = subprocess.run(
        ["mtype", "-i", esp, "::/grub/grubenv"], check=True, capture_output=True
    ).stdout
    assert b"limit=7" in env


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Files of an owner, as they shall be on data."""
    folder = tmp_path / "state"
    (folder / "home/me").mkdir(parents=True)
    (folder / "home/me/film").write_bytes(b"film" * (1 << 18))
    os.chown(folder / "home/me/film", 1000, 1001)
    (folder / "home/me/film").chmod(0o640)
    (folder / "home/me/link").symlink_to("/nowhere")
    (folder / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (folder / "ssh-host-keys").mkdir(mode=0o700)
    folder.chmod(0o700)
    return folder


def test_files_of_the_owner(factory: Factory, state: Path, tmp_path: Path) -> None:
    disk = tmp_path / "new.img"
    assert factory.provision(disk, "--size", str(SIZE), "--state", state) == 0
    with mounted(disk, extents(disk)["data"], tmp_path / "m") as data:
        film = data / "state/home/me/film"
        assert film.read_bytes() == (state / "home/me/film").read_bytes()
        found = film.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1000, 1001, 0o640)
        assert film.with_name("link").readlink() == Path("/nowhere")
        assert (data / "state/machine-id").read_bytes() == (state / "machine-id").read_bytes()
        assert (data / "state/ssh-host-keys").stat().st_mode & 0o777 == 0o700
        assert (data / "state").stat().st_mode & 0o777 == 0o755


def test_files_of_the_owner_that_cannot_be_taken(
    factory: Factory, refused: Refused, owned: Path, state: Path, tmp_path: Path
) -> None:
    new, erase = tmp_path / "new", ("--erase", "owned.img")
    refused(2, "a folder was expected", new, "--size", str(SIZE), "--state", tmp_path / "none")
    refused(2, "--keep data keeps the old one", owned, *erase, "--keep", "data", "--state", state)
    with (state / "large").open("wb") as file:
        file.write(b"large" * (16 << 20))
    refused(8, "The data partition needs", new, "--size", str(SIZE), "--state", state)
    assert not new.exists()


@pytest.mark.row("U11")
def test_a_code_for_the_page(
    factory: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed sets the first password, once; the disk holds a digest of it alone."""
    disk = tmp_path / "new.img"
    assert factory.provision(disk, "--size", str(SIZE), "--page-code") == 0
    told = re.search(r"first password of its page: ([0-9A-Z-]{14})\n", capsys.readouterr().out)
    assert told is not None
    with mounted(disk, extents(disk)["data"], tmp_path / "m") as data:
        folder, code = data / "abupdate/web", data / "abupdate/web/code"
        assert (folder.stat().st_mode & 0o777, code.stat().st_mode & 0o777) == (0o700, 0o600)
        assert told[1] not in code.read_text()
        passwords = Passwords(folder)
        assert passwords.check_code(told[1])
        assert not passwords.check_code("AAAA-AAAA-AAAA")
        assert not passwords.is_set()


def test_wishes_that_make_no_sense(refused: Refused, tmp_path: Path, owned: Path) -> None:
    new, size = tmp_path / "new", ("--size", str(SIZE))
    refused(2, "512 or 4096 was expected", new, *size, "--sector", "1024")
    refused(2, "at most 1024 TiB", new, "--size", "8EiB")
    refused(2, "Leave one of the two out", owned, "--erase", "owned.img", "--keep", "data",
            "--seed", "x")  # fmt: skip
    refused(2, "--installer makes many", new, *size, "--page-code", "--installer")
    refused(2, "and --seed the same", new, *size, "--page-code", "--seed", "x")
    refused(2, "which --keep keeps as it is", owned, "--erase", "owned.img", "--keep", "data",
            "--page-code")  # fmt: skip
    assert "Traceback" not in refused(11, "", new, "--size", "900TiB")
    assert not new.exists()


def test_another_umask_and_place_give_the_same_bytes(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = set()
    for number, umask in enumerate((0o077, 0o002)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        copied = shutil.copy(factory.bundle, folder / f"{number}.bundle")
        before = os.umask(umask)
        try:
            words = ("--size", str(SIZE), "--seed", "s")
            assert factory.provision(Path("disk.img"), *words, release=Path(copied).name) == 0
        finally:
            os.umask(before)
        hashes.add(hash_of(folder / "disk.img"))
    assert len(hashes) == 1


def test_one_that_the_machine_has(factory: Factory, made: Path, tmp_path: Path) -> None:
    """`release/1`, from the store of the machine that this runs on: an installer's."""
    machine = factory.top / "installer"
    with mounted(made, extents(made)["data"], tmp_path / "m") as data:
        shutil.copytree(data / "abupdate", machine / "abupdate")

    store = machine / "abupdate/store.git"
    subprocess.run(["chown", "-R", "65534:65534", machine / "abupdate"], check=True)
    paths = Paths(root=factory.top / "rootfs", data=machine, runtime=tmp_path / "run")
    here = Machine(paths, sandbox=Sandbox("65534"))
    before = sorted((path.name, hashlib.sha256(path.read_bytes()).hexdigest())
                    for path in store.rglob("*") if path.is_file())  # fmt: skip
    image = tmp_path / "disk.img"
    words = ["provision", str(image), "release/1", "--layout", str(factory.layout)]
    assert main([*words, "--size", str(SIZE)], machine=here) == 0
    after = sorted((path.name, hashlib.sha256(path.read_bytes()).hexdigest())
                   for path in store.rglob("*") if path.is_file())  # fmt: skip
    assert before == after
    assert drive(image).partitions[3].entry.name == "rootA"
