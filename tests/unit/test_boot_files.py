"""`abupdate publish boot-files`: which kernel, and what GRUB is told of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from abupdate.boot.cmdline import SlotBoot, parse_abupdate_env, parse_sha256sums
from abupdate.cli.main import main
from abupdate.errors import ExitCode, UsageError
from abupdate.publish.bootfiles import write_boot_files


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """With the kernels 6.12.9 and 6.12.57, the newest of which, 6.13, has no initrd."""
    boot = tmp_path / "rootfs/boot"
    boot.mkdir(parents=True)
    for version in ("6.12.57+deb13-amd64", "6.12.9+deb13-amd64"):
        (boot / f"vmlinuz-{version}").write_text(f"kernel {version}")
        (boot / f"initrd.img-{version}").write_text(f"initrd {version}")
    (boot / "vmlinuz-6.13").write_text("kernel 6.13")
    (boot / "vmlinuz").symlink_to("vmlinuz-6.12.9+deb13-amd64")
    (boot / "vmlinuz-7").symlink_to("vmlinuz-6.12.9+deb13-amd64")
    (boot / "initrd.img-7").write_text("initrd of a link")
    return boot.parent


def told(rootfs: Path) -> SlotBoot:
    return parse_abupdate_env((rootfs / "boot/abupdate.env").read_bytes())


def test_the_newest_kernel_that_has_an_initrd(
    rootfs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["publish", "boot-files", str(rootfs), "--cmdline", "console=ttyS0  quiet"]
    assert main(words) == 0
    version = "6.12.57+deb13-amd64"
    names = (f"vmlinuz-{version}", f"initrd.img-{version}")
    kernel, initrd = (f"/boot/{name}" for name in names)
    assert told(rootfs) == SlotBoot(kernel, initrd, "console=ttyS0 quiet")
    assert parse_sha256sums((rootfs / "boot/SHA256SUMS").read_bytes()) == {
        name: hashlib.sha256((rootfs / "boot" / name).read_bytes()).hexdigest() for name in names
    }
    assert capsys.readouterr().out.splitlines() == [
        f"kernel    {names[0]}", f"initrd    {names[1]}", "cmdline   console=ttyS0 quiet",
    ]  # fmt: skip


def test_again_it_changes_nothing_but_what_changed(rootfs: Path) -> None:
    write_boot_files(rootfs, cmdline="quiet")
    both = [rootfs / "boot" / name for name in ("abupdate.env", "SHA256SUMS")]
    for path in both:
        os.utime(path, (1, 1))
    write_boot_files(rootfs)
    assert [path.stat().st_mtime for path in both] == [1, 1]
    assert told(rootfs).cmdline == "quiet"
    (rootfs / "boot/initrd.img-6.12.57+deb13-amd64").write_text("made again")
    write_boot_files(rootfs)
    assert [path.stat().st_mtime == 1 for path in both] == [True, False]


def test_others_by_name(rootfs: Path) -> None:
    write_boot_files(rootfs, "vmlinuz-6.13", "initrd.img-6.12.9+deb13-amd64", "")
    assert told(rootfs).kernel == "/boot/vmlinuz-6.13"


def test_no_link_is_followed_out_of_it(rootfs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("somebody's")
    (rootfs / "boot/abupdate.env").symlink_to(outside)
    write_boot_files(rootfs)
    assert outside.read_text() == "somebody's"
    assert told(rootfs).cmdline == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kernel", "vmlinuz-6.13"], "belong together"),
        (["--kernel", "vmlinuz-9", "--initrd", "initrd.img-7"], "no link, was expected"),
        (["--kernel", "vmlinuz-7", "--initrd", "initrd.img-7"], "no link, was expected"),
        (["--kernel", "../x", "--initrd", "initrd.img-7"], "a file in /boot with a plain name"),
        (["--cmdline", "a root=/dev/sda"], "may not say 'root=/dev/sda'"),
        (["--cmdline", 'a="b"'], "plain ASCII"),
    ],
)
def test_refused(
    rootfs: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["publish", "boot-files", str(rootfs), *words]) == ExitCode.USAGE
    assert said in capsys.readouterr().err
    assert not (rootfs / "boot/abupdate.env").exists()


def test_nothing_to_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A folder was expected at"):
        write_boot_files(tmp_path)
    (tmp_path / "boot").mkdir()
    with pytest.raises(UsageError, match=r"was expected in .*, found none"):
        write_boot_files(tmp_path)
    (tmp_path / "boot/vmlinuz-6").touch()
    with pytest.raises(UsageError, match="found vmlinuz-6 without one"):
        write_boot_files(tmp_path)
