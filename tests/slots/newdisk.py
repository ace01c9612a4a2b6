"""A publisher with a release for new disks, and what is asked of a disk that was made."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from abupdate.cli.main import main
from abupdate.disk.drive import Drive, look, loops_of
from abupdate.disk.layout import MIB
from abupdate.disk.partition import Extent
from abupdate.paths import Paths
from abupdate.update.slots import Machine
from tests.grub.grubbox import build_probe, write_boot_files
from tests.slots.rootfs import PRODUCT, make_rootfs

SIZE = 160 * MIB
# A hundredth of a device's.
LAYOUT = """\
[[partition]]
name = "bios"
[[partition]]
name = "boot"
size = "16 MiB"
[[partition]]
name = "rescue"
size = "8 MiB"
[[partition]]
name = "rootA"
size = "32 MiB"
[[partition]]
name = "rootB"
size = "32 MiB"
[[partition]]
name = "data"
"""


@dataclass(frozen=True)
class Factory:
    """Where disks are made. `run` gives exit codes."""

    top: Path

    @property
    def bundle(self) -> Path:
        """Release 1."""
        return self.top / "1.bundle"

    @property
    def signers(self) -> Path:
        """Whom to believe."""
        return self.top / "keys/allowed_signers"

    @property
    def layout(self) -> Path:
        """A layout file for small disks."""
        return self.top / "layout.toml"

    def run(self, *argv: str | Path) -> int:
        """One `abupdate` command, on a machine that has nothing of its own."""
        machine = Machine(Paths(root=self.top / "machine", runtime=self.top / "run"))
        return main([str(word) for word in argv], machine=machine)

    def provision(self, disk: Path, *options: str | Path, release: str | Path = "") -> int:
        """`abupdate provision` of release 1 with the small layout; an option given here wins."""
        defaults: list[str | Path] = [] if "--layout" in options else ["--layout", self.layout]
        defaults += [] if "--signers" in options else ["--signers", self.signers]
        return self.run("provision", disk, release or self.bundle, *defaults, *options)


def make_factory(top: Path) -> Factory:
    """Release 1 boots in GRUB (its kernel is the probe), and can be updated."""
    factory = Factory(top)
    (top / "machine").mkdir()
    factory.layout.write_text(LAYOUT)
    assert main(["publish", "keygen", "--out", str(top / "keys")]) == 0
    rootfs = make_rootfs(top / "rootfs", "1")
    shutil.copy(factory.signers, rootfs / "usr/lib/abupdate/allowed_signers")
    shutil.rmtree(rootfs / "boot")
    write_boot_files(rootfs / "boot", "A", build_probe(top))
    os.utime(rootfs / "etc/release", ns=(0, 1_700_000_000_123_456_789))
    os.utime(rootfs / "usr/bin/tool", (0, 5_000_000_000))  # beyond 32 bits
    publish(factory, rootfs, "1")
    return factory


def publish(factory: Factory, rootfs: Path, version: str, *options: str) -> Path:
    """Publish a root filesystem, and bundle it."""
    repo = ["--repo", str(factory.top / "store.git"), "--version", version]
    bundle = factory.top / f"{version}.bundle"
    for words in (
        ["commit", str(rootfs), *repo, "--compatible", PRODUCT, *options],
        ["sign", *repo, "--key", str(factory.top / "keys/release")],
        ["bundle", *repo, "-o", str(bundle)],
    ):
        assert main(["publish", *words]) == 0
    return bundle


def extents(disk: Path, sector: int = 512) -> dict[str, Extent]:
    """Name → where, of the partitions of an image."""
    return {one.entry.name: one.entry.extent for one in look(disk, sector).partitions}


def drive(disk: Path) -> Drive:
    return look(disk)


@contextmanager
def mounted(disk: Path, extent: Extent, at: Path, options: str = "ro") -> Iterator[Path]:
    """A partition of an image."""
    at.mkdir(exist_ok=True)
    where = f"loop,offset={extent.start},sizelimit={extent.size},{options}"
    subprocess.run(["mount", "-o", where, disk, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)
        until_free(disk)


def until_free(disk: Path) -> None:
    """Wait until no loop device has an image: what reads all disks of this machine, in a test
    beside this one, holds it for some moments after its umount."""
    until = time.monotonic() + 30
    while found := loops_of(disk):
        assert time.monotonic() < until, f"{found} of {disk} stay attached"
        time.sleep(0.02)


def part(disk: Path, extent: Extent, to: Path) -> Path:
    """A partition's bytes as a file."""
    with disk.open("rb") as source, to.open("wb") as target:
        source.seek(extent.start)
        target.write(source.read(extent.size))
    return to


def refused(
    factory: Factory, capsys: pytest.CaptureFixture[str], code: int, said: str, *argv: str | Path
) -> str:
    """A provision that must end so; the whole of what it said."""
    capsys.readouterr()
    found = factory.provision(*argv)  # type: ignore[arg-type]
    told = capsys.readouterr()
    assert (found, said in told.err) == (code, True), told.err
    assert "Traceback" not in told.err
    return told.err
