"""Root filesystems of small rescue systems, and their bundles."""

from __future__ import annotations

from pathlib import Path

from abupdate.cli.main import main
from abupdate.rescue.release import product
from tests.grub.grubbox import build_probe, write_boot_files
from tests.slots.rootfs import PRODUCT, make_rootfs


def make_rescue(top: Path, version: str, scratch: Path) -> Path:
    """What `rescue update` asks for; its kernel is the probe, named `kernel-R`."""
    rootfs = make_rootfs(top, version)
    generators = rootfs / "usr/lib/systemd/system-generators"
    generators.mkdir(parents=True)
    (generators / "abupdate-rescue-generator").write_text("#!/bin/sh\n")
    for name in ("usr/bin/abupdate", "usr/lib/abupdate/abupdate-mount"):
        (rootfs / name).write_text("\n")
    (rootfs / "boot").rmdir()
    write_boot_files(rootfs / "boot", "R", build_probe(scratch))
    return rootfs


def bundle_rescue(top: Path, rootfs: Path, version: str, compatible: str = "") -> Path:
    """Published with the keys in `top`; for the tests' product unless told."""
    repo = ["--repo", str(top / "rescue-publisher"), "--version", version]
    bundle = top / f"rescue-{version}.bundle"
    for words in (
        ["commit", str(rootfs), *repo, "--compatible", compatible or product(PRODUCT)],
        ["sign", *repo, "--key", str(top / "keys/release")],
        ["bundle", *repo, "-o", str(bundle)],
    ):
        assert main(["publish", *words]) == 0
    return bundle
