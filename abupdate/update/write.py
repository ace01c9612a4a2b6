"""A release into a mounted slot, and what was written compared with the release."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from abupdate.disk import filesystem
from abupdate.errors import ContentDiffersError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.store.content import open_commit
from abupdate.store.materialise.apply import SlotDiffersError, Written, apply
from abupdate.store.materialise.audit import plan_for_slot
from abupdate.store.materialise.plan import Plan
from abupdate.store.outputs import NOTHING, Outputs
from abupdate.store.repository import Repository
from abupdate.store.verify import compare, compare_changed, describe
from abupdate.update.admit import Release
from abupdate.update.hooks import Hooks


@dataclass(frozen=True)
class Filled:
    """What a slot was filled with. `outputs`: what fixups left there."""

    plan: Plan
    written: Written
    outputs: Outputs


def fill(
    store: Repository, target: Path, release: Release, plan: Plan | None, hooks: Hooks | None,
    events: Events,
) -> Filled:  # fmt: skip
    """Do what is planned in the mounted slot, then the release's fixups, and flush all of it.

    Without a plan, or when the slot is not what it starts from, the slot is audited; without
    `hooks`, no fixup runs. Raises
    what `apply` and `Hooks.fixups` raise.
    """
    # Opened before the first write: the kernel tells an open file of a
    # write-back error once, and only of those since it was opened.
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        written = None
        if plan is not None:
            try:
                written = apply(plan, store, target, events)
            except SlotDiffersError as error:
                events.warning(f"{error.message} All of it is looked at now.")
        if plan is None or written is None:
            with open_commit(store, release.commit, release.manifest_sha256) as content:
                plan = plan_for_slot(target, content, events)
            written = apply(plan, store, target, events)
        failpoint("materialised")
        outputs = hooks.fixups(plan) if hooks is not None else NOTHING
        failpoint("fixups-run")
        filesystem.syncfs(fd)
        failpoint("synced")
    finally:
        os.close(fd)
    return Filled(plan, written, outputs)


def read_back(target: Path, plan: Plan, outputs: Outputs, events: Events, *, full: bool) -> None:
    """Compare what lies in a mounted slot with its release: what was written, or all of it.

    Raises `ContentDiffersError`.
    """
    found = compare if full else compare_changed
    differences = found(target, plan, events, outputs)
    if differences:
        raise ContentDiffersError(
            f"The slot should equal the release after writing it, but {describe(differences)}.",
            "The slot stays unarmed. Install again; if it happens twice, the disk is failing.",
        )
