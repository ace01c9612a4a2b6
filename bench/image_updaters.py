"""What RAUC and SWUpdate install, and how: from a bundle file to a slot, each with its own program.

Debian's `rauc` and `swupdate`. `build` makes the files from an image, cached. The command lines
name no device: they mean the slot that `rauc_service` or `swupdate_slot` has set up, outside the
timed part, as a device has it when an update comes.

Formats: RAUC's docs/reference.rst (v1.8), SWUpdate's doc/source/sw-description.rst (2022.12).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cache

from abupdate.run import run
from bench.measure import Command

_LONG = 1800.0
_SECONDS_TO_START = 10.0

# Known before a slot exists: it is in the signed part of a .swu, and in Method.commands.
_FOLDER = Path("/run/abupdate-bench")
_SLOT = _FOLDER / "slot"
_BUS = _FOLDER / "bus"
_BUS_ADDRESS = f"DBUS_SYSTEM_BUS_ADDRESS=unix:path={_BUS}"

# Plain, not verity: that needs device-mapper, which not every kernel has. RAUC then hashes the
# whole bundle before it mounts it, where dm-verity would hash each block as it is read.
_MANIFEST = """\
[update]
compatible=bench
version=1

[bundle]
format=plain

[image.rootfs]
filename={name}
"""
_SQUASHFS = {"gzip": "-comp gzip", "zstd": "-comp zstd"}  # gzip is what RAUC does unless told

# The booted slot is never opened. A status file: else RAUC mounts the new slot and writes there.
_SYSTEM = """\
[system]
compatible=bench
bootloader=noop
mountprefix={folder}/mounted
statusfile={folder}/status

[keyring]
path={keyring}

[slot.rootfs.0]
device=/dev/null
type=ext4
bootname=A

[slot.rootfs.1]
device={device}
type=ext4
bootname=B
"""
_BUS_CONFIG = f"""\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={_BUS}</listen>
  <policy context="default">
    <allow user="root"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""

# Written as it arrives: else SWUpdate copies the image to TMPDIR first, and writes all twice.
_DESCRIPTION = """\
software =
{{
	version = "1.0";
	hardware-compatibility: [ "1.0" ];
	stable: {{
		copy2: {{
			images: (
				{{
					filename = "{name}";
					sha256 = "{sha256}";
					device = "{device}";
					type = "raw";
					installed-directly = true;{compressed}
				}}
			);
		}};
	}};
}}
"""
# The levels of Yocto's image_types.bbclass; -f because the image is a hard link.
_COMPRESS: dict[str, tuple[str, ...]] = {
    "none": (),
    "zlib": ("gzip", "-9", "-n", "-k", "-f"),
    "zstd": ("zstd", "-q", "-3"),
}
_SUFFIX = {"none": "", "zlib": ".gz", "zstd": ".zst"}


@dataclass(frozen=True)
class Bundles:
    """One image as each updater takes it, by compression; and what proves who signed it."""

    certificate: Path
    rauc: dict[str, Path]
    swupdate: dict[str, Path]


def build(image: Path) -> Bundles:
    """Make what is not there yet; five minutes the first time. Raises `ProgramError`."""
    signer = cache.cached("bench-signer", (), "", _signer)
    return Bundles(
        signer / "cert.pem",
        {name: _raucb(image, signer, name) for name in _SQUASHFS},
        {name: _swu(image, signer, name) for name in _COMPRESS},
    )


def rauc_install(bundle: Path) -> tuple[Command, ...]:
    """Within `rauc_service`. RAUC flushes the device itself."""
    return (("env", _BUS_ADDRESS, "rauc", "install", bundle),)


def swupdate_install(swu: Path, certificate: Path) -> tuple[Command, ...]:
    """Within `swupdate_slot`.

    SWUpdate flushes nothing: its data is written when it closes the device, but may still be in
    the disk's cache. Hence `sync`. Debian's build takes signed files only.
    """
    return (
        ("env", f"TMPDIR={_FOLDER}", "swupdate", "-H", "bench:1.0", "-e", "stable,copy2",
         "-k", certificate, "-i", swu),
        ("sync", _SLOT),
    )  # fmt: skip


