"""The disk of a new device: release 1 in slot A and in the store, slot B empty.

Everything on it was made by the code that runs on devices: the bundle goes
through quarantine and signature check into the store, the slot is
materialised from the store, GRUB's files are written by `disk/` and `boot/`.
Needs root: a slot holds owners, devices and capabilities.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cache
from guest import STORE_UID
from image import DiskImage, Sizes, scratch
from secure_boot import Signed

from abupdate.boot.state import provision
from abupdate.bundle.read import Incoming
from abupdate.config import BootSection
from abupdate.disk.layout import DATA, RESCUE, Slot
from abupdate.events import Events
from abupdate.run import run
from abupdate.signing.signature import Verified
from abupdate.signing.signers import TrustFiles
from abupdate.signing.threshold import believe
from abupdate.store.content import open_commit
from abupdate.store.materialise.apply import materialise
from abupdate.store.repository import Repository
from abupdate.update.records import HistoryEntry, Records, SlotRecord, SlotState, now

_MAX_BUNDLE = 2 << 30


@dataclass(frozen=True)
class Received:
    """A release in the store of the new device."""

    verified: Verified
    tag: str


def build(
    bundle: Path,
    allowed_signers: Path,
    sizes: Sizes | None = None,
    *,
    signed: Signed | None = None,
) -> Path:
    """The disk, from the full bundle of its first release; cached.

    `signed`: what starts it under Secure Boot. Copy it before use (`copy`): a
    machine writes to its disk.
    """
    sizes = sizes or Sizes()
    project = cache.PROJECT
    sources = [project / "abupdate", project / "grub", project / "qemu" / "image.py"]
    loaders = () if signed is None else (signed.shim, signed.grub)
    inputs = (bundle, allowed_signers, sizes, Path(__file__), *sources, *loaders)
    return cache.cached(
        "disk", inputs, ".img", lambda path: _build(path, bundle, allowed_signers, sizes, signed)
    )


def copy(disk: Path, target: Path) -> Path:
    """A disk of one's own, holes kept; quick where the filesystem shares blocks."""
    run(["cp", "--sparse=always", "--reflink=auto", disk, target], timeout=600)
    return target


def _build(
    path: Path, bundle: Path, allowed_signers: Path, sizes: Sizes, signed: Signed | None
) -> None:
    defaults = BootSection()
    with scratch(path) as folder:
        data, tree = folder / "data", folder / "tree"
        tree.mkdir()
        store = Repository.create(_directory(data / "abupdate") / "store.git")
        release = _receive(bundle, store, TrustFiles((allowed_signers,)))
        verified = release.verified
        with open_commit(store, verified.commit, verified.manifest_sha256) as content:
            materialise(content, store, tree, Events())
        disk = DiskImage.create(path, sizes)
        uuid = disk.add_ext4(Slot.A.label, Slot.A.label, tree)
        disk.add_ext4(Slot.B.label, Slot.B.unfinished_label)
        disk.add_ext4(RESCUE, "empty")
        _write_records(data, release, uuid)
        disk.add_ext4(DATA, DATA, data)
        disk.add_boot(provision(defaults.tries, defaults.limit), signed)


def _receive(bundle: Path, store: Repository, trust: TrustFiles) -> Received:
    with (
        bundle.open("rb") as file,
        Incoming(file, store, _MAX_BUNDLE, Events()).receive() as received,
    ):
        tag = received.tag_oid
        verified = believe(received.statement, trust, 0)
        received.join()
    # It belongs to root here; a device makes its own.
    shutil.rmtree(store.path.parent / "spool")
    return Received(verified, tag)


def _write_records(data: Path, release: Received, uuid: str) -> None:
    """What an install would have left on the data partition, had there been one before."""
    verified, when = release.verified, now()
    version = str(verified.version)
    record = SlotRecord(
        slot=Slot.A,
        state=SlotState.CLEAN,
        release=version,
        commit=verified.commit,
        manifest_sha256=verified.manifest_sha256,
        tag=release.tag,
        signer=verified.signer,
        uuid=uuid,
        written=when,
    )
    records = Records(data / "abupdate")
    records.write_slot(replace(record, confirmed=when))
    records.append(HistoryEntry("provisioned", when, version, Slot.A))
    trust = _directory(data / "abupdate" / "trust")
    (trust / "newest").write_text(f"{verified.tagger_time}\n")
    for folder in (data / "etc" / Slot.A / "upper", data / "etc" / Slot.A / "work", data / "state"):
        _directory(folder)
    store = data / "abupdate" / "store.git"
    for path in [store, *store.rglob("*")]:
        os.chown(path, STORE_UID, STORE_UID)


def _directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
