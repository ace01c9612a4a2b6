"""What a stick that installs says on its console, and does: plain files stand for the disks."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from abupdate.cli import addresses, installer
from abupdate.cli.main import main
from abupdate.disk import drive as drives
from abupdate.disk.layout import PartitionSpec
from abupdate.errors import RefusedError
from abupdate.paths import Paths
from abupdate.provision.installer import installed_layout, own_release
from abupdate.provision.layout import read_layout
from abupdate.run import Sandbox
from abupdate.update.slots import Machine
from tests.grub.grubbox import Disk, boot
from tests.slots.device import hash_of
from tests.slots.newdisk import SIZE, Factory, drive, extents, make_factory, mounted


@pytest.fixture(scope="module")
def factory() -> Iterator[Factory]:
    top = Path(tempfile.mkdtemp(prefix="abupdate-"))
    top.chmod(0o755)
    factory = make_factory(top)
    assert factory.provision(top / "stick.img", "--installer") == 0
    yield factory
    shutil.rmtree(top)


@pytest.fixture
def stick(factory: Factory, tmp_path: Path) -> Machine:
    """The machine that was started from it."""
    image, data = factory.top / "stick.img", factory.top / "stick"
    shutil.rmtree(data, ignore_errors=True)
    with mounted(image, extents(image)["data"], tmp_path / "m") as there:
        shutil.copytree(there / "abupdate", data / "abupdate")
    subprocess.run(["chown", "-R", "65534:65534", data], check=True)
    paths = Paths(root=factory.top / "rootfs", data=data, runtime=tmp_path / "run")
    return Machine(paths, sandbox=Sandbox("65534"))


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """One that was pulled out, one with data, an empty one; and a kernel that can be reset."""
    found = [tmp_path / name for name in ("gone", "owned", "target")]
    found[1].write_bytes(b"mine" * (SIZE // 4))
    with found[2].open("wb") as file:
        file.truncate(SIZE)
    monkeypatch.setattr(drives, "disks", lambda: found)
    (tmp_path / "sysrq").touch()
    monkeypatch.setattr(installer, "_SYSRQ", tmp_path / "sysrq")
    return found


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def kernel_of(image: Path) -> str:
    parts = drive(image).partitions
    specs = [PartitionSpec(one.entry.number, one.entry.name, None, None, None,
                           one.entry.extent.size) for one in parts]  # fmt: skip
    return boot(Disk(image, specs), "bios").text


def test_the_stick_itself(factory: Factory, stick: Machine, tmp_path: Path) -> None:
    """Its size is its own; it has the release, the layout for others, and no slot B."""
    image = Path(shutil.copyfile(factory.top / "stick.img", tmp_path / "boots.img"))
    assert [one.entry.name for one in drive(image).partitions] == ["bios", "boot", "rootA", "data"]
    assert "kernel-A" in kernel_of(image)
    assert own_release(stick) == "1"
    assert installed_layout(stick) == read_layout(factory.layout)
    shutil.rmtree(stick.paths.state / "installer")
    with pytest.raises(RefusedError, match="This is no installer"):
        own_release(stick)


@pytest.mark.row("S19")
def test_a_conversation(
    stick: Machine,
    disks: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    owned = hash_of(disks[1])
    (tmp_path / "page").touch()
    monkeypatch.setattr(addresses, "UNIT", tmp_path / "page")
    type_in(monkeypatch, "", "0", "7", "x", "1", "", "1", "target", "2", "target", "")
    assert main(["installer"], machine=stick) == 0
    told = capsys.readouterr().out
    assert "gone cannot be read: A disk should be at" in told
    assert "  1  " in told and "on it now something that is not known" in told
    assert "Not installed:" in told and "is 'owned', and 'target' was given" in told
    assert "Release 1 is on" in told and told.count("Which disk?") == 7
    assert re.search(r"to set the first password: [0-9A-Z]{4}(-[0-9A-Z]{4}){2}\n", told)
    assert (tmp_path / "sysrq").read_bytes() == b"b"
    assert hash_of(disks[1]) == owned
    assert "kernel-A" in kernel_of(disks[2])


def test_nobody_is_there(
    stick: Machine, disks: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = [hash_of(one) for one in disks[1:]]
    type_in(monkeypatch)
    assert main(["installer"], machine=stick) == 130
    type_in(monkeypatch, "1")
    assert main(["installer"], machine=stick) == 130
    assert [hash_of(one) for one in disks[1:]] == before
    assert (tmp_path / "sysrq").read_bytes() == b""


def test_files_of_the_owner_go_on(
    factory: Factory,
    disks: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What a stick was made with for one device, that device has; the stick itself has it apart."""
    state, image, data = tmp_path / "state", tmp_path / "own.img", factory.top / "own"
    (state / "home/me").mkdir(parents=True)
    (state / "home/me/film").write_bytes(b"film" * (1 << 20))
    assert factory.provision(image, "--installer", "--state", state) == 0
    with mounted(image, extents(image)["data"], tmp_path / "m") as there:
        assert not (there / "state/home").exists()
        shutil.copytree(there / "abupdate", data / "abupdate")
    subprocess.run(["chown", "-R", "65534:65534", data / "abupdate/store.git"], check=True)
    paths = Paths(root=factory.top / "rootfs", data=data, runtime=tmp_path / "run")
    type_in(monkeypatch, "2", "target", "")
    assert main(["installer"], machine=Machine(paths, sandbox=Sandbox("65534"))) == 0
    with mounted(disks[2], extents(disks[2])["data"], tmp_path / "m") as there:
        film = there / "state/home/me/film"
        assert film.read_bytes() == b"film" * (1 << 20) and film.stat().st_uid == 0
        assert not (there / "abupdate/installer").exists()
