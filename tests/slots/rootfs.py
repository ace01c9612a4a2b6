"""Root filesystems with everything that git alone would lose."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

PRODUCT = "testbox"


def make_rootfs(top: Path, version: str) -> Path:
    """A small root filesystem of a release."""
    for folder in ("usr/bin", "usr/lib/abupdate/required.d", "etc", "boot", "empty/inside", "dev"):
        (top / folder).mkdir(parents=True)
    (top / "usr/lib/abupdate/config.toml").write_text(f'[device]\ncompatible = "{PRODUCT}"\n')
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nabupdate-store:x:970:970::/:\n")
    (top / "etc/release").write_text(f"release {version}\n")
    (top / "usr/bin/tool").write_bytes(f"tool {version}\n".encode() * 40_000)
    (top / "usr/bin/same").write_bytes(b"the same in all releases\n" * 1000)
    (top / "usr/bin/su").write_text("setuid\n")
    (top / "usr/bin/su").chmod(0o4755)
    (top / "usr/bin/ping").write_text("ping\n")
    subprocess.run(["setcap", "cap_net_raw+ep", top / "usr/bin/ping"], check=True)
    (top / "etc/acl").write_text("acl\n")
    subprocess.run(["setfacl", "-m", "u:1234:r", top / "etc/acl"], check=True)
    os.link(top / "usr/bin/tool", top / "usr/bin/tool-again")
    (top / "usr/bin/sh").symlink_to("tool")
    os.mknod(top / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(top / "dev/pipe")
    os.chown(top / "etc/release", 1000, 1001)
    (top / "etc/.gitattributes").write_text("* text=auto eol=crlf\n")
    (top / "etc/.git").mkdir()
    (top / "etc/.git/config").write_text("[core]\n")
    (top / "etc" / os.fsdecode(b"odd \xff\nname")).write_text("odd\n")
    return top
