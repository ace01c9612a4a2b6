"""Every state change of userland, on a real vfat, as the writes to the disk that it is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import write_log
from device_vm import DeviceVM
from vm import Disk

from abupdate.boot.grubenv import decode
from abupdate.boot.state import BootState
from tests.grub import grubbox

_ESP = 2
_NAME = "esp"

# Runs inside: one transition after the other, by the code that runs on devices.
_TRANSITIONS = """
import json
from functools import partial
from pathlib import Path

from abupdate.boot import state as rules
from abupdate.boot.grubenv import Grubenv
from abupdate.disk.filesystem import writable

esp = Path("/run/torn-esp")
grubenv = Grubenv(esp / "grub", writable=partial(writable, esp))
copies = []

def note():
    copies.append([(esp / "grub" / name).read_bytes().hex() for name in ("grubenv", "grubenv.bak")])

def go(change, *words, **options):
    grubenv.write(change(grubenv.read().state, *words), **options)
    note()

note()
go(rules.begin, "B", "A", backup_first=True)
go(rules.arm, "B")
go(rules.begin, "B", "A", backup_first=True)
go(rules.arm, "B")
go(rules.confirm, "B", 3, 8)
go(rules.healthy, "B", 5, 2)
go(rules.rollback, "B")
go(rules.reject)
go(rules.acknowledge)
go(rules.rescue_once)
go(rules.retry)
go(lambda state: rules.rebuild("B", "B", 3, 8))
print(json.dumps(copies))
"""


@dataclass(frozen=True)
class Recorded:
    """The boot partition before, what was written to it, and the copies after each change."""

    before: bytes
    epochs: list[list[write_log.Write]]
    copies: list[tuple[BootState, BootState]]


def record(machine: DeviceVM, disk: grubbox.Disk, scratch: Path) -> Recorded:
    """Let the running machine do all changes on a copy of that disk's boot partition."""
    image, log = scratch / "esp.img", scratch / "esp.log"
    before = disk.read_partition(_ESP)
    image.write_bytes(before)
    machine.vm.attach_disk(_NAME, Disk(image), write_log.node(image, log))
    node = f"/dev/disk/by-id/virtio-{_NAME}"
    machine.run("udevadm", "wait", "--timeout=60", node)
    machine.run("mkdir", "-p", "/run/torn-esp")
    machine.run("mount", "-t", "vfat", "-o", "ro", node, "/run/torn-esp")
    printed = machine.run("python3", "-c", _TRANSITIONS).stdout
    machine.run("umount", "/run/torn-esp")
    machine.vm.detach_disk(_NAME)
    raws = [[bytes.fromhex(raw) for raw in pair] for pair in json.loads(printed)]
    copies = [(decode(primary), decode(backup)) for primary, backup in raws]
    return Recorded(before, write_log.epochs(log), copies)


def contents(recorded: Recorded) -> Iterator[bytes]:
    """Every content of the boot partition that a cut at any time may leave."""
    before = recorded.before
    for epoch in recorded.epochs:
        yield from write_log.torn(before, epoch)
        before = write_log.after(before, epoch)


def allowed(recorded: Recorded) -> set[tuple[BootState, BootState]]:
    """Primary and backup, old or new each, before and after every change."""
    found = set()
    for (old, old_backup), (new, new_backup) in itertools.pairwise(recorded.copies):
        found |= set(itertools.product((old, new), (old_backup, new_backup)))
    return found
