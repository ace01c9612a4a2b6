"""The steps of a build under pseudo itself: owners, devices and attributes that nobody may give."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yocto_release

from abupdate.disk import grubimage
from tests.yocto import rootfs
from tests.yocto.test_disk import BOTH

pytestmark = pytest.mark.skipif(
    shutil.which("pseudo") is None, reason="pseudo is a package of Debian, and is not installed"
)
SCRIPT = rootfs.LAYER / "lib/yocto_release.py"
CAPABILITY = "0x0100000200040000000000000000000000000000"
# What do_rootfs, do_image and IMAGE_CMD:tar do, after one another in one database.
AS_ROOT = f"""\
set -e
mkdir rootfs/special
chown 970:970 rootfs/special
chown 12:34 rootfs/usr/bin/program
chmod 4755 rootfs/usr/bin/program
mknod rootfs/special/null c 1 3
python3 -c 'import os, sys; os.setxattr("rootfs/usr/bin/program", "security.capability",
    bytes.fromhex("{CAPABILITY[2:]}"))'
"$1" "$2" whole-seconds rootfs
tar --xattrs --xattrs-include='*' --sort=name --format=posix \
    --pax-option=delete=atime,delete=ctime --numeric-owner -cf image.tar -C rootfs .
"""


class Build:
    """A folder with pseudo's database in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": f"{rootfs.ROOT}:{rootfs.LAYER / 'lib'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PSEUDO_PREFIX": "/usr",
            "PSEUDO_LOCALSTATEDIR": str(folder / "pseudo"),
            "PSEUDO_PASSWD": str(folder / "rootfs"),
        }

    def run(self, *words: str | Path, pseudo: bool = True) -> None:
        done = subprocess.run(
            [*(["pseudo"] if pseudo else []), *words],
            cwd=self.folder, env=self._env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def close(self) -> None:
        subprocess.run(["pseudo", "-S"], env=self._env, capture_output=True, check=False)


def _stat(image: Path, path: str) -> str:
    words = (["debugfs", "-R", f"{verb} {path}", str(image)] for verb in ("stat", "ea_list"))
    done = (subprocess.run(one, capture_output=True, text=True, check=True) for one in words)
    return "".join(one.stdout for one in done)


def test_what_pseudo_knows_reaches_the_slot(tmp_path: Path) -> None:
    build = Build(tmp_path)
    made = rootfs.make(tmp_path / "rootfs")
    # pseudo takes no second name of a file that it has not seen made.
    (made / "usr/bin/same-program").unlink()
    yocto_release.grub_images(made / "usr/lib/abupdate/grub", grubimage.GRUB_LIBRARY, BOTH)
    signers = yocto_release.demo_keys(tmp_path / "keys")
    rootfs.complete(made, "1.0", signers)
    try:
        build.run("sh", "-c", AS_ROOT, "sh", sys.executable, SCRIPT)
        build.run(
            sys.executable, SCRIPT, "bundle", "image.tar", "--repo", "r.git", "--out", ".",
            "--name", "image", "--key", "keys/release", "--signers", signers,
            "--compatible", rootfs.PRODUCT, "--version", "1.0", pseudo=False,
        )  # fmt: skip
        build.run(
            sys.executable, SCRIPT, "parts", "image.bundle", "--signers", signers, "--out", "parts",
            "--firmware", "uefi bios", "--boot-size", "16", "--rescue-size", "24",
            "--slot-size", "24", "--data-size", "32",
        )  # fmt: skip
    finally:
        build.close()
    # On the disk of the build none of it is so.
    assert (made / "special").stat().st_uid != 970
    slot, data = tmp_path / "parts/rootA.img", tmp_path / "parts/data.img"
    assert re.search(r"User: +970 +Group: +970", _stat(slot, "/special"))
    null = _stat(slot, "/special/null")
    assert "character special" in null
    assert "01:03" in null
    program = _stat(slot, "/usr/bin/program")
    assert re.search(r"Mode: +04755[\s\S]*User: +12 +Group: +34", program)
    assert "security.capability (20) = 01 00 00 02 00 04" in program
    assert re.search(r"User: +970", _stat(data, "/abupdate/store.git"))
