"""What `installer/copy-system` copies of a system that runs, and what not: in a root of its own.

The programs are this machine's, bound at /usr and left out.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

COPY_SYSTEM = Path(__file__).resolve().parents[2] / "installer/copy-system"
LINKS = ("bin", "lib", "lib64", "sbin")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root filesystem with files of every kind that matters."""
    root = tmp_path / "root"
    for folder in ("usr", "proc", "work", "mnt/other", "dev", "srv/share", "opt", "tmp"):
        (root / folder).mkdir(parents=True)
    for name in LINKS:
        (root / name).symlink_to(f"usr/{name}")
    for name in (*KEPT, *LEFT):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    os.chown(root / "opt/tool", 1000, 1001)
    subprocess.run(["setcap", "cap_net_raw+ep", root / "opt/tool"], check=True)
    os.link(root / "opt/tool", root / "opt/again")
    (root / "var/log/web").chmod(0o2750)
    return root


KEPT = (
    "etc/fstab", "etc/ssh/sshd_config", "opt/tool", "srv/share/[a]*", "var/lib/app/data",
    "var/cache/debconf/config.dat", "boot/vmlinuz-6", "var/lib/NetworkManager/state", "opt/home/x",
)  # fmt: skip
LEFT = (
    "etc/machine-id", "etc/ssh/ssh_host_rsa_key", "var/log/web/access.log", "var/log/[a]*",
    "var/cache/apt/pkgcache.bin", "var/tmp/x", "var/lib/systemd/random-seed", "boot/initrd.img-6",
    "boot/grub/grub.cfg", "home/me/film", "root/.ssh/key", "var/lib/dhcp/dhclient.leases",
    "var/lib/NetworkManager/one.lease", "tmp/x", "mnt/other/x", "opt/secret/deep/x", "opt/token",
)  # fmt: skip
OPTIONS = [
    *("--without", "/usr", "--without", "/opt/secret", "--without", "/opt/token"),
    *("--empty", "/home", "--empty", "/root"),
]


def run(root: Path, *words: str) -> str:
    """In mounts of its own: the programs, /proc, and a share that is another filesystem."""
    line = shlex.join(["chroot", str(root), "/work/copy-system", *words])
    script = f"""set -e
        cp {COPY_SYSTEM} {root}/work/copy-system
        mount --bind {root} {root}
        mount --bind /usr {root}/usr
        mount --bind /dev {root}/dev
        mount --bind /proc {root}/proc
        mount -t tmpfs tmpfs {root}/mnt/other
        exec {line}"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def names(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}


def test_what_is_copied(root: Path) -> None:
    for _ in range(2):
        run(root, "/work/rootfs", "--without", "/work", *OPTIONS)
    copy = root / "work/rootfs"
    assert names(copy) == {*KEPT, "opt/again", *LINKS}
    for folder in ("proc", "dev", "tmp", "home", "root", "var/log/web", "var/cache/apt", "mnt"):
        assert (copy / folder).is_dir(), folder
    assert not (copy / "opt/secret").exists() and not (copy / "work").exists()
    tool = (copy / "opt/tool").stat()
    assert (tool.st_uid, tool.st_gid, tool.st_nlink) == (1000, 1001, 2)
    caps = subprocess.run(["getcap", copy / "opt/tool"], capture_output=True, text=True, check=True)
    assert "cap_net_raw=ep" in caps.stdout
    assert sorted(path.name for path in (root / "work").iterdir()) == ["copy-system", "rootfs"]


def test_its_size(root: Path) -> None:
    with (root / "opt/large").open("wb") as file:
        file.write(b"large" * (3 << 20))
    (root / "home/me/large").write_bytes(b"large" * (3 << 20))
    told = run(root, "--size", "/work/rootfs", "--without", "/work", *OPTIONS)
    assert 14 <= int(told) <= 25
    assert not (root / "work/rootfs").exists()
