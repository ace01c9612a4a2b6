"""One look at everything that `abupdate doctor` knows to look at. It writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.boot.cmdline import BootArguments
from abupdate.boot.state import BootState
from abupdate.disk import gptcopies
from abupdate.disk.gptcopies import Copies
from abupdate.disk.layout import BootDisk, Slot
from abupdate.doctor import (
    diagnose_data,
    diagnose_disk,
    diagnose_esp,
    diagnose_gpt,
    diagnose_rules,
    diagnose_state,
    diagnose_store,
    diagnose_trust,
)
from abupdate.doctor.findings import Finding, finding
from abupdate.errors import RefusedError
from abupdate.update import seen
from abupdate.update.records import SlotState
from abupdate.update.slots import Machine

# The files of an ESP that GRUB does not read say nothing.
_NOTHING_TO_READ = frozenset({"esp-not-mounted", "esp-foreign"})
# What is mounted may be of another disk.
_WRONG_DISK = frozenset({"root-mismatch", "disk-twin"})
# Which state GRUB uses is not known, or cannot be written.
_BLOCKING = _WRONG_DISK | {"esp-write-protected", "esp-read-only"}


@dataclass(frozen=True)
class Look:
    """A device as it is now.

    `state` is what GRUB would use, None when that is lost or cannot be read; `copies` the
    partition table's, None where the disk cannot be read.
    """

    machine: Machine
    arguments: BootArguments
    disk: BootDisk
    copies: Copies | None
    state: BootState | None
    findings: list[Finding]

    @property
    def booted(self) -> Slot | None:
        """The slot that runs; None in rescue."""
        return self.disk.slot_of_root()

    @property
    def in_rescue(self) -> bool:
        """Whether rescue runs, and no slot is in use."""
        return self.arguments.slot == "R" and self.booted is None

    @property
    def trusted(self) -> bool:
        """Whether what runs may give its files to the disk: rescue, or a confirmed slot."""
        if self.booted is None:
            return self.in_rescue
        if self.arguments.how == "trial":
            return False
        if self.state is not None:
            return _confirmed(self.booted, self.state)
        record = self.machine.records.slot(self.booted)
        complete = record is not None and record.state == SlotState.CLEAN
        return complete and record is not None and record.confirmed is not None

    @property
    def confirmed(self) -> bool:
        """Whether a slot runs that was confirmed."""
        return self.booted is not None and self.trusted

    @property
    def obstacle(self) -> str | None:
        """Why nothing of this disk may be written, None where it may."""
        wrong = next((one for one in self.findings if one.id in _WRONG_DISK), None)
        return f"First this: {wrong.message}" if wrong else None

    def found(self, *names: str) -> list[Finding]:
        """The findings of these kinds."""
        return [one for one in self.findings if one.id in names]

    @property
    def esp_readable(self) -> bool:
        """Whether what is mounted is the ESP."""
        return not self.found(*_NOTHING_TO_READ)


def look(machine: Machine, *, working: bool) -> Look:
    """Raises `RefusedError` where this is no device of ours. `working`: a job may be writing."""
    found: list[Finding] = []
    arguments = machine.arguments()
    if arguments.slot is None:
        machine.booted()  # says why this is no device of ours
    disk = machine.find_disk(machine.paths.root)
    try:
        machine.booted()
    except RefusedError as error:
        found.append(finding("root-mismatch", error.message, error.hint or ""))
    copies = _copies(disk.device)
    found += diagnose_gpt.table_findings(disk.device, copies)
    found += diagnose_disk.partition_findings(disk)
    found += diagnose_disk.esp_findings(disk, machine.paths.esp)
    now = Look(machine, arguments, disk, copies, None, found)
    blocking = next((one for one in found if one.id in _BLOCKING), None)
    obstacle = f"First this: {blocking.message}" if blocking else None
    if now.esp_readable:
        state, of_state = _state_findings(now, obstacle, working=working)
        now = replace(now, state=state, findings=[*found, *of_state])
    found = now.findings
    if not now.found("esp-foreign"):
        found += diagnose_esp.content_findings(machine.paths, disk, readable=now.esp_readable)
    found += diagnose_esp.boot_code_findings(disk.device, copies)
    found += diagnose_disk.label_findings(disk, now.state, machine.records, working=working)
    confirmed = now.state is not None and _confirmed(now.booted, now.state)
    found += diagnose_trust.trust_findings(machine.paths, confirmed=confirmed)
    of_data = list(diagnose_data.data_findings(machine.paths, disk, in_rescue=now.in_rescue))
    found += of_data
    if not any(one.id == "data-unmounted" for one in of_data):
        found += diagnose_store.store_findings(machine, now.obstacle, working=working)
    return now


def _copies(disk: Path) -> Copies | None:
    try:
        return gptcopies.look(disk)
    except OSError:
        return None


def _state_findings(
    now: Look, obstacle: str | None, *, working: bool
) -> tuple[BootState | None, list[Finding]]:
    """The state that GRUB uses, and what is wrong with the files it is in."""
    machine, arguments, booted = now.machine, now.arguments, now.booted
    paths = machine.paths
    reading = machine.grubenv().read()
    state = reading.state
    known = replace(now, state=state)
    confirmed = known.trusted and obstacle is None
    rules_obstacle = obstacle
    if state is None:
        obstacle = "Both are lost: which slot may boot, records and labels must tell."
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
    if not working:
        trusted = known.trusted
        found += diagnose_rules.rules_findings(
            machine, rules_obstacle, trusted=trusted, confirmed=known.confirmed
        )
    return state, found


def _both_lost(machine: Machine) -> Finding:
    return finding(
        "copies-lost",
        f"One copy of the boot state in {machine.paths.esp}/grub should be whole, found none.",
        "abupdate doctor --repair makes both anew, from records and labels.",
    )


def _confirmed(booted: Slot | None, state: BootState) -> bool:
    return booted is not None and booted in state.good and booted != state.on_trial
