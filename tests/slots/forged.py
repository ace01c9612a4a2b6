"""Signed releases that no publisher of ours would make."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from abupdate.signing.signature import sign
from tests.slots.device import Device
from tests.slots.rootfs import PRODUCT, make_rootfs

# Path to mode and blob.
Tree = dict[str, tuple[str, str]]


def forged_release(device: Device, version: str, forge: Callable[[Tree], None]) -> Path:
    """A signed release whose commit has another tree than its manifest says."""
    repo = ("--repo", device.publisher, "--version", version)
    rootfs = make_rootfs(device.top / f"rootfs-{version}", version)
    device.publish("commit", rootfs, *repo, "--compatible", PRODUCT)
    device.publish("sign", *repo, "--key", device.top / "keys/release")
    ref = f"refs/tags/release/{version}"
    signed, good = git(device, "cat-file", "tag", ref), git(device, "rev-parse", f"{ref}^{{}}")
    payload = signed.partition(b"-----BEGIN")[0].replace(good.strip(), _forged(device, ref, forge))
    raw = sign(payload, device.top / "keys/release")
    tag = git(device, "hash-object", "-t", "tag", "-w", "--stdin", stdin=raw).strip()
    git(device, "update-ref", ref, tag.decode())
    device.publish("bundle", *repo, "-o", device.top / f"{version}.bundle")
    return device.top / f"{version}.bundle"


def _forged(device: Device, ref: str, forge: Callable[[Tree], None]) -> bytes:
    """The commit of a release with another tree."""
    tree: Tree = {}
    for record in git(device, "ls-tree", "-rz", ref).split(b"\0")[:-1]:
        info, _, path = record.partition(b"\t")
        mode, _, oid = info.decode().split()
        tree[os.fsdecode(path)] = (mode, oid)
    forge(tree)
    index = {"GIT_INDEX_FILE": str(device.top / "index")}
    lines = b"".join(
        f"{mode} {oid}\t".encode() + os.fsencode(path) + b"\0" for path, (mode, oid) in tree.items()
    )
    git(device, "read-tree", "--empty", env=index)
    git(device, "update-index", "-z", "--index-info", stdin=lines, env=index)
    wanted = git(device, "write-tree", env=index).strip()
    raw = git(device, "cat-file", "commit", f"{ref}^{{}}")
    raw = raw.replace(git(device, "rev-parse", f"{ref}^{{tree}}").strip(), wanted)
    return git(device, "hash-object", "-t", "commit", "-w", "--stdin", stdin=raw).strip()


def git(
    device: Device, *words: str, stdin: bytes = b"", env: dict[str, str] | None = None
) -> bytes:
    return subprocess.run(
        ["git", "--git-dir", device.publisher, *words],
        check=True, input=stdin, stdout=subprocess.PIPE, env={**os.environ, **(env or {})},
    ).stdout  # fmt: skip
