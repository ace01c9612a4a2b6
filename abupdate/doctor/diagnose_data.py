"""What `doctor` sees of the data partition: whether it is mounted, and what its check said.

The initramfs checks it at every boot, mends what is safe, and notes in /run/abupdate/mounts
what it left (docs/state.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from abupdate.disk.filesystem import mounts
from abupdate.disk.layout import DATA, BootDisk, Partition
from abupdate.disk.luks import is_encrypted
from abupdate.doctor.diagnose_disk import number_of
from abupdate.doctor.findings import Finding, finding
from abupdate.paths import Paths

REBOOT = "Start rescue, where no slot needs it: abupdate rescue boot; `doctor --repair` there."


def data_findings(paths: Paths, disk: BootDisk, *, in_rescue: bool) -> Iterator[Finding]:
    """`in_rescue`: nothing needs what is on data, and it can be mended."""
    data = partition(disk)
    if data is None:
        return
    state, text = noted(paths)
    advice = "abupdate doctor --repair checks it, keeps what can be kept, and mounts it."
    if in_rescue and not is_mounted(paths, data):
        locked = is_encrypted(data.device)
        has = "is encrypted, and has not been opened" if locked else "is not mounted"
        text = text if state in ("failed", "damaged") else ""
        yield finding(
            "data-unmounted",
            f"{data.device} should be mounted at {paths.data}, and {has}. {text}".strip(),
            "Open it, and mount it there: cryptsetup open" if locked else advice,
            repairable=not locked,
        )
    elif state == "failed":
        yield finding(
            "data-unmounted",
            f"{data.device} should have been mounted at {paths.data} in this boot, found: {text}.",
            REBOOT,
            repairable=False,
        )
    elif state == "damaged":
        yield finding(
            "data-damaged",
            f"The filesystem on {data.device} should be sound, found: {text}.",
            advice if in_rescue else REBOOT,
            repairable=in_rescue,
        )


def partition(disk: BootDisk) -> Partition | None:
    """The data partition, where there is one of that name."""
    named = [part for part in disk.partitions if part.name == DATA]
    return named[0] if len(named) == 1 else None


def is_mounted(paths: Paths, data: Partition) -> bool:
    """Whether what is mounted at /data is that partition, or lies within it (LUKS)."""
    entry = next((e for e in reversed(mounts()) if e.target == str(paths.data)), None)
    if entry is None:
        return False
    number = number_of(data.device)
    within = Path("/sys/dev/block") / entry.device_number / "slaves"
    return entry.device_number == number or (within / data.device.name).exists()


def noted(paths: Paths) -> tuple[str, str]:
    """What the initramfs said of data in this boot: ok, repaired, damaged or failed; and words."""
    try:
        lines = (paths.runtime / "mounts").read_text(errors="replace").splitlines()
    except OSError:
        return "", ""
    for line in reversed(lines):
        name, _, rest = line.partition(" ")
        if name == DATA:
            state, _, text = rest.partition(" ")
            return state, text
    return "", ""
