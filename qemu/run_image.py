"""The disk of a device in a virtual machine: to be used, or to try a release on.

    run [DISK]           its console on this terminal; port 8080 of this machine is the device's
    test [BUNDLE]        a device is updated to that release, then falls back from another one

DISK: what the Yocto build made (IMAGE.wic), or any image of `abupdate provision`. Left out, it is
made with release 1 of the demo's Debian, which needs root; BUNDLE left out is its release 2. `run`
works on a copy, which stays: the next run goes on where this one ended, and `--fresh` begins again.
UEFI unless told; KVM where a guest really runs with it. `run-efi.sh` and `run-bios.sh` are covers
of `run`.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cache
import demo_parts
import device
import guest
import publisher
import release_test
from demo import DifferentError
from network import PORT, network
from serial_console import VMError
from vm import VM, Disk, Firmware, accelerator

from abupdate.boot.cmdline import parse_abupdate_env
from abupdate.disk import gpt
from abupdate.disk.layout import Slot
from abupdate.errors import AbupdateError, UsageError
from abupdate.run import run

MEMORY = 1024
LOGIN = r"login: ?$"
_LOGIN_SECONDS = 600.0
_SECTOR = 512


def kept_copy(disk: Path, *, fresh: bool = False) -> Path:
    """The copy of a disk that runs, made the first time; changes stay in it."""
    if not disk.is_file():
        raise UsageError(
            f"The image of a disk was expected at {disk}, there is none.",
            "`kas build` makes IMAGE.wic in build/tmp/deploy/images; `abupdate provision` others.",
        )
    folder = cache.directory() / "machines"
    folder.mkdir(exist_ok=True)
    copy = folder / f"{disk.absolute().as_posix().strip('/').replace('/', '_')}.img"
    if fresh or not copy.exists():
        unfinished = copy.with_suffix(".new")
        device.copy(disk, unfinished)
        unfinished.rename(copy)
    return copy


def kernel(disk: Path, out: Path) -> Path:
    """The kernel of a disk's slot A, as a file. Raises `UsageError` where there is none."""
    table = gpt.read(disk, _SECTOR)
    entries = table.entries if table is not None else ()
    start = next((one.extent.start for one in entries if one.name == Slot.A.label), None)
    if start is None:
        raise UsageError(
            f"A disk of a device was expected at {disk}: it has no partition '{Slot.A.label}'."
        )
    # Format of the name: e2fsprogs, lib/ext2fs/unix_io.c and openfs.c.
    part = f"{disk}?offset={start}"
    env = run(["debugfs", "-R", "cat /boot/abupdate.env", part]).stdout
    run(["debugfs", "-R", f"dump {parse_abupdate_env(env).kernel} {out}", part])
    return out


def _demo(*releases: guest.Release) -> tuple[Path, Path]:
    """The disk of a device with the first of them, and the full bundle of the last."""
    series = publisher.publish(releases)
    bundles = [series.bundle(release.version) for release in releases]
    return device.build(bundles[0], publisher.key().allowed_signers), bundles[-1]


def _run(told: argparse.Namespace) -> int:
    password = secrets.token_hex(4) if told.disk is None else None
    disk = kept_copy(told.disk or _demo(demo_parts.ONE)[0], fresh=told.fresh)
    with tempfile.TemporaryDirectory() as folder:
        accel = accelerator(lambda: kernel(disk, Path(folder, "kernel")))
    print(f"Disk {disk}, {told.firmware}, {accel}; http://localhost:{told.port}/ is the device's.")
    if password is not None:
        print(f"Log in as demo with the password {password}.")
    with VM(
        [Disk(disk, bootindex=1)],
        firmware=told.firmware,
        accel=accel,
        memory=told.memory,
        password=password,
        display=told.display,
        extra=network(told.port),
    ) as vm:
        if told.until_login:
            return _until_login(vm)
        print("Ctrl-a x switches off.", flush=True)
        return vm.run_on_terminal()


def _until_login(vm: VM) -> int:
    vm.start()
    line = vm.serial.wait_for(LOGIN, _LOGIN_SECONDS)
    print(f"Seen on the serial port: {line.string.strip()}")
    return 0


def _test(told: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(dir=cache.directory(), prefix=".test-") as name:
        folder = Path(name)
        before, bundle = _tested(told)
        disk = device.copy(before, folder / "disk.img")
        accel = accelerator(lambda: kernel(disk, folder / "kernel"))
        extra = network(0)
        release_test.play(bundle, disk, folder, told.firmware, accel, told.memory, extra)
    return 0


def _tested(told: argparse.Namespace) -> tuple[Path, Path]:
    """The disk of the device to update, and the bundle. Raises `UsageError`."""
    if told.bundle is None:
        return _demo(demo_parts.ONE, demo_parts.TWO)
    if told.disk is None and (told.old is None or told.signers is None):
        raise UsageError(
            "A device to update was expected, found none.",
            "Say --disk IMAGE, or --from BUNDLE with --signers FILE.",
        )
    for path in (told.bundle, told.disk or told.old):
        if not path.is_file():
            raise UsageError(f"A file was expected at {path}, there is none.")
    return told.disk or device.build(told.old, told.signers), told.bundle


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    use = verbs.add_parser("run", help="a console on this terminal")
    use.add_argument("disk", type=Path, nargs="?")
    use.add_argument("--fresh", action="store_true", help="forget what earlier runs changed")
    use.add_argument("--port", type=int, default=PORT, help="of this machine; 0: none")
    use.add_argument("--display", default="none", help="gtk, sdl, vnc=…")
    use.add_argument("--until-login", action="store_true", help="end at the login prompt")
    test = verbs.add_parser("test", help="update, confirm, fall back")
    test.add_argument("bundle", type=Path, nargs="?")
    test.add_argument("--disk", type=Path, help="of a device with another release")
    test.add_argument("--from", dest="old", type=Path, help="full bundle of another release")
    test.add_argument("--signers", type=Path, help="allowed_signers, with --from")
    for one in (use, test):
        firmware: tuple[Firmware, ...] = ("uefi", "bios")
        one.add_argument("--firmware", choices=firmware, default="uefi")
        one.add_argument("--memory", type=int, default=MEMORY, help="MiB")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Do what is asked; the exit code."""
    told = _arguments(argv)
    try:
        return _run(told) if told.verb == "run" else _test(told)
    except (AbupdateError, DifferentError, VMError) as error:
        print(error, file=sys.stderr)
        if isinstance(error, AbupdateError) and error.hint:
            print(error.hint, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
