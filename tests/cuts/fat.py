"""A machine that has nothing but Linux, vfat and this Python: userland writes its ESP there.

The host's kernel may know no vfat, and a whole guest takes half a minute to start; this one
takes ten seconds. Its files are those that the same imports loaded here.
"""

from __future__ import annotations

import io
import json
import lzma
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path

import cache
import write_log
from guest import CLOUD_KERNEL, SUITE

from abupdate.run import run
from tests.grub.grubbox import Disk

_INIT = Path(__file__).with_name("fat_init.py")
_MODULES = ("virtio_blk", "fat", "vfat", "nls_cp437", "nls_ascii")
_SECONDS = 180
_DOWNLOAD_SECONDS = 900.0
_LIST = """
import sys
sys.path[:0] = {path!r}
import encodings.ascii, encodings.idna, encodings.latin_1, encodings.unicode_escape
import {init}
files = {{getattr(module, "__file__", None) for module in sys.modules.values()}}
print("\\n".join(sorted(files - {{None}})))
"""


@dataclass(frozen=True)
class Told:
    """What userland said, what it warned of, and the files of data afterwards."""

    said: str | None
    warnings: list[str]
    data: Mapping[str, str]


def userland(
    disk: Disk,
    log: Path,
    *,
    release: bytes,
    runs: str,
    data: Mapping[str, str],
    doctor: bool = False,
    broken: str = "",
) -> Told:
    """Let a healthy boot do its part on a disk (see `fat_init`); its writes go to `log`."""
    asked: dict[str, object] = {"data": dict(data), "release": release.decode(), "runs": runs}
    asked |= {"doctor": doctor, "broken": broken}
    kernel, base = _parts()
    initrd = log.with_name("initrd")
    # An initrd may be several archives, one behind the other.
    initrd.write_bytes(base + archive({"asked.json": (json.dumps(asked).encode(), 0o100644)}))
    python = Path(sys.executable).resolve()
    # The largest CPU has a source of random numbers; Python wants some at once.
    words = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-reboot"]
    words += ["-m", "512", "-display", "none", "-serial", "stdio", "-kernel", str(kernel)]
    words += ["-initrd", str(initrd), "-drive"]
    words += [f"if=none,id=disk,format=raw,{write_log.drive_options(disk.image, log)}"]
    words += ["-device", "virtio-blk-pci,drive=disk", "-append"]
    told = "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off"
    words += [f"{told} rdinit={python} -- -S -I -B /{_INIT.name}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    initrd.unlink()
    found = re.search(r"^TOLD (.*)$", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout + done.stderr
    return Told(**json.loads(found[1]))


def archive(
    files: Mapping[str, tuple[bytes, int]], times: Mapping[str, int] | None = None
) -> bytes:
    """For the kernel: cpio in the format newc (initramfs buffer format). Folders come first."""
    entries: dict[str, tuple[bytes, int]] = {}
    for name, entry in files.items():
        for parent in reversed(Path(name).parents[:-1]):
            entries.setdefault(str(parent), (b"", 0o040755))
        entries[name] = entry
    out = io.BytesIO()
    for name, (content, mode) in [*entries.items(), ("TRAILER!!!", (b"", 0))]:
        path = name.encode() + b"\0"
        when = (times or {}).get(name, 0)
        # inode, mode, uid, gid, links, mtime, size, device, special device, length of name, check
        fields = (0, mode, 0, 0, 1, when, len(content), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        for raw in (head, content):
            out.write(raw + bytes(-len(raw) % 4))
    return out.getvalue()


@once
def _parts() -> tuple[Path, bytes]:
    """The kernel, and the archive of all that every start needs."""
    folder = cache.cached("fat-kernel", (SUITE, CLOUD_KERNEL, _MODULES), "", _extract)
    files = {f"modules/{name}": (folder / name).read_bytes() for name in _MODULES}
    found = {name: (raw, 0o100644) for name, raw in files.items()}
    found["modules/order"] = ("\n".join(_MODULES).encode(), 0o100644)
    found[_INIT.name] = (_init_text(), 0o100644)
    times = {}
    for path in _needed():
        name = str(path).lstrip("/")
        found[name] = (path.read_bytes(), 0o100755)
        times[name] = int(path.stat().st_mtime)
    return folder / "vmlinuz", archive(found, times)


def _init_text() -> bytes:
    """The program, which finds modules where they are here."""
    paths = [path for path in (*sys.path, str(cache.PROJECT)) if path and Path(path).is_dir()]
    first = f"import sys\nsys.path[:0] = {paths!r}\n"
    text = _INIT.read_text()
    future = "from __future__ import annotations\n"
    return text.replace(future, future + first, 1).encode()


def _needed() -> Iterable[Path]:
    """Python, what it loads for that program, `mount` and `umount`, and their libraries."""
    paths = [path for path in (str(_INIT.parent), *sys.path, str(cache.PROJECT)) if path]
    code = _LIST.format(path=paths, init=_INIT.stem)
    words = [sys.executable, "-S", "-c", code]
    told = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    modules = [Path(line) for line in told.stdout.splitlines()]
    python = Path(sys.executable).resolve()
    programs = [Path("/usr/bin/mount"), Path("/usr/bin/umount"), python]
    landmarks = [python.parents[1] / f"lib/python3.{sys.version_info.minor}/os.py"]
    found = {*modules, *programs, *landmarks}
    found |= {cached for path in modules if (cached := _compiled(path)).is_file()}
    for path in [*programs, *(path for path in modules if path.suffix == ".so")]:
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        found |= {Path(word) for word in re.findall(r"(/\S+) \(0x", listed)}
    return sorted(path for path in found if path.is_file())


def _compiled(path: Path) -> Path:
    return path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"


def _extract(path: Path) -> None:
    tar = path.with_name(f"{path.name}.tar")
    options = ["--variant=extract", f"--include={CLOUD_KERNEL}"]
    run(["mmdebstrap", *options, SUITE, tar], timeout=_DOWNLOAD_SECONDS)
    path.mkdir()
    run(["tar", "-C", path, "--wildcards", "-xf", tar, "./boot/vmlinuz*", "*.ko.xz"])
    tar.unlink()
    keep(path)


def keep(path: Path) -> None:
    """Of a folder with Debian's files, the kernel and the modules that are needed."""
    (kernel,) = path.glob("boot/vmlinuz*")
    kernel.rename(path / "vmlinuz")
    for name in _MODULES:
        (module,) = path.rglob(f"{name}.ko.xz")
        (path / name).write_bytes(lzma.decompress(module.read_bytes()))
    for folder in path.iterdir():
        if folder.is_dir():
            subprocess.run(["rm", "-rf", folder], check=True)
