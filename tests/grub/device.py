"""A device of the GRUB tests: userland's part is the real `Grubenv`, GRUB's the real GRUB."""

from __future__ import annotations

from pathlib import Path

from abupdate.boot import state as boot_state
from abupdate.boot.grubenv import BACKUP, PRIMARY, Grubenv
from abupdate.boot.state import BootState
from tests.grub.grubbox import Disk, boot

TRIES, LIMIT = 3, 2


class Device:
    """A disk with a running system's view of its boot state."""

    def __init__(self, disk: Disk, scratch: Path) -> None:
        self.disk = disk
        self._folder = scratch / "grub"
        self._folder.mkdir()
        self.serial = ""

    def write(self, state: BootState, *, backup_first: bool = False) -> None:
        """What userland does."""
        self._fetch()
        Grubenv(self._folder).write(state, backup_first=backup_first)
        for name in (PRIMARY, BACKUP):
            self.disk.write_boot(f"grub/{name}", (self._folder / name).read_bytes())

    def state(self) -> BootState:
        """What userland finds."""
        self._fetch()
        reading = Grubenv(self._folder).read()
        assert reading.state is not None and reading.source == "primary", reading
        assert reading.problems == ()
        return reading.state

    def start(self) -> str:
        """Switch on once: which slot, how, and what the boot state then says."""
        found = boot(self.disk)
        self.serial += found.text
        assert found.kernel == f"kernel-{found.arguments.slot}", found.text
        state = self.state()
        return f"{found.arguments.slot} {found.arguments.how} {state.ustate} {state.countdown}"

    def install(self, target: str, booted: str) -> None:
        """The two writes of an install."""
        self.write(boot_state.begin(self.state(), target, booted), backup_first=True)
        self.write(boot_state.arm(self.state(), target))

    def _fetch(self) -> None:
        for name in (PRIMARY, BACKUP):
            if name in self.disk.list_boot("grub"):
                (self._folder / name).write_bytes(self.disk.read_boot(f"grub/{name}"))


def new_device(disk: Disk, scratch: Path, slot: str = "A", tries: int = TRIES) -> Device:
    """A device whose only good system is in `slot`."""
    device = Device(disk, scratch)
    device.write(boot_state.rebuild(slot, slot, tries, LIMIT))
    device.write(boot_state.acknowledge(device.state()))
    return device
