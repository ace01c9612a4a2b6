"""The only program of the machine of `fat.py`: userland's part, on a real vfat.

Runs as the first process. `/asked.json`: `data` (files of the data partition, as text),
`release` (the rules that the release brings, as text), `runs` (the rules that started
it), `doctor` (mend instead of following the release), `broken` (a mistake that is put
in: "in use" writes over the rules that GRUB uses). Prints `TOLD` and JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

TOP = Path("/cut")
_DISK, _ESP = "/sys/class/block/vda2", "/dev/vda2"
_REBOOT = 0x01234567
_INIT_MODULE = {"x86_64": 175}[platform.machine()]
_SECONDS = 60.0


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        for kind, folder in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")):
            Path(folder).mkdir(exist_ok=True)
            assert libc.mount(kind.encode(), folder.encode(), kind.encode(), 0, None) == 0, folder
        for name in Path("/modules/order").read_text().split():
            raw = Path("/modules", name).read_bytes()
            assert libc.syscall(_INIT_MODULE, raw, len(raw), b"") == 0, name
        end = time.monotonic() + _SECONDS
        while not Path(_DISK).exists() and time.monotonic() < end:
            time.sleep(0.05)
        print("TOLD", json.dumps(told(json.loads(Path("/asked.json").read_text()))), flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os.sync()
        libc.reboot(_REBOOT)


def told(asked: dict[str, Any]) -> dict[str, Any]:
    from abupdate.boot import rules as formats
    from abupdate.boot.cmdline import BootArguments
    from abupdate.disk.layout import Slot
    from abupdate.doctor import mend_rules
    from abupdate.events import Event, Events
    from abupdate.paths import Paths
    from abupdate.run import run
    from abupdate.update import rules, seen
    from abupdate.update.slots import Booted, Machine

    paths = Paths(TOP / "root", TOP / "data", TOP / "esp", TOP / "run", TOP / "cmdline")
    for folder in (paths.esp, paths.state, paths.vendor / "grub"):
        folder.mkdir(parents=True)
    for name, text in asked["data"].items():
        (paths.state / name).write_text(text)
    (paths.vendor / "grub/rules.cfg").write_text(asked["release"])
    paths.cmdline.write_text(f"abupdate.slot=A abupdate.boot=normal abupdate.rules={asked['runs']}")
    seen.remember(paths.runtime, "A")  # GRUB has saved in this boot
    warnings: list[str] = []

    def keep(event: Event) -> None:
        warnings.append(event.text or "")

    run(["mount", "-t", "vfat", "-o", "ro", _ESP, paths.esp])
    machine, arguments = Machine(paths), BootArguments("A", "normal", None, False, asked["runs"])
    if asked["broken"] == "in use":
        setattr(formats, "other_name", lambda name: name)  # noqa: B010
    if asked["doctor"]:
        said: str | None = mend_rules.mend_rules(machine, trusted=True, confirmed=True)
    else:
        booted = Booted(Slot.A, arguments, None)  # type: ignore[arg-type]
        said = rules.follow(machine, booted, Events(keep))
    run(["umount", paths.esp])
    data = {path.name: path.read_text() for path in paths.state.iterdir() if path.is_file()}
    return {"said": said, "warnings": warnings, "data": data}


if __name__ == "__main__":
    main()
else:
    # What the machine is made of (`fat.py`): all that this file needs, loaded once.
    import abupdate.disk.filesystem
    import abupdate.doctor.mend_rules
    import abupdate.run
    import abupdate.update.rules  # noqa: F401

    sys.modules.setdefault("sh", __import__("sh"))