@contextmanager
def rauc_service(device: Path, certificate: Path) -> Iterator[int]:
    """A D-Bus of its own and RAUC's service on it, with `device` as the slot that is not booted.

    Gives the process id of the service: it does the work, `rauc install` only waits for it.
    Raises `OSError` when either does not start.
    """
    with _folder() as folder:
        config, bus_config = folder / "system.conf", folder / "bus.conf"
        config.write_text(_SYSTEM.format(folder=folder, keyring=certificate, device=device))
        bus_config.write_text(_BUS_CONFIG)
        bus = ("dbus-daemon", f"--config-file={bus_config}", "--nofork", "--nopidfile")
        service = ("env", _BUS_ADDRESS, "rauc", f"--conf={config}", "service",
                   "--override-boot-slot=A")  # fmt: skip
        log = folder / "log"
        with (
            _running(bus, log, ("test", "-S", str(_BUS))),
            _running(service, log, ("env", _BUS_ADDRESS, "rauc", "status")) as pid,
        ):
            yield pid


@contextmanager
def swupdate_slot(device: Path) -> Iterator[None]:
    """`device` under the name that a .swu of ours writes to."""
    with _folder():
        _SLOT.symlink_to(device)
        yield


@contextmanager
def _folder() -> Iterator[Path]:
    shutil.rmtree(_FOLDER, ignore_errors=True)  # of a run that was killed
    _FOLDER.mkdir(mode=0o700)
    try:
        yield _FOLDER
    finally:
        shutil.rmtree(_FOLDER)


@contextmanager
def _running(command: Sequence[str], log: Path, answers: Sequence[str]) -> Iterator[int]:
    """A daemon, from when the command `answers` succeeds; gives its process id."""
    with log.open("ab") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            end = time.monotonic() + _SECONDS_TO_START
            while subprocess.run(answers, capture_output=True, check=False).returncode != 0:
                if process.poll() is not None or time.monotonic() > end:
                    text = log.read_text(errors="replace")
                    raise OSError(f"{command[-2:]} does not answer:\n{text}")
                time.sleep(0.02)
            yield process.pid
        finally:
            process.terminate()


def _signer(path: Path) -> None:
    """A key, and a certificate that is its own authority."""
    path.mkdir()
    run(["openssl", "req", "-x509", "-newkey", "rsa:4096", "-nodes", "-days", "36500",
         "-subj", "/O=abupdate/CN=bench", "-keyout", path / "key.pem", "-out", path / "cert.pem"],
        timeout=_LONG)  # fmt: skip


def _key(image: Path, signer: Path, *more: object) -> tuple[object, ...]:
    """An image is known by its folder in the cache, as everywhere here; the signer by content."""
    return (image.parent.name, image.name, signer / "cert.pem", *more)


def _raucb(image: Path, signer: Path, compression: str) -> Path:
    arguments = _SQUASHFS[compression]
    certificate = signer / "cert.pem"

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            os.link(image, Path(name) / image.name)
            (Path(name) / "manifest.raucm").write_text(_MANIFEST.format(name=image.name))
            run(["rauc", f"--keyring={certificate}", "bundle", f"--cert={certificate}",
                 f"--key={signer / 'key.pem'}", f"--mksquashfs-args={arguments}", name, path],
                timeout=_LONG)  # fmt: skip

    key = _key(image, signer, _MANIFEST, arguments)
    return cache.cached("bench-rauc", key, ".raucb", make)


def _swu(image: Path, signer: Path, compression: str) -> Path:
    program = _COMPRESS[compression]

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            folder = Path(name)
            os.link(image, folder / image.name)
            payload = folder / f"{image.name}{_SUFFIX[compression]}"
            if program:
                run([*program, folder / image.name], timeout=_LONG)
            _describe(folder / "sw-description", payload, signer, compression)
            # In this order: SWUpdate reads it as a stream.
            names = f"sw-description\nsw-description.sig\n{payload.name}\n"
            run(["cpio", "--quiet", "-o", "-H", "crc", "-O", path], stdin=names.encode(),
                cwd=folder, timeout=_LONG)  # fmt: skip

    key = _key(image, signer, _DESCRIPTION, _SLOT.as_posix(), program)
    return cache.cached("bench-swupdate", key, ".swu", make)


def _describe(to: Path, payload: Path, signer: Path, compression: str) -> None:
    """The description, signed; the hash in it stands for the image."""
    with payload.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    how = "" if compression == "none" else f'\n\t\t\t\t\tcompressed = "{compression}";'
    to.write_text(
        _DESCRIPTION.format(name=payload.name, sha256=digest, device=_SLOT, compressed=how)
    )
    run(["openssl", "cms", "-sign", "-binary", "-nosmimecap", "-outform", "DER", "-md", "sha256",
         "-in", to, "-out", f"{to}.sig",
         "-signer", signer / "cert.pem", "-inkey", signer / "key.pem"])  # fmt: skip
