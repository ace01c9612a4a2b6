"""Programs in a root filesystem, so that its fixups can run: a shell and what they use."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_PROGRAMS = (
    "cat", "chmod", "chown", "dd", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "rm",
    "setsid", "sleep", "touch",
)  # fmt: skip


def add_programs(rootfs: Path) -> None:
    """This computer's, with their libraries, in /bin of `rootfs`."""
    (rootfs / "bin").mkdir()
    copies = {found: f"bin/{name}" for name in _PROGRAMS if (found := shutil.which(name))}
    shell = shutil.which("dash") or "/bin/sh"
    copies[shell] = "bin/sh"
    libraries = subprocess.run(["ldd", *copies], check=True, capture_output=True, text=True).stdout
    for library in set(re.findall(r"(/\S+) \(0x", libraries)):
        copies[library] = library[1:]
    for source, target in copies.items():
        (rootfs / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, rootfs / target)
