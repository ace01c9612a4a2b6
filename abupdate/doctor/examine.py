"""`abupdate doctor`: what is wrong with this device, and what can be mended here.

Looking writes nothing. Mending holds the lock of every other job and is three
things: both copies of the boot state written again from the one that GRUB
uses, a grub.cfg that is missing put back, and the store rid of what killed jobs
left. Everything else needs a person, a reboot or an install, and says which.

Rules of `--repair`, each for a power cut at any moment:

- the copy that GRUB does not use is written first, so that one is whole
  throughout;
- a lost primary is made from the backup only where that decides nothing that
  is not decided already (`diagnose_state.why_not_from_backup`);
- with both copies lost nothing here knows enough: rescue rebuilds them;
- nothing is written when the ESP is not the one that GRUB reads, or the root
  not the one that the command line names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from abupdate.boot.state import BootState
from abupdate.bundle.quarantine import clear_quarantines
from abupdate.disk import filesystem
from abupdate.disk.layout import BootDisk, Slot
from abupdate.doctor import diagnose_disk, diagnose_state, diagnose_store, diagnose_trust
from abupdate.doctor.findings import Finding, Severity, finding
from abupdate.errors import AbupdateError, DeviceFaultError, RefusedError
from abupdate.store import packs
from abupdate.update import seen
from abupdate.update.job import job, running_job
from abupdate.update.records import replace_file
from abupdate.update.slots import Machine, require_root

SCHEMA_VERSION = 1

# The files of an ESP that GRUB does not read say nothing.
_NOTHING_TO_READ = frozenset({"esp-not-mounted", "esp-foreign"})
# What is mounted may be of another disk.
_WRONG_DISK = frozenset({"root-mismatch", "disk-twin"})
# Which state GRUB uses is not known, or cannot be written.
_BLOCKING = _WRONG_DISK | {"esp-write-protected", "esp-read-only"}


@dataclass(frozen=True)
class Report:
    """What was found (after mending, with `repair`), what was mended, what could not be."""

    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)
    findings: list[Finding]
    repaired: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """No error is left, and nothing that was tried failed."""
        return not self.failed and all(f.severity != Severity.ERROR for f in self.findings)


def examine(machine: Machine) -> Report:
    """Look, and write nothing. Raises `RefusedError` where abupdate is not at home, or not root."""
    require_root()
    return Report(_findings(machine, working=running_job(machine.paths.runtime) is not None))


def repair(machine: Machine) -> Report:
    """Mend what is safe to mend, and look again. Raises `BusyError` while another job runs."""
    require_root()
    with job(machine.paths.runtime, "doctor"):
        found = _findings(machine, working=False)
        repaired: list[str] = []
        failed: list[str] = []
        for mend, prefix in (
            (_mend_copies, "cop"),
            (_mend_grub_cfg, "grub-cfg-"),
            (_mend_store, "store-"),
        ):
            wanted = [one for one in found if one.id.startswith(prefix) and one.repairable]
            if not wanted:
                continue
            try:
                repaired.append(mend(machine))
            except (AbupdateError, OSError) as error:
                failed.append(str(error))
        if not (repaired or failed):
            return Report(found)
        return Report(_findings(machine, working=False), repaired, failed)


def _findings(machine: Machine, *, working: bool) -> list[Finding]:
    found: list[Finding] = []
    if machine.arguments().slot is None:
        machine.booted()  # says why this is no device of ours
    disk = machine.find_disk(machine.paths.root)
    try:
        machine.booted()
    except RefusedError as error:
        found.append(finding("root-mismatch", error.message, error.hint or ""))
    found += diagnose_disk.partition_findings(disk)
    found += diagnose_disk.esp_findings(disk, machine.paths.esp)
    blocking = next((one for one in found if one.id in _BLOCKING), None)
    obstacle = f"First this: {blocking.message}" if blocking else None
    state = None
    if not any(one.id in _NOTHING_TO_READ for one in found):
        state, of_state = _state_findings(machine, disk, obstacle, working=working)
        found += of_state
    found += diagnose_disk.label_findings(disk, state, machine.records, working=working)
    confirmed = state is not None and _confirmed(disk.slot_of_root(), state)
    found += diagnose_trust.trust_findings(machine.paths, confirmed=confirmed)
    wrong = next((one for one in found if one.id in _WRONG_DISK), None)
    obstacle = f"First this: {wrong.message}" if wrong else None
    return found + diagnose_store.store_findings(machine, obstacle, working=working)


def _state_findings(
    machine: Machine, disk: BootDisk, obstacle: str | None, *, working: bool
) -> tuple[BootState | None, list[Finding]]:
    """The state that GRUB uses, and what is wrong with the files it is in."""
    paths, arguments, booted = machine.paths, machine.arguments(), disk.slot_of_root()
    reading = machine.grubenv().read()
    state = reading.state
    confirmed = state is not None and _confirmed(booted, state) and obstacle is None
    if state is None:
        obstacle = "Reboot: GRUB starts rescue, which rebuilds both; else install the device anew."
    elif reading.source == "backup" and obstacle is None:
        obstacle = diagnose_state.why_not_from_backup(state, booted, arguments)
    found, whole = diagnose_state.copy_findings(paths.esp / "grub", obstacle)
    if state is None:
        found.append(_both_lost(machine))
    elif len(whole) == 2 and not working:
        found += diagnose_state.together_findings(whole[0], whole[1], obstacle)
    mark = seen.recall(paths.runtime)
    if mark is None and state is not None:
        # In the backup it tells nothing: GRUB may have used the primary, which was whole then.
        mark = state.seen if reading.source == "primary" else seen.UNKNOWN
    if mark is not None:
        found += diagnose_state.mark_findings(mark, booted, arguments)
    found += diagnose_state.grub_cfg_findings(paths, confirmed=confirmed)
    return state, found


def _both_lost(machine: Machine) -> Finding:
    return finding(
        "copies-lost",
        f"One copy of the boot state in {machine.paths.esp}/grub should be whole, found none.",
        "Reboot: GRUB starts rescue, which rebuilds both from records and labels; a device without "
        "a rescue system must be installed anew. Which slot may boot is not known well enough "
        "here, so --repair leaves them.",
    )


def _confirmed(booted: Slot | None, state: BootState) -> bool:
    return booted is not None and booted in state.good and booted != state.on_trial


def _mend_copies(machine: Machine) -> str:
    """Both copies again, from the one that GRUB uses; the other one first."""
    grubenv = machine.grubenv()
    reading = grubenv.read()
    if reading.state is None:
        raise DeviceFaultError("Both copies of the boot state are lost now; nothing was written.")
    if reading.source == "backup":
        seen.remember(machine.paths.runtime, seen.UNKNOWN)
    grubenv.write(reading.state, backup_first=reading.source == "primary")
    told = f"Both copies of the boot state were written again, from the {reading.source}."
    intent = machine.records.intent()
    armed = intent is not None and intent.armed is not None and intent.outcome is None
    if reading.source == "backup" and intent is not None and armed:
        told += (
            f" The trial of release {intent.release} in slot {intent.slot} was in the lost one "
            "only: `abupdate arm` arms it again."
        )
    return told


def _mend_store(machine: Machine) -> str:
    """Nothing that a killed job left, and each release that a slot holds by its name again."""
    store = machine.store()
    packs.clear_leftovers(store)
    clear_quarantines(store)
    named = diagnose_store.lost_refs(machine)
    for ref, tag in named.items():
        store.set_ref(ref, tag, alone=True)
    again = f" {' and '.join(named)} were made again." if named else ""
    return f"What killed jobs left in the store was removed.{again}"


def _mend_grub_cfg(machine: Machine) -> str:
    """Put a missing grub.cfg back. What replaces nothing can take nothing away."""
    path, own = machine.paths.esp / "grub" / "grub.cfg", diagnose_state.reference(machine.paths)
    with filesystem.writable(machine.paths.esp):
        replace_file(path, own.read_bytes())
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)  # vfat keeps a new name with the file, not with the folder
        finally:
            os.close(fd)
    return f"{own} was copied to {path}."
