"""One disk content that a power cut left: booted by real GRUB, and looked at.

What must hold, whatever is on the disk (docs/promises.md): GRUB boots, as the
rules say it does; what it boots, and whatever it may boot later, equals a
release; nothing that was confirmed is lost; the user's data is whole.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from abupdate.boot.grubenv import LostError, decode
from abupdate.boot.state import RESCUE as RESCUE_NAME
from abupdate.boot.state import BootState, GrubBoot, Ustate, grub
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import RESCUE, Slot
from abupdate.errors import AbupdateError
from abupdate.events import Events
from abupdate.store.content import open_commit
from abupdate.store.materialise.plan import Plan, plan_from
from abupdate.store.repository import Repository
from abupdate.store.verify import compare, describe
from abupdate.update.records import Records, SlotState
from tests.cuts.record import SIZES, USER, Phase
from tests.cuts.releases import Releases
from tests.cuts.states import Content
from tests.grub.grubbox import NOTHING_BOOTS, Disk, boot

_PARTS = {"esp": 2, "R": 3, "A": 4, "B": 5, "data": 6}
_SLOTS = ("A", "B")
_LABELS = {slot: Slot(slot).label for slot in _SLOTS} | {RESCUE_NAME: RESCUE}
_T = TypeVar("_T")


_States = tuple[BootState | None, BootState | None]


@dataclass
class _Kept:
    """What is on the data partition: states of the slots, for which slot the intent is, its end."""

    faults: list[str] = field(default_factory=list)
    slots: dict[str, str] = field(default_factory=dict)
    intent: str = ""
    given_up: bool = False


@dataclass(frozen=True)
class Finding:
    """What a state came to: which slot boots and how, and all that is wrong with it."""

    outcome: str
    faults: tuple[str, ...]


class Judge:
    """Judges states of one phase, each content of a partition once. Needs root."""

    def __init__(self, phase: Phase, releases: Releases, folder: Path) -> None:
        self._phase = phase
        self._folder = folder
        self._disk = Disk(phase.before, SIZES.partitions()).copy(folder / "disk.img")
        self._releases = releases
        self._plans = _plans(releases.store, releases.commits())
        self._plans |= _plans(releases.rescue_store, releases.rescue_commits())
        self._file = self._disk.image.open("r+b")
        self.content = Content(
            mmap.mmap(self._file.fileno(), 0),
            {
                name: range(extent.start, extent.start + extent.size)
                for name, number in _PARTS.items()
                for extent in [self._disk.extents[number - 1]]
            },
        )
        self._known: dict[tuple[object, ...], object] = {}
        start = self._copy("grubenv")
        assert start is not None
        self._start = start
        self._keeps = self._kept()
        # Lost before the phase; the boot state may still name them.
        self._lost = {slot for slot in _SLOTS if not self._release(slot)[0]}

    def look(self) -> Finding:
        """Judge the content as it is now, and leave it so."""
        keys = self.content.keys()
        loads = {slot for slot in _LABELS if self._release(slot)[0]}
        states = self._once(("states", keys["esp"]), self._states)
        expected = grub(*states, loads)
        places = (keys["esp"], *(keys[slot] for slot in _LABELS))
        outcome, differs = self._once(("boot", *places), lambda: self._booted(expected))
        faults = [*differs, *self._once(("slots", *places), lambda: self._offered(states))]
        kept = self._once(("data", keys["data"]), self._data)
        faults += [*kept.faults, *self._on_record(states, kept)]
        return Finding(outcome, tuple(faults))

    def _once(self, key: tuple[object, ...], find: Callable[[], _T]) -> _T:
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]  # type: ignore[return-value]

    def _states(self) -> _States:
        return self._copy("grubenv"), self._copy("grubenv.bak")

    def _copy(self, name: str) -> BootState | None:
        try:
            return decode(self._disk.read_boot(f"grub/{name}"))
        except (LostError, AssertionError):
            return None

    def _kept(self) -> str:
        """The slots that must stay good: all that are, but for one that an install writes to."""
        written = {
            _written(words, self._phase.step.boot.slot) for words in self._phase.step.commands
        }
        return "".join(slot for slot in _SLOTS if slot in self._start.good and slot not in written)

    def _booted(self, expected: GrubBoot) -> tuple[str, list[str]]:
        """Switch it on; what came up, and whether that is what the rules say."""
        before = self.content.read("esp")
        try:
            found = boot(self._disk, until=NOTHING_BOOTS)
            state = self._copy(f"grubenv{'' if expected.copy == 'primary' else '.bak'}")
        except AssertionError as error:
            return "no boot", [f"GRUB stopped: {error}"]
        finally:
            self._disk.write_partition(_PARTS["esp"], before)
        if found.kernel is None:
            return "nothing", ["nothing boots"]
        slot, how = found.arguments.slot, found.arguments.how
        faults = []
        if (slot, how, state) != (expected.boots, expected.how, expected.state):
            faults.append(f"GRUB booted {slot} {how} and left {state}, expected {expected}")
        _, release = self._release(slot or "")
        if found.kernel != f"kernel-{release}":
            faults.append(f"slot {slot} was booted, its kernel is {found.kernel}, it is {release}")
        return f"{slot} {how}, release {found.kernel.removeprefix('kernel-')}", faults

    def _offered(self, states: _States) -> list[str]:
        """What GRUB may boot now or later is whole, and nothing good was lost."""
        names = ("primary", "backup")
        faults = [
            f"the {name} of the boot state is lost"
            for name, state in zip(names, states, strict=True)
            if state is None
        ]
        offered = set()
        for name, state in zip(names, states, strict=True):
            if state is None:
                continue
            lost = [slot for slot in self._keeps if slot not in state.good]
            faults += [f"the {name} has lost slot {slot}: {state}" for slot in lost]
            offered |= set(state.good) - self._lost | {state.trial}
        for slot in _LABELS:
            sound, why = True, ""
            if slot in offered:
                sound, why = self._release(slot)
            elif self._label(slot) == _LABELS[slot]:
                sound, why = self._mended(slot)
            if not sound:
                faults.append(f"slot {slot} is offered, and {why}")
        return faults

    def _on_record(self, states: _States, kept: _Kept) -> list[str]:
        """What userland did to the boot state is on its records."""
        state = states[0]
        if state is None:
            return []
        faults = []
        if state.ustate == Ustate.INSTALLED and kept.slots.get(state.trial) != SlotState.CLEAN:
            faults.append(f"slot {state.trial} is armed, on record it is {kept.slots}")
        if state.ustate == Ustate.INSTALLED and kept.intent != state.trial:
            faults.append(f"slot {state.trial} is armed, what was wanted is {kept.intent}")
        if (
            self._phase.step.commands
            and (self._start.ustate, state.ustate) == (Ustate.INSTALLED, Ustate.FAILED)
            and not kept.given_up
        ):
            faults.append("a release was given up, and its record does not say so")
        return faults

    def _label(self, slot: str) -> str | None:
        key = ("label", slot, self.content.keys()[slot])
        superblock = self._once(key, lambda: read_superblock(self._part(slot)))
        return superblock.label if superblock else None

    def _release(self, slot: str) -> tuple[bool, str]:
        """Whether a slot's filesystem is one of the releases, and which; or why not."""
        if slot not in _LABELS:
            return False, f"there is no slot {slot!r}"
        key = ("slot", slot, self.content.keys()[slot])
        return self._once(key, lambda: self._compared(slot))

    def _compared(self, slot: str) -> tuple[bool, str]:
        if self._label(slot) != _LABELS[slot]:
            return False, f"is labelled {self._label(slot)}"
        image = self._part(slot)
        checked = _run("e2fsck", "-fn", image)
        if checked.returncode:
            return False, f"e2fsck finds: {checked.stdout.strip()}"
        try:
            return self._content(image)
        except subprocess.CalledProcessError as error:
            return False, f"cannot be mounted: {error.stderr}"

    def _mended(self, slot: str) -> tuple[bool, str]:
        """The same of a slot that its label alone offers: its superblock may be torn.

        It is two sectors, and the label is in one of them. Nothing boots such a slot: the boot
        state does not offer it yet, and the next install mends it.
        """
        found = self._release(slot)
        if found[0]:
            return found
        image = self._part(slot)
        _run("e2fsck", "-fy", image)
        try:
            return self._content(image)
        except subprocess.CalledProcessError as error:
            return False, f"cannot be mounted, even repaired: {error.stderr}"

    def _content(self, image: Path) -> tuple[bool, str]:
        told = []
        with _mounted(image, self._folder / "mnt", "ro,noload") as root:
            for version, plan in self._plans.items():
                differences = compare(root, plan, Events(), self._releases.outputs(version))
                if not differences:
                    return True, version
                told.append(f"not {version}: {describe(differences)}")
        return False, "; ".join(told)

    def _data(self) -> _Kept:
        """The data partition, once it is mounted as initramfs/abupdate-mount does it."""
        image = self._part("data")
        checked = _run("e2fsck", "-p", image)
        try:
            try:
                kept = self._kept_on(image)
            except subprocess.CalledProcessError:
                if "Superblock checksum does not match" not in checked.stdout + checked.stderr:
                    raise
                _run("e2fsck", "-fy", image)
                kept = self._kept_on(image)
        except subprocess.CalledProcessError as error:
            return _Kept([f"data cannot be mounted: {error.stderr}"])
        checked = _run("e2fsck", "-fn", image)
        if checked.returncode:
            kept.faults.append(f"e2fsck of data finds: {checked.stdout.strip()}")
        return kept

    def _kept_on(self, image: Path) -> _Kept:
        with _mounted(image, self._folder / "mnt", "rw") as data:
            kept = _read(data / "abupdate")
            for name, text in USER.items():
                path = data / name
                if not path.exists() or path.read_text() != text:
                    kept.faults.append(f"{name} of the user is not what it was")
        return kept

    def _part(self, name: str) -> Path:
        # A new file each time: the last one's loop device may take a moment to go.
        image = self._folder / f"{name}.img"
        image.unlink(missing_ok=True)
        image.write_bytes(self.content.read(name))
        return image


