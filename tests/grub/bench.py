"""Boots one case after the other on one disk, as quickly as that goes.

Every condition of a system and of the boot partition is prepared once as the
bytes of a partition; a case puts those in place that differ, and the two
copies of the state where the FAT has them. After the boot the whole boot
partition is compared: GRUB may have changed the values and nothing else.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from tests.grub.cases import SYSTEMS, Case
from tests.grub.grubbox import (
    LABELS,
    NOTHING_BOOTS,
    NUMBERS,
    Booted,
    Disk,
    Firmware,
    assert_booted,
    boot,
)

KERNEL, INITRD = "/boot/vmlinuz-probe", "/boot/initrd-probe"
SUMS = "/boot/SHA256SUMS"

_ESP = 2
_PRIMARY, _BACKUP = "grub/grubenv", "grub/grubenv.bak"
_LENGTHS = (None, 0, 43, 1024, 1025)


@dataclass(frozen=True)
class _Esp:
    """The boot partition with two files of some length, and where in it they are."""

    content: bytes
    primary: int
    backup: int


class Bench:
    """A disk for many cases. `sound` is not changed; `folder` takes about 20 MB."""

    def __init__(self, sound: Disk, folder: Path, firmware: Firmware = "bios") -> None:
        self.disk = sound.copy(folder / "bench.img")
        self._firmware: Firmware = firmware
        self._systems = {
            (slot, condition): _system(sound, folder, slot, condition)
            for slot in NUMBERS
            for condition in SYSTEMS
        }
        self._initrds = {slot: sound.first_block(slot, INITRD) for slot in NUMBERS}
        self._esps = {
            lengths: _esp(sound, folder, *lengths)
            for lengths in itertools.product(_LENGTHS, _LENGTHS)
        }
        self._now = dict.fromkeys(NUMBERS, "good")

    def check(self, case: Case) -> Booted:
        """Boot it; raises AssertionError where it differs from the rules."""
        outcome, primary, backup = case.expected()
        esp = self._prepare(case)
        start = self.disk.extents[_ESP - 1].start
        places = {"primary": start + esp.primary, "backup": start + esp.backup}
        found = boot(
            self.disk,
            self._firmware,
            unreadable=[
                self._initrds[slot] for slot, name in case.systems.items() if "unreadable" in name
            ],
            unwritable=[
                places[copy]
                for copy, condition in (("primary", case.primary), ("backup", case.backup))
                if condition == "unwritable"
            ],
            until=NOTHING_BOOTS,
        )
        assert_booted(found, self.disk, outcome.boots, outcome.how)
        wanted = _filled(esp, primary, backup)
        got = self.disk.read_partition(_ESP)
        if got != wanted:
            for name, place, raw in (
                ("grubenv", esp.primary, primary),
                (_BACKUP, esp.backup, backup),
            ):
                now = got[place : place + len(raw or b"")]
                assert now == (raw or b""), f"{name}: expected {raw!r}, found {now!r}\n{found.text}"
            raise AssertionError(f"the boot partition changed beside the state\n{found.text}")
        return found

    def _prepare(self, case: Case) -> _Esp:
        for slot, condition in case.systems.items():
            if self._now[slot] != condition:
                self.disk.write_partition(NUMBERS[slot], self._systems[slot, condition])
                self._now[slot] = condition
        primary, backup = case.copies
        esp = self._esps[_length(primary), _length(backup)]
        self.disk.write_partition(_ESP, _filled(esp, primary, backup))
        return esp


def _length(raw: bytes | None) -> int | None:
    return None if raw is None else len(raw)


def _filled(esp: _Esp, primary: bytes | None, backup: bytes | None) -> bytes:
    content = bytearray(esp.content)
    for place, raw in ((esp.primary, primary), (esp.backup, backup)):
        content[place : place + len(raw or b"")] = raw or b""
    return bytes(content)


def _system(sound: Disk, folder: Path, slot: str, condition: str) -> bytes:
    """The partition of a slot in that condition."""
    disk = sound.copy(folder / "system.img")
    if condition == "no kernel":
        disk.write_slot(slot, KERNEL, None)
    elif condition == "flipped kernel":
        raw = disk.read_slot(slot, KERNEL)
        disk.write_slot(slot, KERNEL, raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    elif condition == "unreadable initrd":
        # As on a disk that fails between the check and the loading.
        lines = disk.read_slot(slot, SUMS).splitlines(keepends=True)
        disk.write_slot(slot, SUMS, b"".join(line for line in lines if b"initrd" not in line))
    elif condition == "other label":
        disk.relabel(slot, f"new{LABELS[slot][-1]}")
    return disk.read_partition(NUMBERS[slot])


def _esp(sound: Disk, folder: Path, primary: int | None, backup: int | None) -> _Esp:
    """The boot partition whose two copies have these lengths (None: missing)."""
    disk = sound.copy(folder / "esp.img")
    marks = {}
    for path, length, letter in ((_PRIMARY, primary, b"P"), (_BACKUP, backup, b"Q")):
        if length is not None:
            marks[path] = (b"@" + letter * 1100)[:length]
            disk.write_boot(path, marks[path])
    content = disk.read_partition(_ESP)
    places = []
    for path in (_PRIMARY, _BACKUP):
        mark = marks.get(path, b"")
        places.append(content.index(mark) if mark else 0)
    return _Esp(content, *places)
