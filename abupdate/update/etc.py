"""The `/etc` of the next slot: the owner's changes go along, the booted slot's stay as they are.

`/etc` is an overlay whose upper folder belongs to one slot. An install merges what
the owner changed in the booted slot onto the new release's defaults (`abupdate.etc.merge`)
and writes that as the target's upper folder, made beside and renamed, so that a
fallback finds its own `/etc` untouched. What became of it is in `merge.json` beside it.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import asdict
from pathlib import Path

from abupdate.boot.state import Ustate
from abupdate.config import Settings
from abupdate.disk import filesystem
from abupdate.disk.layout import Slot
from abupdate.errors import NoSpaceError
from abupdate.etc.merge import Merged, fingerprint, merge
from abupdate.etc.policy import Policy
from abupdate.etc.text import merge_text
from abupdate.etc.tree import read_overlay, read_tree
from abupdate.etc.upper import write_upper
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.run import run
from abupdate.store.manifest import escape, unescape
from abupdate.update.carried import RECORD, Carried, Told, carried, overlay
from abupdate.update.job import job, unstoppable
from abupdate.update.records import SlotState, sync_directory, write_json
from abupdate.update.slots import Machine, require_root
from abupdate.update.target import target

_READ_OPTIONS = "ro,noload,nosuid,nodev,noexec,noatime"
# The running system may change its /etc while we read it.
_ATTEMPTS = 3


def carry_over(
    machine: Machine,
    booted: Slot | None,
    target: Slot,
    device: Path,
    release: str,
    settings: Settings,
    events: Events,
) -> Carried:
    """Give `target`, which `device` holds, the changes that `booted` made in `/etc`.

    When rescue runs, `booted` is None, and the target's own changes stay. Raises `NoSpaceError`.
    """
    current = overlay(machine.paths, target)
    base, new, old = current.parent, current.with_suffix(".new"), current.with_suffix(".old")
    if old.is_dir() and not current.exists():
        old.rename(current)  # a cut between the two renames
    for attempt in range(_ATTEMPTS):
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            merged = _write_new(machine, booted, target, device, settings, new)
            break
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            if error.errno == errno.ENOSPC:
                raise NoSpaceError(
                    f"The disk of {base} is full: your changes in /etc do not fit there again.",
                    "Free space on the data partition.",
                ) from error
            if error.errno != errno.ENOENT or attempt + 1 == _ATTEMPTS:
                raise
    running = machine.records.slot(booted) if booted is not None else None
    done = Carried(
        running.release if running else None,
        release,
        merged.changed,
        tuple(Told(escape(one.path).decode(), one.outcome, one.text) for one in merged.findings),
        merged.source,
    )
    write_json(new / RECORD, asdict(done))
    run(["sync", "--file-system", base], timeout=300)
    if current.exists():
        current.rename(old)
    new.rename(current)
    sync_directory(base)
    shutil.rmtree(old, ignore_errors=True)
    failpoint("etc-merged")
    for told in done.conflicts:
        events.warning(f"/etc/{told.path}: {told.text}")
    return done


def carry_again(machine: Machine, settings: Settings, events: Events) -> Carried | None:
    """What the owner changed since the install, for the slot that is tried next.

    For the shutdown before its trial; None where nothing is to be done. A slot that was
    confirmed once has an /etc of its own, which a rollback finds as it was.
    """
    require_root()
    with job(machine.paths.runtime, "etc"):
        booted, slot, partition = target(machine)
        state, record = machine.boot_state(), machine.records.slot(slot)
        known = carried(machine.paths, slot)
        if state.ustate != Ustate.INSTALLED or state.trial != slot or booted.slot is None:
            return None
        if record is None or record.state != SlotState.CLEAN or record.confirmed is not None:
            return None
        with filesystem.bound(machine.paths.root, machine.lower) as running:
            lower = read_tree(running / "etc")
            mine = read_overlay(lower, overlay(machine.paths, booted.slot) / "upper")
            source = fingerprint(lower, mine)
        if known is None or known.source == source or known.to_release != record.release:
            return None
        with unstoppable():
            return carry_over(
                machine, booted.slot, slot, partition.device, record.release, settings, events
            )


def _unsettled(machine: Machine, booted: Slot) -> dict[bytes, str]:
    known = carried(machine.paths, booted)
    texts: dict[bytes, list[str]] = {}
    for told in known.conflicts if known is not None else ():
        texts.setdefault(unescape(told.path.encode()), []).append(told.text)
    return {name: "; ".join(found) for name, found in texts.items()}


def _write_new(
    machine: Machine,
    booted: Slot | None,
    target: Slot,
    device: Path,
    settings: Settings,
    new: Path,
) -> Merged:
    upper = new / "upper"
    upper.mkdir(parents=True, mode=0o755)
    new.chmod(0o700)
    (new / "work").mkdir(mode=0o700)
    with (
        filesystem.mounted(device, machine.mountpoint, _READ_OPTIONS) as slot,
        filesystem.bound(machine.paths.root, machine.lower) as running,
    ):
        theirs = read_tree(slot / "etc")
        if booted is None:
            merged = Merged(read_overlay(theirs, overlay(machine.paths, target) / "upper"))
        else:
            lower = read_tree(running / "etc")
            mine = read_overlay(lower, overlay(machine.paths, booted) / "upper")
            policy, unsettled = Policy(settings.etc.policy), _unsettled(machine, booted)
            merged = merge(lower, mine, theirs, policy, merge_text, unsettled)
            merged.source = fingerprint(lower, mine)
        write_upper(merged.tree, theirs, upper)
        return merged
