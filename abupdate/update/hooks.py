"""What a release and the owner run during an install: fixups, and hooks before and after.

- `pre-install.d`: before anything is written, once the release is trusted and fits;
- `.git-fixups`: in the slot that was just written, as its root; what they leave is
  taken into the slot where release.toml declares it, and fails the install elsewhere;
- `post-install.d`: after the read-back and before the slot counts as complete.

In the order of their names, each within `hooks.timeout`, isolated (`isolation`). One
that fails ends the install with nothing armed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from abupdate.disk import filesystem
from abupdate.disk.layout import Slot
from abupdate.events import Events
from abupdate.health.programs import scripts
from abupdate.release.fixups import declared, fixups
from abupdate.store.manifest import Entry, escape
from abupdate.store.materialise.overlay import Seen, look, make_upper, take
from abupdate.store.materialise.plan import Plan
from abupdate.store.outputs import NOTHING, Outputs
from abupdate.update.admit import Release
from abupdate.update.isolation import HookFailedError, Isolation, failed
from abupdate.update.slots import Machine

# What fixups may leave in all, in bytes, holes of files counted; it is held in memory.
SPACE = 64 << 20
_SHOWN = 5


@dataclass(frozen=True)
class Hooks:
    """The programs of one install. `timeout` is seconds; `interactive`: a person may help."""

    machine: Machine
    slot: Slot
    release: Release
    events: Events
    timeout: float
    interactive: bool = False

    def before(self) -> None:
        """The owner's hooks of `pre-install.d`. Raises `HookFailedError`."""
        found = self._owners("pre-install.d")
        if found:
            with self.events.step("pre-install", "Run the hooks before"):
                self._run_owners(found)

    def after(self, device: Path) -> None:
        """The owner's hooks of `post-install.d`, with the slot mounted to be read.

        Raises `HookFailedError`.
        """
        found = self._owners("post-install.d")
        if not found:
            return
        options, target = "ro,noload,nosuid,nodev,noexec,noatime", self.machine.mountpoint
        with (
            self.events.step("post-install", "Run the hooks after"),
            filesystem.mounted(device, target, options),
        ):
            self._run_owners(found, target)

    def fixups(self, plan: Plan) -> Outputs:
        """The release's fixups in the mounted slot that was written; what they left there.

        Raises `HookFailedError`, `SourceError`, and what `take` raises.
        """
        found = fixups(plan.manifest)
        if not found:
            return NOTHING
        with (
            self.events.step("fixups", "Run the release's fixups"),
            filesystem.in_memory(self.machine.overlay, SPACE) as top,
        ):
            upper, slot = top / "upper", self.machine.mountpoint
            make_upper(upper, slot)
            seen = self._fix(found, upper)
            take(seen.outputs, upper, slot, plan)
            return seen.outputs

    def _fix(self, found: Sequence[Entry], upper: Path) -> Seen:
        slot, seen = self.machine.mountpoint, Seen()
        allowed = declared(self.release.fixups_write)
        root = upper.with_name("root")
        with filesystem.overlaid(slot, upper, upper.with_name("work"), root):
            isolation = self._isolation(root, Path("/"), read_only=False)
            for entry in found:
                what = f"The fixup {escape(entry.path).decode()} of release {self.release.version}"
                program = "/" + os.fsdecode(entry.path)

                def one(program: str = program, what: str = what) -> None:
                    nonlocal seen
                    isolation.run(program, what)
                    seen = look(upper, slot, allowed, SPACE)
                    _refuse_undeclared(what, seen)

                self._insist(isolation, one)
        return seen

    def _owners(self, folder: str) -> list[Path]:
        paths = self.machine.paths
        return scripts([base / "hooks" / folder for base in (paths.vendor, paths.etc)])

    def _run_owners(self, found: Sequence[Path], mounted: Path | None = None) -> None:
        shown = (*found, mounted) if mounted is not None else tuple(found)
        isolation = self._isolation(Path("/"), mounted, read_only=True, shown=shown)
        for path in found:
            self._insist(isolation, partial(isolation.run, str(path), f"The hook {path}"))

    def _isolation(
        self, root: Path, mounted: Path | None, *, read_only: bool, shown: tuple[Path, ...] = ()
    ) -> Isolation:
        env = {"ABUPDATE_SLOT": str(self.slot), "ABUPDATE_RELEASE": str(self.release.version)}
        if mounted is not None:
            env["ABUPDATE_MOUNT"] = str(mounted)
        stage = self.machine.paths.runtime / "stage"
        return Isolation(root, stage, read_only, env, self.timeout, shown)

    def _insist(self, isolation: Isolation, run: Callable[[], None]) -> None:
        """Until it succeeds, or the person who is asked gives up."""
        while True:
            try:
                run()
                return
            except HookFailedError as error:
                if not self.interactive:
                    raise
                self.events.warning(error.message)
                self.events.note("A shell where it ran: `exit` runs it again, `exit 1` gives up.")
                if isolation.shell(f"slot {self.slot}") != 0:
                    raise


def _refuse_undeclared(what: str, seen: Seen) -> None:
    if not seen.refused:
        return
    told = [f"{escape(path).decode() or '.'} {why}" for path, why in sorted(seen.refused.items())]
    more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    raise failed(
        f"{what} should write what `fixups_write` of its release.toml declares, and nothing "
        f"else, but {'; '.join(told[:_SHOWN])}{more}."
    )
