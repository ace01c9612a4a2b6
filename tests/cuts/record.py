"""A device's life, and all that reached its disk in it.

Userland runs in a Debian machine, on a disk that is plugged into it for one
phase at a time; GRUB's own boots run on the same disk. Each phase is kept with
the disk as it was before, and with all writes and flushes since.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import demo_parts
import device
import guest
import publisher
import write_log
from device_vm import DeviceVM, make_medium
from image import Sizes
from vm import VM, accelerator
from vm import Disk as VMDisk

from abupdate.disk.layout import MIB
from tests.cuts.releases import Releases
from tests.grub.grubbox import Disk, boot
from tests.grub.sweep import no_wait

SIZES = Sizes(root=16 * MIB, rescue=16 * MIB, boot=8 * MIB, disk=84 * MIB)
_NAME, _MEDIUM = "cut", "bundles"
_BY_ID = "/dev/disk/by-id/virtio"
_INSIDE = Path(__file__).parent / "inside.py"
# What belongs to the user: path on the data partition → text.
USER = {
    "state/photo": "".join(f"line {number} of what nobody has twice\n" for number in range(3000)),
    "etc/A/upper/hostname": "kiosk-17\n",
}


@dataclass(frozen=True)
class Boot:
    """What the running system is told of its boot."""

    slot: Literal["A", "B", "R"]
    how: Literal["normal", "trial", "fallback", "rescue"]


@dataclass(frozen=True)
class Step:
    """One phase to be recorded. Without `commands` it is GRUB's boot into `boot`.

    `part` of a life that it belongs to, for figures.
    `broken`: a mistake of `inside` that is put into abupdate for it; its exit codes are free then.
    """

    part: str
    name: str
    boot: Boot
    commands: Sequence[Sequence[str]] = ()
    codes: Sequence[int] = ()
    broken: str = ""


_JUDGED = (("started",), ("check", "--boot"), ("confirm", "--boot"))
_PASSED = (0, 0, 0)
_REJECTED = (("started",), ("check", "--boot"), ("reject", "--boot"))
_FAILED = (0, 7, 0)
# Writes what belongs to the user; not looked at.
PREPARE = Step("", "prepare", Boot("A", "normal"), [("status",)], [0])
FULL, UPDATE = "install, full", "install, incremental"
CONFIRM, ROLLBACK, FALLBACK = "confirm", "rollback", "fallback"
_INSTALL = [("install", "/run/bundles/2.bundle")]
_UPGRADE = [("install", "/run/bundles/3.bundle")]
# A whole life: both kinds of install, both ways to confirm, a rollback, both kinds of fallback.
LIFE = (
    Step(FULL, "install, empty slot", Boot("A", "normal"), _INSTALL, [0]),
    Step(CONFIRM, "GRUB: trial", Boot("B", "trial")),
    Step(CONFIRM, "confirm", Boot("B", "trial"), _JUDGED, _PASSED),
    Step(ROLLBACK, "rollback", Boot("B", "normal"), [("rollback",)], [0]),
    Step(ROLLBACK, "GRUB: trial of the rollback", Boot("A", "trial")),
    Step(CONFIRM, "confirm the rollback", Boot("A", "trial"), _JUDGED, _PASSED),
    Step(UPDATE, "install, update", Boot("A", "normal"), _UPGRADE, [0]),
    Step(FALLBACK, "GRUB: first trial", Boot("B", "trial")),
    Step(FALLBACK, "a trial that hangs", Boot("B", "trial"), [("started",)], [0]),
    Step(FALLBACK, "GRUB: last trial", Boot("B", "trial")),
    Step(FALLBACK, "GRUB: fallback", Boot("A", "fallback")),
    Step(FALLBACK, "armed once more", Boot("A", "fallback"), _JUDGED, _PASSED),
    Step(FALLBACK, "GRUB: first trial again", Boot("B", "trial")),
    Step(FALLBACK, "a trial that fails", Boot("B", "trial"), _REJECTED, _FAILED),
    Step(FALLBACK, "GRUB: last trial again", Boot("B", "trial")),
    Step(FALLBACK, "the last trial fails", Boot("B", "trial"), _REJECTED, _FAILED),
    Step(FALLBACK, "GRUB: after it was given up", Boot("A", "normal")),
    Step(FALLBACK, "the fallback is told", Boot("A", "normal"), _JUDGED, _PASSED),
    Step(FALLBACK, "GRUB: normal boot", Boot("A", "normal")),
)  # fmt: skip
RESCUE, REFLASH = "rescue update", "reflash"
_REFLASH = ("rescue", "reflash")
_IN_RESCUE = Boot("R", "rescue")
# The rescue system comes, and is replaced.
RESCUE_LIFE = tuple(
    Step(RESCUE, f"rescue update, {what}", Boot("A", "normal"),
         [("rescue", "update", f"/run/bundles/rescue-{version}.bundle")], [0])
    for version, what in (("1", "the first"), ("2", "another"))
)  # fmt: skip
# Then both slots are lost.
REFLASH_LIFE = (
    Step(REFLASH, "GRUB: nothing but rescue", _IN_RESCUE),
    Step(REFLASH, "reflash A", _IN_RESCUE, [(*_REFLASH, "A", "/run/bundles/2.bundle")], [0]),
    Step(REFLASH, "GRUB: trial of the reflash", Boot("A", "trial")),
    Step(REFLASH, "confirm the reflash", Boot("A", "trial"), _JUDGED, _PASSED),
    Step(REFLASH, "once", Boot("A", "normal"), [("rescue", "boot")], [0]),
    Step(REFLASH, "GRUB: rescue, once", _IN_RESCUE),
    Step(REFLASH, "reflash B", _IN_RESCUE, [(*_REFLASH, "B", "/run/bundles/3.bundle")], [0]),
)  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """What a step did to the disk: its content before, and the writes between flushes."""

    step: Step
    before: Path
    epochs: list[list[write_log.Write]] = field(repr=False)

    @property
    def writes(self) -> int:
        """How many sectors were written."""
        return sum(len(epoch) for epoch in self.epochs)


def new_disk(releases: Releases, image: Path) -> Disk:
    """A new device of small size, release 1 in slot A."""
    built = device.build(releases.bundle("1"), releases.signers, SIZES)
    return no_wait(Disk(device.copy(built, image), SIZES.partitions()))


@contextmanager
def debian(scratch: Path) -> Iterator[DeviceVM]:
    """A machine to record in: a device of the ordinary test releases, booted."""
    series = publisher.publish([demo_parts.ONE])
    signers = publisher.key().allowed_signers
    root = device.copy(device.build(series.bundle("1"), signers), scratch / "debian.img")
    accel = accelerator(lambda: guest.kernel(guest.build(demo_parts.ONE, signers.read_text())))
    with VM([VMDisk(root)], firmware="bios", accel=accel) as vm:
        machine = DeviceVM(vm)
        machine.power_on()
        machine.wait_for_boot()
        machine.settle()
        yield machine


def recorded(folder: Path, releases: Releases) -> list[Phase]:
    """The phases of the life that is kept in a folder; lived and kept there first if none is."""
    folder = folder.absolute()
    kept = folder / "life.pickle"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with debian(folder) as machine:
            recorder = Recorder(machine, releases, folder)
            phases = [*recorder.life(), *recorder.life_of_rescue()]
        kept.write_bytes(pickle.dumps(phases))
    found: list[Phase] = pickle.loads(kept.read_bytes())
    return found


@dataclass(frozen=True)
class Ran:
    """What a step's commands ended with (nothing when the disk could not be mounted) and said.

    `requests`: how many reads, writes and flushes the disk was asked for.
    """

    codes: list[int]
    said: str
    requests: Mapping[str, int]


class Recorder:
    """Lets small devices live on disks that are plugged into a running machine."""

    def __init__(self, machine: DeviceVM, releases: Releases, scratch: Path) -> None:
        self._machine = machine
        self._releases = releases
        self._scratch = scratch
        self._lives = 0
        names = ("2", "3", "rescue-1", "rescue-2")
        bundles = {f"{name}.bundle": releases.bundle(name) for name in names}
        medium = make_medium(scratch / "bundles.img", bundles)
        machine.vm.attach_disk(_MEDIUM, VMDisk(medium, readonly=True))
        machine.run("udevadm", "wait", "--timeout=60", f"{_BY_ID}-{_MEDIUM}")
        machine.run("mkdir", "-p", f"/run/{_MEDIUM}")
        machine.run("mount", "-o", "ro", f"{_BY_ID}-{_MEDIUM}", f"/run/{_MEDIUM}")

    def life(self, steps: Sequence[Step] = LIFE, start: Path | None = None) -> list[Phase]:
        """Let a new device live through these steps, or one whose disk is `start`.

        Raises AssertionError when a step goes another way.
        """
        self._lives += 1
        folder = self._scratch / f"life-{self._lives}"
        folder.mkdir()
        if start is None:
            disk = new_disk(self._releases, folder / "disk.img")
            self.userland(disk, PREPARE, user=USER)
        else:
            disk = Disk(device.copy(start, folder / "disk.img"), SIZES.partitions())
        phases = []
        for number, step in enumerate(steps):
            before = device.copy(disk.image, folder / f"{number}.img")
            log = folder / f"{number}.log"
            if step.commands:
                self.userland(disk, step, write_log.node(disk.image, log))
            else:
                _grub(disk, step, log)
            phases.append(Phase(step, before, write_log.epochs(log)))
            log.unlink()
        return phases

    def life_of_rescue(self) -> list[Phase]:
        """A device gets a rescue system, loses both slots, and is put back."""
        phases = self.life(RESCUE_LIFE)
        lost = Disk(device.copy(self._left, self._scratch / "lost.img"), SIZES.partitions())
        for number in (4, 5):
            lost.write_partition(number, bytes(SIZES.root))
        return phases + self.life(REFLASH_LIFE, lost.image)

    @property
    def _left(self) -> Path:
        """The disk of the last life."""
        return self._scratch / f"life-{self._lives}" / "disk.img"

    def userland(
        self,
        disk: Disk,
        step: Step,
        through: Mapping[str, object] | None = None,
        *,
        user: Mapping[str, str] | None = None,
        codes: bool = True,
    ) -> Ran:
        """Run a step's commands on a disk. `user`: files to write first; `codes`: as expected."""
        machine = self._machine
        machine.vm.attach_disk(_NAME, VMDisk(disk.image), through)
        machine.run("udevadm", "wait", "--timeout=60", f"{_BY_ID}-{_NAME}-part6", ok=None)
        asked = {
            "slot": step.boot.slot,
            "how": step.boot.how,
            "commands": [list(words) for words in step.commands],
            "user": dict(user or {}),
            "broken": step.broken,
        }
        words = ("python3", "-", json.dumps(asked))
        done = machine.vm.agent.run(words, timeout=600, stdin=_INSIDE.read_text(), ok=None)
        requests = machine.vm.requests(_NAME)
        machine.vm.detach_disk(_NAME)
        said = f"{done.stdout}\n{done.stderr}"
        ended = json.loads(done.stdout.splitlines()[-1]) if done.code == 0 else []
        wanted = codes and not step.broken
        assert not wanted or ended == list(step.codes), f"{step.name}: {ended}\n{said}"
        return Ran(ended, said, requests)


def _grub(disk: Disk, step: Step, log: Path) -> None:
    arguments = boot(disk, log=log).arguments
    found = (arguments.slot, arguments.how)
    assert found == (step.boot.slot, step.boot.how), f"{step.name}: {found}"
