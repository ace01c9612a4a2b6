"""The parts of a new device's disk, as the disk class makes them, and what wic makes of them."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yocto_disk
import yocto_release

from abupdate.boot import grubenv
from abupdate.boot.grubenv import Grubenv
from abupdate.boot.state import provision
from abupdate.disk import filesystem, gpt, grubimage
from abupdate.disk.images import data_runs
from abupdate.disk.layout import MIB
from abupdate.disk.partition import make_table
from abupdate.errors import NoSpaceError, UsageError
from abupdate.events import Events
from abupdate.provision.grub import tells_places
from abupdate.publish import publisher
from abupdate.release.version import Version
from abupdate.run import run
from abupdate.store.content import open_commit
from abupdate.store.materialise.audit import plan_for_slot
from abupdate.store.repository import Repository
from abupdate.store.verify import compare
from tests.yocto import rootfs
from tests.yocto.wic import assemble

SIZES = yocto_disk.Sizes(boot=16, rescue=24, slot=24, data=32)
BOTH = ("uefi", "bios")
WKS = rootfs.LAYER / "files/wic/abupdate-ab.wks.in"


@dataclass(frozen=True)
class Built:
    """What the bundle class made, and the parts of it."""

    slots: Path
    rescue: Path
    signers: Path
    parts: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("disk")
    signers = yocto_release.demo_keys(folder / "keys")
    bundles = {
        name: _bundle(folder / name, signers, compatible)
        for name, compatible in (("slots", rootfs.PRODUCT), ("rescue", f"{rootfs.PRODUCT}:rescue"))
    }
    found = Built(bundles["slots"], bundles["rescue"], signers, folder / "parts")
    release = yocto_disk.Release(found.slots, signers, found.rescue)
    yocto_disk.make_parts(release, SIZES, BOTH, found.parts, Events())
    return found


def _bundle(folder: Path, signers: Path, compatible: str) -> Path:
    root = rootfs.make(folder / "rootfs")
    for name in ("abupdate-mount", "../systemd/system-generators/abupdate-rescue-generator"):
        path = root / "usr/lib/abupdate" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
    (root / "usr/bin/abupdate").write_text("#!/usr/bin/python3\n")
    yocto_release.grub_images(root / "usr/lib/abupdate/grub", grubimage.GRUB_LIBRARY, BOTH)
    rootfs.complete(root, "1.0", signers, compatible)
    wanted = yocto_release.Bundling(
        folder / "releases.git",
        publisher.Description(Version("1.0"), compatible),
        signers.parent / "release",
        signers,
        folder,
        folder.name,
    )
    tar = rootfs.tar(root, folder / "image.tar")
    return yocto_release.make_bundles(tar, wanted, Events())[0]


@pytest.fixture
def disk(built: Built, tmp_path: Path) -> Path:
    return assemble(built.parts, SIZES, tmp_path / "image.wic")


@contextmanager
def mounted(part: Path, at: Path) -> Iterator[Path]:
    with filesystem.mounted(part, at, "ro,noload,loop"):
        yield at


@pytest.mark.parametrize(("part", "store"), [("rootA", ""), ("rescue", "rescue/")])
def test_a_part_equals_its_release(built: Built, tmp_path: Path, part: str, store: str) -> None:
    """By the product's own comparison of every byte, owner, time and attribute."""
    with (
        mounted(built.parts / "data.img", tmp_path / "data") as data,
        mounted(built.parts / f"{part}.img", tmp_path / "slot") as slot,
    ):
        name = "R" if part == "rescue" else "A"
        record = json.loads((data / f"abupdate/slots/{name}.json").read_text())
        repository = Repository(data / f"abupdate/{store}store.git")
        with open_commit(repository, record["commit"], record["manifest_sha256"]) as content:
            plan = plan_for_slot(slot, content, Events())
            # What a slot says of itself is always written anew.
            assert (plan.size, plan.remove) == (0, [b".abupdate"])
            assert [entry.path for entry in plan.changed()] == [b""]
            assert compare(slot, plan, Events()) == []
    superblock = filesystem.read_superblock(built.parts / f"{part}.img")
    assert superblock is not None
    assert (record["superblock"], record["state"]) == (superblock.fingerprint, "clean")


def test_no_part_is_one_hole(built: Built) -> None:
    """wic copies what SEEK_DATA finds, and ends with an error where that is nothing."""
    for path in built.parts.glob("*.img"):
        with path.open("rb") as file:
            assert list(data_runs(file.fileno())), path.name


