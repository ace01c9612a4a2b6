"""The switch in real GRUB: which rules run, for what the boot partition may hold of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from abupdate.boot import rules
from abupdate.boot.grubenv import encode
from abupdate.boot.rules import Choice
from abupdate.boot.state import provision, rescue_once
from abupdate.disk import grubimage
from tests.grub.grubbox import Disk, Firmware, boot, build_disk
from tests.grub.sweep import no_wait
from tests.grub.switchbox import (
    OWN,
    RETURNING,
    SwitchCase,
    check,
    prepare,
    put_tried,
    spread,
    sweep,
)

_SAMPLE = int(os.environ.get("ABUPDATE_SWITCH_SAMPLE", "8"))
HANGING = rules.filled(b"set rules=2\nwhile true; do true; done\n")

TRY_B = SwitchCase("a, try b", "sound", "sound")


def test_spread(sound_disk: Disk) -> None:
    """`python -m tests.grub.switchbox` boots all."""
    assert sweep(spread(_SAMPLE), sound_disk) == []


@pytest.mark.parametrize(
    "case",
    [
        SwitchCase("a, try b", "sound", "returns"),
        SwitchCase("b, try x", "sound", "cut in the last statement"),
    ],
    ids=str,
)
def test_uefi(disk: Disk, case: SwitchCase) -> None:
    check(disk, case, "uefi")


@pytest.mark.parametrize(
    "case",
    [
        SwitchCase("a, try b", "sound", "returns"),
        SwitchCase("a, try x", "cut in the last statement", "sound"),
    ],
    ids=str,
)
def test_the_other_grub(other_disk: Disk, tmp_path: Path, case: SwitchCase) -> None:
    check(other_disk.copy(tmp_path / "disk.img"), case)


@pytest.mark.parametrize(
    "case",
    [
        TRY_B,
        SwitchCase("a, try b", "sound", "returns"),
        SwitchCase("b, try x", "sound", "cut"),
        SwitchCase("b, try x", "sound", "other sum"),
        SwitchCase("missing", "empty", "sound"),
    ],
    ids=str,
)
def test_a_grub_that_cannot_hash(plain_disk: Disk, tmp_path: Path, case: SwitchCase) -> None:
    """As Debian's signed one: files are taken as they are, and those that return are left."""
    check(plain_disk.copy(tmp_path / "disk.img"), case, hashes=False)


@pytest.fixture(scope="module")
def plain_disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    image = tmp_path_factory.mktemp("plain") / "disk.img"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grubimage, "HASH_MODULES", ())
        build_disk(image)
    return no_wait(Disk(image))


@pytest.mark.parametrize("b", ["sound", "returns"])
def test_what_cannot_be_saved_is_not_tried(disk: Disk, b: str) -> None:
    check(disk, SwitchCase("a, try b", "sound", b), saves=False)


def test_rescue_once_is_no_try(disk: Disk) -> None:
    prepare(disk, TRY_B)
    disk.write_boot("grub/grubenv", encode(rescue_once(provision(3, 8))))
    found = boot(disk)
    assert (found.kernel, found.arguments.rules) == ("kernel-R", "a")
    found = boot(disk)
    assert (found.kernel, found.arguments.rules) == ("kernel-A", "b")


def test_rules_that_hang_are_tried_once(disk: Disk) -> None:
    prepare(disk, TRY_B)
    put_tried(disk, HANGING)
    with pytest.raises(AssertionError, match="neither a kernel nor a restart"):
        boot(disk, limit=4)
    assert rules.decode(disk.read_boot("grub/rules.env")) == Choice("a")
    assert boot(disk).arguments.rules == "a"


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_without_the_switch_the_rules_still_run(disk: Disk, firmware: Firmware) -> None:
    """GRUB's image goes on to them, and says nothing of which they are."""
    prepare(disk, SwitchCase("a, try x", "sound", "sound"))
    for switch in (None, b"", b"if true; then\n"):
        disk.write_boot("grub/grub.cfg", switch)
        found = boot(disk, firmware)
        assert (found.kernel, found.arguments.rules) == ("kernel-A", None)
        if firmware == "uefi":  # which takes ten times as long
            return
    disk.write_boot("grub/rules-a.cfg", RETURNING.content)
    found = boot(disk, firmware)
    assert (found.kernel, found.arguments.rules) == ("kernel-A", None)
    assert "left=behind" not in found.cmdline


def test_the_menu_of_rules_can_be_left(patient_disk: Disk, tmp_path: Path) -> None:
    """Esc in the menu: the other rules are next, and decide."""
    disk = patient_disk.copy(tmp_path / "disk.img")
    keys = [("abupdate: Esc for the menu", b"\x1b"), ("Go on as usual", b"\x1b")]
    prepare(disk, SwitchCase("a, try x", "sound", "sound"))
    found = boot(disk, keys=keys)
    assert (found.kernel, found.arguments.rules) == ("kernel-A", "b")


def test_every_byte_of_the_rules_may_be_the_last(disk: Disk) -> None:
    """Cut off anywhere they do nothing (a sample; without a checksum that would tell)."""
    text = OWN.content.rstrip(b"#\n") + b"\n"
    places = [len(text) * part // 6 for part in range(1, 6)] + [len(text) - 2]
    prepare(disk, SwitchCase("a, try x", "no sum", "no sum"))
    for place in places:
        disk.write_boot("grub/rules-a.cfg", text[:place])
        found = boot(disk)
        assert (found.kernel, found.arguments.rules) == ("kernel-A", "b"), (place, found.text)
