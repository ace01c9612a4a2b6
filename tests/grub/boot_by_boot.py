"""docs/boot-by-boot.md: a bad update under GRUB, one boot a line, from the serial port.

python -m tests.grub.boot_by_boot     makes the page anew (part of `make docs`)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.grub.device import LIMIT, Device, new_device
from tests.grub.grubbox import Disk, boot, build_disk
from tests.grub.sweep import no_wait

PATH = Path(__file__).parents[2] / "docs" / "boot-by-boot.md"

_HEAD = f"""# Boot by boot

An update into the other slot that never comes up, with 1, 3 and 9 tries, in both
directions; nothing of it ever runs userland. Each line is one power-on of a
virtual machine with the real GRUB (BIOS): the columns up to "command line" are
what the kernel that ran printed on the serial port, the others are what
`grubenv` held after it. `limit` is {LIMIT}. Made by `make docs`; the tests boot it again.
"""


def page(sound: Disk) -> str:
    """The whole page. `sound` is not changed."""
    parts = [_HEAD]
    for old, new in (("A", "B"), ("B", "A")):
        for tries in (1, 3, 9):
            with tempfile.TemporaryDirectory() as name:
                device = new_device(sound.copy(Path(name) / "disk.img"), Path(name), old, tries)
                parts += _table(device, old, new, tries)
    return "\n".join(parts)


def _table(device: Device, old: str, new: str, tries: int) -> list[str]:
    device.install(new, old)
    ways = "1 try" if tries == 1 else f"{tries} tries"
    lines = [f"## {old} → {new}, {ways}", ""]
    lines += ["| boot | kernel | command line | ustate | countdown | good | failed |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for number in range(1, tries + 3):
        found = boot(device.disk)
        assert found.kernel is not None, found.text
        words = [word for word in found.cmdline.split() if word.startswith("abupdate.")]
        state = device.state()
        values = (int(state.ustate), state.countdown, state.good, state.failed)
        cells = [number, f"`{found.kernel}`", f"`{' '.join(words)}`", *values]
        lines.append(f"| {' | '.join(str(one) for one in cells)} |")
    return [*lines, ""]


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        build_disk(Path(name) / "disk.img")
        PATH.write_text(page(no_wait(Disk(Path(name) / "disk.img"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
