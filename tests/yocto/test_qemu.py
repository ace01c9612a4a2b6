"""What the QEMU scripts do before a machine runs, and the story of `test` with a scripted one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cache
import network
import pytest
import release_test
import run_image
from demo import DifferentError
from device_vm import Marker
from vm import VM, Disk

from abupdate.disk.layout import MIB
from abupdate.errors import UsageError
from tests.yocto import rootfs
from tests.yocto.test_disk import SIZES, Built, built
from tests.yocto.wic import assemble

__all__ = ["built"]  # a fixture

KERNEL = "6.18.0"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABUPDATE_CACHE", str(tmp_path / "cache"))


def test_the_page_is_forwarded_from_this_machine_alone() -> None:
    words = " ".join(network.network(8080))
    assert "hostfwd=tcp:127.0.0.1:8080-:8080" in words
    assert "i6300esb" in words
    assert "hostfwd" not in " ".join(network.network(0))


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_the_machine_starts_from_the_disk(tmp_path: Path, firmware: Any) -> None:
    disk = tmp_path / "disk.img"
    with VM([Disk(disk, bootindex=1)], firmware=firmware, extra=network.network(8080)) as vm:
        words = " ".join(vm.command())
    assert f"file={disk}" in words
    assert ("pflash" in words) == (firmware == "uefi")
    assert "bootindex=1" in words
    assert "-kernel" not in words
    assert "hostfwd" in words


def test_what_a_run_changed_stays(tmp_path: Path) -> None:
    disk = tmp_path / "image.wic"
    disk.write_bytes(b"as built")
    copy = run_image.kept_copy(disk)
    assert cache.directory() in copy.parents
    copy.write_bytes(b"changed by a run")
    assert run_image.kept_copy(disk).read_bytes() == b"changed by a run"
    assert run_image.kept_copy(disk, fresh=True).read_bytes() == b"as built"
    assert disk.read_bytes() == b"as built"


def test_two_disks_of_one_name_have_a_copy_each(tmp_path: Path) -> None:
    paths = [tmp_path / name / "image.wic" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(str(path).encode())
    copies = {run_image.kept_copy(path).read_bytes() for path in paths}
    assert copies == {str(path).encode() for path in paths}


def test_a_disk_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_image.main(["run", "/nonexistent.wic"]) == 1
    assert "there is none" in capsys.readouterr().err
    assert run_image.main(["test", "new.bundle"]) == 1
    assert "--from BUNDLE" in capsys.readouterr().err
    assert run_image.main(["test", "/nonexistent.bundle", "--disk", "/nonexistent.wic"]) == 1
    assert "/nonexistent.bundle" in capsys.readouterr().err


def test_kvm_is_tried_with_the_disks_own_kernel(built: Built, tmp_path: Path) -> None:
    path = assemble(built.parts, SIZES, tmp_path / "image.wic")
    assert run_image.kernel(path, tmp_path / "kernel").read_bytes() == b"a kernel" * 1000
    (tmp_path / "no-disk").write_bytes(bytes(MIB))
    with pytest.raises(UsageError, match="rootA"):
        run_image.kernel(tmp_path / "no-disk", tmp_path / "kernel")
    assert rootfs.KERNEL.startswith("bzImage")


class Device:
    """A device that boots what it is told to, in the place of a virtual machine."""

    def __init__(self, boots: list[tuple[str, str, str, str]], cause: str) -> None:
        self._boots: Iterator[tuple[str, str, str, str]] = iter(boots)
        self._cause = cause
        self.last = Marker("", "", "", "", "")
        self.seen: list[Marker] = []
        self.commands: list[str] = []

    def wait_for_boot(self, release: str = "", boot: str = "", attempt: str = "") -> Marker:
        self.last = Marker(*next(self._boots), KERNEL)
        self.seen.append(self.last)
        return self.last

    def settle(self) -> str:
        return "running"

    def run(self, *words: str, timeout: float = 0) -> None:
        self.commands.append(" ".join(words))

    def install(self, name: str) -> None:
        self.commands.append(f"install {name}")

    def status(self) -> dict[str, Any]:
        slot = self.last.slot
        fell_back = len(self.seen) > 2
        boot = {"slot": slot, "good": "AB", "trial": "x", "ustate": 3 if fell_back else 0}
        failed = ("B" if slot == "A" else "A") if fell_back else "x"
        return {"boot": {**boot, "failed": failed}, "last_install": {"cause": self._cause}}

    def markers(self) -> list[Marker]:
        return self.seen

    def power_on(self) -> None: ...
    def power_off(self) -> None: ...
    def reboot(self) -> None: ...
    def mount_medium(self) -> None: ...


STORY = [
    ("1", "A", "normal", "-"),
    ("2", "B", "trial", "1"),
    *[("1", "A", "trial", str(number)) for number in (1, 2, 3)],
    ("2", "B", "normal", "-"),
]


def play(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    boots: list[tuple[str, str, str, str]],
    cause: str = release_test.REASON,
) -> Device:
    bundle, scripted = tmp_path / "new.bundle", Device(boots, cause)
    bundle.write_bytes(b"a bundle")
    monkeypatch.setattr(release_test, "DeviceVM", lambda vm: scripted)
    release_test.play(bundle, tmp_path / "disk", tmp_path, "uefi", "tcg")
    return scripted


def test_a_release_is_updated_to_and_a_fallback_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = play(tmp_path, monkeypatch, STORY)
    assert [(one.release, one.boot) for one in done.seen] == [(one[0], one[2]) for one in STORY]
    assert done.commands[0] == "install new.bundle"
    assert "99-abupdate-qemu" in done.commands[1]
    assert done.commands[2] == "abupdate install --allow-downgrade release/1"


@pytest.mark.parametrize(
    ("number", "boot"),
    [
        pytest.param(1, ("1", "A", "normal", "-"), id="the old one boots again"),
        pytest.param(2, ("1", "B", "trial", "1"), id="the wrong slot is tried"),
        pytest.param(5, ("1", "A", "normal", "-"), id="no fallback"),
    ],
)
def test_a_story_that_goes_otherwise_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, boot: tuple[str, str, str, str]
) -> None:
    boots = [*STORY[:number], boot, *STORY[number + 1 :]]
    with pytest.raises(DifferentError):
        play(tmp_path, monkeypatch, boots)


def test_a_fallback_for_another_reason_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DifferentError, match="the failing check in the cause"):
        play(tmp_path, monkeypatch, STORY, cause="the kernel panicked")
