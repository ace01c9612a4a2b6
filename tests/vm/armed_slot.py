"""A device whose slot B holds the release of slot A once more, armed, with other kernel arguments.

Made on the disk image itself: no install has to run in the guest first.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import device
from image import Sizes

from abupdate.boot import state as boot_state
from abupdate.boot.cmdline import (
    abupdate_env,
    parse_abupdate_env,
    parse_sha256sums,
    sha256sums,
)
from abupdate.boot.grubenv import decode, encode
from abupdate.boot.state import BootState, Ustate, backup_of
from tests.grub.grubbox import LABELS, NUMBERS, Disk

_ENV, _SUMS = "/boot/abupdate.env", "/boot/SHA256SUMS"


def build(provisioned: Path, image: Path, tries: int) -> Disk:
    """Copy a new device's disk (`device.build`) to `image`, and arm slot B with these tries."""
    disk = Disk(device.copy(provisioned, image), Sizes().partitions())
    disk.write_partition(NUMBERS["B"], disk.read_partition(NUMBERS["A"]))
    disk.relabel("B", LABELS["B"])
    state = replace(read_state(disk), tries=tries)
    state = boot_state.arm(boot_state.begin(state, "B", "A"), "B")
    disk.write_boot("grub/grubenv", encode(state))
    disk.write_boot("grub/grubenv.bak", encode(backup_of(state, Ustate.OK)))
    return disk


def read_state(disk: Disk) -> BootState:
    """What `grubenv` says."""
    return decode(disk.read_boot("grub/grubenv"))


def add_arguments(disk: Disk, arguments: str) -> None:
    """Let slot B's kernel be booted with these as well; they are the last ones of the release."""
    boot = parse_abupdate_env(disk.read_slot("B", _ENV))
    env = abupdate_env(boot.kernel, boot.initrd, f"{boot.cmdline} {arguments}")
    disk.write_slot("B", _ENV, env)
    sums = parse_sha256sums(disk.read_slot("B", _SUMS))
    if "abupdate.env" in sums:
        sums["abupdate.env"] = hashlib.sha256(env).hexdigest()
        disk.write_slot("B", _SUMS, sha256sums(sums))
