"""A first install with its rescue system, and a stick that installs one."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from abupdate.cli import installer
from abupdate.cli.main import main
from abupdate.disk import drive as drives
from abupdate.disk.layout import PartitionSpec
from abupdate.paths import Paths
from abupdate.run import Sandbox
from abupdate.update.records import Records
from abupdate.update.slots import Machine
from tests.grub.grubbox import Disk, assert_booted, boot
from tests.slots import newdisk
from tests.slots.device import hash_of
from tests.slots.newdisk import LAYOUT, SIZE, Factory, drive, extents, make_factory, mounted
from tests.slots.rescuefs import bundle_rescue, make_rescue

Capture = pytest.CaptureFixture[str]
_LAYOUT = LAYOUT.replace('size = "8 MiB"', 'size = "24 MiB"')


@pytest.fixture(scope="module")
def factory() -> Iterator[Factory]:
    top = Path(tempfile.mkdtemp(prefix="abupdate-"))
    top.chmod(0o755)
    factory = make_factory(top)
    factory.layout.write_text(_LAYOUT)
    (top / "small.toml").write_text(LAYOUT.replace('size = "8 MiB"', 'size = "4 MiB"'))
    (top / "none.toml").write_text(LAYOUT.replace('name = "rescue"', 'name = "mine"'))
    bundle_rescue(top, make_rescue(top / "rescue", "1", top), "1")
    bundle_rescue(top, top / "rescue", "2", "other:rescue")
    yield factory
    shutil.rmtree(top)


def rescue_of(factory: Factory, version: str = "1") -> tuple[str, Path]:
    return "--rescue", factory.top / f"rescue-{version}.bundle"


@pytest.fixture(scope="module")
def made(factory: Factory) -> Path:
    disk = factory.top / "made.img"
    assert factory.provision(disk, "--size", str(SIZE), *rescue_of(factory)) == 0
    return disk


def box(image: Path) -> Disk:
    parts = drive(image).partitions
    return Disk(image, [PartitionSpec(one.entry.number, one.entry.name, None, None, None,
                                      one.entry.extent.size) for one in parts])  # fmt: skip


@pytest.mark.row("S19", "S48")
def test_the_rescue_system_is_there_and_boots(made: Path, tmp_path: Path) -> None:
    image = Path(shutil.copyfile(made, tmp_path / "boots.img"))
    where = extents(image)
    with mounted(image, where["rescue"], tmp_path / "m") as rescue:
        assert (rescue / "etc/release").read_text() == "release 1\n"
    with mounted(image, where["data"], tmp_path / "m") as data:
        record = Records(data / "abupdate").rescue()
        assert record is not None and (record.release, record.state) == ("1", "clean")
        refs = list((data / "abupdate/rescue/store.git/refs/tags/release").iterdir())
        assert [path.name for path in refs] == ["1"]
    disk = box(image)
    assert_booted(boot(disk, "bios"), disk, "A", "normal")
    disk.write_partition(4, bytes(32 << 20))
    found = boot(disk, "uefi")
    assert "kernel-R" in found.text and found.arguments.how == "rescue"


def test_the_plan_and_what_it_lacks(factory: Factory, made: Path, capsys: Capture) -> None:
    capsys.readouterr()
    new = factory.top / "never.img"
    words = ("--size", str(SIZE), "--dry-run", "--json")
    assert factory.provision(new, *words, *rescue_of(factory)) == 0
    plan = json.loads(capsys.readouterr().out)
    (rescue,) = [one for one in plan["partitions"] if one["name"] == "rescue"]
    assert (rescue["label"], rescue["purpose"]) == ("rescue", "rescue system 1")
    assert plan["warnings"] == []
    assert factory.provision(new, *words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert "no rescue system (--rescue)" in plan["warnings"][0]
    assert not new.exists()


def test_same_seed_same_bytes(factory: Factory) -> None:
    made = [factory.top / f"same{number}.img" for number in range(2)]
    for image in made:
        words = ("--size", str(SIZE), "--seed", "one", *rescue_of(factory))
        assert factory.provision(image, *words) == 0
    assert hash_of(made[0]) == hash_of(made[1])


def test_refused(factory: Factory, capsys: Capture) -> None:
    refused, new = partial(newdisk.refused, factory, capsys), factory.top / "refused.img"
    words = ("--size", str(SIZE))
    refused(7, "should be made for 'testbox:rescue'", new, *words, *rescue_of(factory, "2"))
    refused(7, "is for 'testbox'", new, *words, "--rescue", factory.bundle)
    small = ("--layout", factory.top / "small.toml")
    refused(8, "'rescue' needs", new, *words, *small, *rescue_of(factory))
    none = ("--layout", factory.top / "none.toml")
    refused(7, "needs a partition 'rescue'", new, *words, *none, *rescue_of(factory))
    assert not new.exists()


def test_a_stick_installs_it(
    factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    image = factory.top / "stick.img"
    assert factory.provision(image, "--installer", *rescue_of(factory)) == 0
    data = factory.top / "stick"
    with mounted(image, extents(image)["data"], tmp_path / "m") as there:
        shutil.copytree(there / "abupdate", data / "abupdate")
    subprocess.run(["chown", "-R", "65534:65534", data], check=True)
    paths = Paths(root=factory.top / "rootfs", data=data, runtime=tmp_path / "run")
    stick = Machine(paths, sandbox=Sandbox("65534"))
    target = tmp_path / "target"
    with target.open("wb") as file:
        file.truncate(SIZE)
    monkeypatch.setattr(drives, "disks", lambda: [target])
    (tmp_path / "sysrq").touch()
    monkeypatch.setattr(installer, "_SYSRQ", tmp_path / "sysrq")
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\ntarget\n\n"))
    assert main(["installer"], machine=stick) == 0
    assert "rescue system 1" in capsys.readouterr().out
    with mounted(target, extents(target)["rescue"], tmp_path / "m") as rescue:
        assert (rescue / "usr/bin/abupdate").is_file()
    with mounted(target, extents(target)["data"], tmp_path / "m") as there:
        assert Records(there / "abupdate").rescue() is not None