def test_labels_let_grub_boot_slot_a_and_nothing_else(built: Built) -> None:
    found = {
        name: filesystem.read_superblock(built.parts / f"{name}.img")
        for name in ("rescue", "rootA", "rootB", "data")
    }
    labels = {name: one.label for name, one in found.items() if one is not None}
    assert labels == {"rescue": "rescue", "rootA": "rootA", "rootB": "newB", "data": "data"}


def test_the_store_belongs_to_its_user(built: Built, tmp_path: Path) -> None:
    with mounted(built.parts / "data.img", tmp_path / "data") as data:
        store = data / "abupdate/store.git"
        owners = {path.lstat().st_uid for path in [store, *store.rglob("*")]}
        assert owners == {rootfs.STORE_USER}
        assert (data / "etc/A/upper").is_dir()
        assert (data / "state").is_dir()
        history = (data / "abupdate/history.jsonl").read_text()
        assert "provisioned" in history


def test_the_boot_partition_has_grub_and_its_state(built: Built, tmp_path: Path) -> None:
    image = built.parts / "boot.img"
    run(["mcopy", "-s", "-i", image, "::/", tmp_path])
    state = Grubenv(tmp_path / "grub").read().state
    assert state is not None
    assert (state.slot, state.good, state.ustate) == ("A", "Ax", 0)
    assert (tmp_path / "EFI/BOOT/BOOTX64.EFI").stat().st_size > 100_000
    assert (tmp_path / "grub/grub.cfg").read_bytes() == (rootfs.ROOT / "grub/grub.cfg").read_bytes()


def test_a_bios_finds_grub_and_grub_finds_rescue_without_a_table(built: Built, disk: Path) -> None:
    yocto_disk.finish(disk, built.parts)
    table = gpt.read(disk, 512)
    assert table is not None
    bios = next(entry.extent for entry in table.entries if entry.name == "bios")
    assert grubimage.core_fault(disk, bios.start) is None
    assert grubimage.entry_fault(disk, bios.start) is None
    assert tells_places(grubimage.places(disk), table)


def test_a_wks_of_ones_own_must_begin_alike(built: Built, tmp_path: Path) -> None:
    path, specs = tmp_path / "other.wic", SIZES.specs()[1:]
    with path.open("wb") as file:
        file.truncate(200 * MIB)
    make_table(path, specs)
    with pytest.raises(UsageError, match="bios and boot as 1 and 2"):
        yocto_disk.finish(path, built.parts)
    (tmp_path / "none.wic").write_bytes(bytes(MIB))
    with pytest.raises(UsageError, match="found none"):
        yocto_disk.finish(tmp_path / "none.wic", built.parts)


def test_without_bios_and_without_rescue(built: Built, tmp_path: Path) -> None:
    release = yocto_disk.Release(built.slots, built.signers)
    yocto_disk.make_parts(release, SIZES, ["uefi"], tmp_path / "parts", Events())
    assert not (tmp_path / "parts/grub").exists()
    rescue = filesystem.read_superblock(tmp_path / "parts/rescue.img")
    assert rescue is not None
    assert rescue.label == "empty"


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        (yocto_disk.Sizes(16, 24, 4, 32), "SLOT"),
        (yocto_disk.Sizes(16, 4, 24, 32), "RESCUE"),
        (yocto_disk.Sizes(16, 24, 24, 8), "DATA"),
    ],
)
def test_what_does_not_fit_names_its_variable(
    built: Built, tmp_path: Path, sizes: yocto_disk.Sizes, name: str
) -> None:
    release = yocto_disk.Release(built.slots, built.signers, built.rescue)
    with pytest.raises(NoSpaceError, match=f"ABUPDATE_{name}_SIZE"):
        yocto_disk.make_parts(release, sizes, BOTH, tmp_path / "parts", Events())


def test_the_boot_state_is_made_where_the_build_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under pseudo everything looks like root's, /run too."""
    seen: list[Path] = []

    def made(*words: str | Path) -> None:
        seen.append(Path(words[1]))
        run(words)

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(grubenv, "run_small", made)
    (tmp_path / "grub").mkdir()
    Grubenv(tmp_path / "grub").write(provision(3, 8))
    assert seen
    assert all(tmp_path in path.parents for path in seen)


def test_the_wks_file_has_the_layout() -> None:
    lines = [line for line in WKS.read_text().splitlines() if line.startswith("part ")]
    names = [re.findall(r"--part-name (\S+)", line)[0] for line in lines]
    assert names == [spec.name for spec in SIZES.specs()]
    for name, line in zip(names, lines, strict=True):
        assert f"file=${{ABUPDATE_PARTS}}/{name}.img" in line
    assert "21686148-6449-6E6F-744E-656564454649" in lines[0]
    assert "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" in lines[1]
    assert all("0FC63DAF-8483-4772-8E79-3D69D8477DE4" in line for line in lines[2:])