def _written(words: Sequence[str], booted: str) -> str:
    """The slot that a command writes; nothing where it writes none."""
    if words[0] == "install":
        return str(Slot(booted).other)
    return words[2] if tuple(words[:2]) == ("rescue", "reflash") else ""


def _plans(store: Repository, commits: Mapping[str, str]) -> dict[str, Plan]:
    found = {}
    for version, commit in commits.items():
        with open_commit(store, commit) as content:
            found[version] = plan_from(None, content)
    return found


def _read(state: Path) -> _Kept:
    """abupdate's own records, and what of them cannot be read."""
    records, kept = Records(state), _Kept()
    try:
        for slot in Slot:
            record = records.slot(slot)
            kept.slots[str(slot)] = record.state if record else ""
        intent = records.intent()
        kept.intent = str(intent.slot) if intent else ""
        kept.given_up = intent is not None and bool(intent.outcome or intent.cause)
        records.history()
        records.failed()
        for path in state.rglob("*.json"):
            json.loads(path.read_text())
    except (AbupdateError, OSError, ValueError) as error:
        kept.faults.append(f"records: {error!r}")
    for ref in (state / "store.git" / "refs").rglob("*"):
        if ref.is_file() and ref.suffix != ".lock" and not ref.read_text().strip():
            kept.faults.append(f"the store's {ref.name} is empty")
    return kept


@contextmanager
def _mounted(image: Path, mountpoint: Path, options: str) -> Iterator[Path]:
    mountpoint.mkdir(exist_ok=True)
    words: list[str | Path] = ["mount", "-o", f"loop,{options}", image, mountpoint]
    subprocess.run(words, check=True, capture_output=True, text=True)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def _run(*words: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, check=False, capture_output=True, text=True)
