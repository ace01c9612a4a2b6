"""Mends the data partition: checked and mounted in rescue; made anew only where that is asked for.

Only in rescue, where no slot needs what is on it.
"""

from __future__ import annotations

import os
from pathlib import Path

from abupdate.disk import filesystem
from abupdate.disk.layout import DATA, Partition, Slot
from abupdate.disk.luks import is_encrypted
from abupdate.doctor import diagnose_data
from abupdate.doctor.look import Look
from abupdate.doctor.repairs import Plan, Refusal, Repair
from abupdate.errors import DeviceFaultError, RefusedError
from abupdate.failpoints import failpoint
from abupdate.run import run

_KINDS = ("data-unmounted", "data-damaged")
_MOUNT = ("-t", "ext4", "-o", "noatime,nodev")
_SECONDS = 3 * 3600.0
_LOST = (
    "All of the owner's files, the changes in /etc, the store, what is known of the slots, the "
    "history, the revoked keys and the version floor"
)


def plan(now: Look, tried: frozenset[str]) -> Plan:
    """`tried`: ids of what this run has done already."""
    data = diagnose_data.partition(now.disk)
    wrong = tuple(one.id for one in now.found(*_KINDS))
    if data is None or not wrong or now.obstacle:
        return []
    if not now.in_rescue:
        return [Refusal(wrong, diagnose_data.REBOOT)]
    if is_encrypted(data.device):
        return []
    if "data" not in tried:
        return [
            Repair(
                "data",
                wrong,
                f"Check the filesystem on {data.device} and mend all that can be (e2fsck -y, also "
                "from a backup of its superblock), because it "
                f"{'has damage' if 'data-damaged' in wrong else 'is not mounted'}: files whose "
                "name is lost go to lost+found, then it is mounted.",
                lambda: _check(now, data),
            )
        ]
    if "data-unmounted" not in wrong:
        return []
    return [
        Repair(
            "data-new",
            wrong,
            f"Make a new filesystem on {data.device}, because e2fsck can do nothing with the one "
            "that is there.",
            lambda: _make(now, data),
            risk=f"{_LOST} are lost; the slots stay, and boot.",
        )
    ]


def _check(now: Look, data: Partition) -> str:
    """e2fsck goes on where a power cut has stopped it; until it ends well nothing is mounted."""
    where = now.machine.paths.data
    if diagnose_data.is_mounted(now.machine.paths, data):
        run(["umount", where], timeout=_SECONDS)
    filesystem.refuse_if_in_use(data.device)
    done = run(["e2fsck", "-f", "-y", data.device], ok=range(256), timeout=_SECONDS)
    filesystem.flush(data.device)
    failpoint("data-checked")
    if done.code & ~3:
        said = f"{done.stderr} {done.stdout.decode(errors='replace')}"
        told = " ".join(said.split())
        raise DeviceFaultError(
            f"{data.device} should have a filesystem that e2fsck can mend, and it ended with "
            f"{done.code}: {told[:300]}",
            "`abupdate doctor --repair --also data-new` makes a new one. All on it is lost then: "
            "copy the partition first if somebody may want to look for files in it.",
        )
    mount(data, where)
    _make_folders(now)
    _note(now, data)
    found = _lost_and_found(where)
    told = f"; {found} files without a name are in {where}/lost+found" if found else ""
    what = "was mended" if done.code & 3 else "is sound"
    return f"The filesystem on {data.device} {what}, and is mounted at {where}{told}."


def _make(now: Look, data: Partition) -> str:
    """A cut leaves a filesystem that is not whole or has no folders, which the next run mends."""
    where = now.machine.paths.data
    filesystem.refuse_if_in_use(data.device)
    filesystem.make(data.device, DATA)
    failpoint("data-made")
    mount(data, where)
    _make_folders(now)
    _note(now, data)
    return (
        f"{data.device} has a new, empty filesystem, mounted at {where}. Install a release next: "
        "what the slots hold is on no record any more."
    )


def mount(data: Partition, where: Path) -> None:
    """As the initramfs does. Raises `RefusedError` where something else is mounted there."""
    if any(entry.target == str(where) for entry in filesystem.mounts()):
        raise RefusedError(
            f"{data.device} should be mounted at {where}, and something else is.",
            f"Unmount that: umount {where}",
        )
    where.mkdir(parents=True, exist_ok=True)
    run(["mount", *_MOUNT, data.device, where], timeout=_SECONDS)


def _make_folders(now: Look) -> None:
    """What a first install makes there; after a cut, `_check` is the one that finds it empty."""
    where, state = now.machine.paths.data, now.machine.paths.state
    folders = [where / "etc" / slot / name for slot in Slot for name in ("upper", "work")]
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in (*folders, where / "state", state / "slots"):
            folder.mkdir(parents=True, exist_ok=True)
        filesystem.syncfs(fd)
    finally:
        os.close(fd)


def _note(now: Look, data: Partition) -> None:
    """What the initramfs said of it in this boot is true no more."""
    with (now.machine.paths.runtime / "mounts").open("a") as file:
        file.write(f"{DATA} repaired {data.device}, repaired by abupdate doctor\n")


def _lost_and_found(where: Path) -> int:
    try:
        return len(list((where / "lost+found").iterdir()))
    except OSError:
        return 0
