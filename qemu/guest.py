"""Root filesystems of test releases: a slim Debian with abupdate in it, as a tar.

In three layers, each cached under the hash of what goes into it:

1. base: Debian packages, the initramfs, users (mmdebstrap; half a minute);
2. system: the base with the working tree's abupdate (`install.sh`) over Debian's own
   dependencies, keys, and the test units;
3. release: the system with a version, a kernel command line and files of its
   own, a few seconds each, so that tests can have as many as they like.

Times in the tar are at most the day's midnight (SOURCE_DATE_EPOCH), in whole
seconds: bytecode stays valid and two builds of a day agree.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cache

from abupdate.boot.cmdline import abupdate_env, sha256sums
from abupdate.provision.grub import make_images
from abupdate.run import run

GUEST = cache.PROJECT / "qemu" / "guest"
STORE_UID = 970
COMPATIBLE = "demo-pc"
CLOUD_KERNEL = "linux-image-cloud-amd64"
FULL_KERNEL = "linux-image-amd64"

SUITE = "trixie"
PACKAGES = (
    *("busybox", "e2fsprogs", "git", "grub-common", "initramfs-tools", "kmod", "login"),
    *("mtools", "openssh-client", "passwd", "python3", "python3-jinja2", "python3-parted"),
    *("python3-pydantic", "python3-python-multipart", "python3-pyudev", "python3-rich"),
    *("python3-sh", "python3-starlette", "python3-typer", "python3-uvicorn", "sudo", "systemd"),
    *("systemd-sysv", "udev", "zstd"),
)

# What people and tests look at disks with, and encrypt them.
DISK_TOOLS = ("cryptsetup-bin", "dosfstools", "gdisk", "parted")

# What a test guest never opens: documentation, and drivers of hardware that no
# virtual machine has. dpkg leaves them out before depmod runs.
EXCLUDED = (
    *("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"),
    *("/usr/share/lintian/*", "/usr/share/bug/*", "/usr/share/grub/*", "/usr/lib/udev/hwdb.d/*"),
    "/usr/lib/git-core/git-http-push",
    *("/usr/lib/git-core/git-imap-send", "/usr/lib/git-core/git-http-backend"),
    *(
        f"/usr/lib/modules/*/kernel/{folder}/*"
        for folder in (
            *("sound", "drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/iio"),
            *("drivers/net/wireless", "drivers/net/ethernet", "drivers/net/can", "drivers/staging"),
            *("drivers/isdn", "drivers/bluetooth", "drivers/hwmon", "drivers/comedi"),
            *("drivers/scsi/[a-rt-u]*", "drivers/edac", "drivers/mtd", "drivers/input"),
            *("drivers/mfd", "drivers/rtc", "drivers/power", "drivers/leds", "drivers/thunderbolt"),
            *("drivers/usb/serial", "drivers/usb/gadget", "drivers/tty/serial/jsm"),
            *("net/bluetooth", "net/wireless", "net/mac80211", "net/can", "net/sctp", "net/tipc"),
            *("fs/btrfs", "fs/xfs", "fs/ocfs2", "fs/gfs2", "fs/ceph", "fs/smb", "fs/nfsd"),
            *("fs/bcachefs", "fs/jfs", "fs/f2fs", "fs/ntfs3", "fs/reiserfs", "fs/nilfs2"),
        )
    ),
)

# Every release: the serial console, a reboot instead of a hang, and no panic when a busy
# host lets the emulated timer stand still while the kernel tests it.
CMDLINE = (
    "console=tty0 console=ttyS0 quiet loglevel=4 panic=5 oops=panic mitigations=off no_timer_check"
)

# Each second of patience counts once a boot, and the tests boot often.
CONFIG = f"""\
[device]
compatible = "{COMPATIBLE}"
[confirm]
settle = 2
[health]
wait = 2
interval = 1
"""

# Files of a release whose page is reached over the network that QEMU gives.
PAGE = {
    "/usr/lib/systemd/system/abupdate-web.socket.d/10-network.conf": (
        b"[Socket]\nListenStream=\nListenStream=8080\n"
    ),
    "/usr/lib/systemd/system/multi-user.target.d/10-network.conf": (
        b"[Unit]\nWants=systemd-networkd.service\n"
    ),
    "/usr/lib/systemd/network/80-ethernet.network": b"[Match]\nType=ether\n[Network]\nDHCP=yes\n",
}

_MMDEBSTRAP_SECONDS = 1800.0


@dataclass(frozen=True)
class Release:
    """What makes a test release.

    `packages` come on top of every guest's own. `files` maps absolute paths to
    contents; a file under a `.d` folder of checks is made executable.
    """

    version: str
    kernel: str = CLOUD_KERNEL
    packages: tuple[str, ...] = ()
    cmdline: str = ""
    compatible: str = COMPATIBLE
    files: Mapping[str, bytes] = field(default_factory=dict)


def build(release: Release, allowed_signers: str) -> Path:
    """The root filesystem of a release, as a tar. `allowed_signers`: who may sign the next."""
    system = _system(_base(release.kernel, release.packages), allowed_signers)
    inputs = (system.name, release.version, release.cmdline, sorted(release.files.items()), CMDLINE)
    return cache.cached(
        "release", inputs, ".tar", lambda path: _write_release(release, system, path)
    )


def kernel(root: Path) -> Path:
    """The kernel of a root filesystem that `build` made, as a file."""

    def extract(path: Path) -> None:
        with tarfile.open(root) as archive:
            path.write_bytes(_content(archive, f"./boot/{_boot_files(archive)[0]}"))

    return cache.cached("kernel", (root.name,), "", extract)


def _base(kernel: str, packages: tuple[str, ...]) -> Path:
    """Layer 1."""
    wanted = sorted({*PACKAGES, *packages, kernel})
    hooks = [GUEST / name for name in ("base-essential", "base-customize")]
    sources = [
        *hooks,
        *(GUEST / f"initramfs{name}" for name in ("-hook", "-hang", "-open", ".conf")),
    ]
    sources += [cache.PROJECT / "initramfs", cache.PROJECT / "install.sh"]
    inputs = (SUITE, wanted, EXCLUDED, *sources)

    def make(path: Path) -> None:
        options = [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
        options += ["--variant=minbase", f"--include={','.join(wanted)}"]
        options += [f"--essential-hook={hooks[0]}", f"--customize-hook={hooks[1]}"]
        debian(options, path, {"ABUPDATE_PROJECT": str(cache.PROJECT)})

    return cache.cached("base", inputs, ".tar", make)


def _system(base: Path, allowed_signers: str) -> Path:
    """Layer 2."""
    project = cache.PROJECT
    sources = [project / name for name in ("abupdate", "healthcheck", "grub", "readonly")]
    sources += [project / "web", project / "rescue", project / "install.sh"]
    sources += [*(project / "installer").glob("abupdate-*")]
    sources += [GUEST / "files", GUEST / "units", GUEST / "system-customize"]

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            stage = Path(temporary, "stage")
            # mmdebstrap without root reads it as another user.
            Path(temporary).chmod(0o755)
            _stage(stage, allowed_signers)
            options = ["--variant=custom", "--skip=check/empty,setup,update,cleanup"]
            options += [
                "--setup-hook=tar --xattrs --xattrs-include=* --numeric-owner "
                f'-C "$1" -xpf "{base}"',
                f"--customize-hook={GUEST / 'system-customize'}",
            ]
            env = {"ABUPDATE_STAGE": str(stage), "ABUPDATE_PROJECT": str(project)}
            debian(options, path, env)

    return cache.cached("system", (base.name, allowed_signers, *sources), ".tar", make)


def debian(options: list[str], path: Path, env: dict[str, str], suite: str = SUITE) -> None:
    """What mmdebstrap makes with these options, as a tar."""
    # The suffix tells mmdebstrap the format.
    tar = path.with_name(f"{path.name}.tar")
    epoch = {"SOURCE_DATE_EPOCH": str(midnight())}
    run(
        ["mmdebstrap", *options, suite, tar],
        env={**env, **epoch, "TMPDIR": tempfile.gettempdir()},
        timeout=_MMDEBSTRAP_SECONDS,
    )
    tar.rename(path)


def midnight() -> int:
    """The beginning of this day (UTC), in seconds since the epoch."""
    now = int(time.time())
    return now - now % 86400


def _stage(stage: Path, allowed_signers: str) -> None:
    """The files of layer 2, in their places below `stage`."""
    vendor, tests = stage / "usr/lib/abupdate", stage / "usr/lib/abupdate-test"
    units = stage / "usr/lib/systemd/system"
    for folder in (vendor, tests, units):
        folder.mkdir(parents=True)
    for source, folder in (("files", tests), ("units", units)):
        for path in (GUEST / source).iterdir():
            shutil.copy(path, folder)
    (vendor / "config.toml").write_text(CONFIG)
    (vendor / "allowed_signers").write_text(allowed_signers)
    for path in [stage, *stage.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    run([cache.PROJECT / "install.sh", stage, "programs", "page"])
    # What the ESP's files are compared with, by `abupdate doctor`, and made of, by `provision`.
    make_images(vendor / "grub")
    for path in [stage, *stage.rglob("*")]:
        os.utime(path, (midnight(), midnight()), follow_symlinks=False)


def _write_release(release: Release, system: Path, path: Path) -> None:
    """Layer 3: the system's tar with this release's files in it, nothing else touched."""
    with tarfile.open(system) as source, tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        waiting = _release_files(release, source)
        folders = {member.name for member in source if member.isdir()}
        for member in source:
            content = waiting.pop(member.name.removeprefix("./"), None)
            if content is not None:
                out.addfile(_member(member.name, content, member.mtime), io.BytesIO(content))
            else:
                out.addfile(member, source.extractfile(member) if member.isreg() else None)
        for name, content in sorted(waiting.items()):
            for above in reversed(Path(name).parents[:-1]):
                if f"./{above}" not in folders:
                    folders.add(f"./{above}")
                    out.addfile(_folder(f"./{above}"))
            out.addfile(_member(f"./{name}", content, midnight()), io.BytesIO(content))


def _member(name: str, content: bytes, mtime: float) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), int(mtime)
    member.mode = 0o755 if Path(name).parent.suffix == ".d" else 0o644
    return member


def _folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, midnight()
    return member


def _release_files(release: Release, system: tarfile.TarFile) -> dict[str, bytes]:
    kernel, initrd = _boot_files(system)
    cmdline = f"{CMDLINE} {release.cmdline}".strip()
    digests = {
        name: hashlib.sha256(_content(system, f"./boot/{name}")).hexdigest()
        for name in (kernel, initrd)
    }
    version = f"IMAGE_ID={COMPATIBLE}\nIMAGE_VERSION={release.version}\n"
    return {
        "boot/abupdate.env": abupdate_env(f"/boot/{kernel}", f"/boot/{initrd}", cmdline),
        "boot/SHA256SUMS": sha256sums(digests),
        "usr/lib/os-release": _content(system, "./usr/lib/os-release") + version.encode(),
        **{path.lstrip("/"): content for path, content in release.files.items()},
    }


def _boot_files(system: tarfile.TarFile) -> tuple[str, str]:
    """Names of the kernel and initrd below /boot; there is one of each."""
    names = [Path(member.name).name for member in _below(system, "./boot/")]
    (kernel,) = [name for name in names if name.startswith("vmlinuz-")]
    (initrd,) = [name for name in names if name.startswith("initrd.img-")]
    return kernel, initrd


def _below(system: tarfile.TarFile, prefix: str) -> Iterator[tarfile.TarInfo]:
    return (member for member in system.getmembers() if member.name.startswith(prefix))


def _content(system: tarfile.TarFile, name: str) -> bytes:
    file = system.extractfile(name)
    assert file is not None
    return file.read()
