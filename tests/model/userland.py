"""What userland does: the product's own use cases, run on a `ModelMachine`.

`install`, `arm_installed`, `boot_passed`, `reject`, `rollback` and `acknowledge` are
the real functions, with the real order of their writes. Replaced is only what needs a
device: the filesystem of the slot, the bundle, the lock, the tag and the floor.
What rescue does, and `rescue boot`, have no code outside of `boot/state.py` yet;
they are written here as design section 4 tells them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from unittest import mock

from abupdate.boot import grubenv as grubenv_module
from abupdate.boot import state as boot
from abupdate.boot.state import BootState
from abupdate.config import BootSection, Settings
from abupdate.disk.layout import Slot
from abupdate.errors import AbupdateError, RefusedError
from abupdate.events import Event, Events
from abupdate.paths import Paths
from abupdate.release.version import Version
from abupdate.store.materialise.apply import Written
from abupdate.update import arming
from abupdate.update import confirm as confirm_module
from abupdate.update import hooks as hooks_module
from abupdate.update import install as install_module
from abupdate.update import judge as judge_module
from abupdate.update import settle as settle_module
from abupdate.update import target as target_module
from abupdate.update import verdict as verdict_module
from abupdate.update.admit import Release
from abupdate.update.records import Intent, SlotState
from abupdate.update.trials import TrialBoot
from tests.model.tape import Loss, ModelMachine, Tape, Write, slot_of_device, value_of
from tests.model.world import Setting, States, World

# Should a use case write past the model, it fails and touches nothing of this computer.
_NO = Path("/dev/null")
_NOWHERE = Paths(_NO / "root", _NO / "data", _NO / "esp", _NO / "run", _NO / "cmdline")


# What a boot may find in the records of a trial that is over: something against the release.
SPEAKS = "with something against it"


class Operation(NamedTuple):
    """An act of userland. `target` is a slot or `SPEAKS`, `release` what an install brings."""

    name: str
    target: str = ""
    release: int = 0

    def __str__(self) -> str:
        return " ".join(str(part) for part in self if part != "") if self.target else self.name


class Journal(NamedTuple):
    """What an operation wrote, in order; `refusal` is why it ended early, `looks` its reads."""

    writes: tuple[Write, ...]
    refusal: str
    looks: int


class Branch:
    """What an operation read next, and what follows for each value."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next: dict[Any, Branch | Journal] = {}


class _Quiet(Events):
    def _emit(self, event: Event) -> None:
        """Nobody watches."""


class Userland:
    """Runs operations, each once for what it reads."""

    def __init__(self, states: States, setting: Setting) -> None:
        self._states = states
        self._settings = Settings(boot=BootSection(tries=setting.tries, limit=setting.limit))
        self._known: dict[tuple[Operation, tuple[Loss, ...]], Branch | Journal] = {}
        self._tape: Tape | None = None
        self._release = 0
        self._speaks = False
        self.runs = 0

    def journal(self, world: World, operation: Operation, losses: tuple[Loss, ...] = ()) -> Journal:
        """What the operation writes in this world."""
        node = self._known.get((operation, losses))
        while isinstance(node, Branch):
            node = node.next.get(value_of(world, node.name))
        return node if node is not None else self._run(world, operation, losses)

    def _run(self, world: World, operation: Operation, losses: tuple[Loss, ...]) -> Journal:
        self.runs += 1
        self._tape = tape = Tape(world, self._states, losses)
        self._release = operation.release
        self._speaks = operation.target == SPEAKS
        machine = ModelMachine(paths=_NOWHERE, tape=tape)
        refusal = ""
        try:
            _ACTS[operation.name](machine, operation, self._settings)
        except AbupdateError as error:
            refusal = error.message
        journal = Journal(tuple(tape.writes), refusal, tape.looks)
        self._keep(operation, losses, tape.reads, journal)
        return journal

    def _keep(
        self,
        operation: Operation,
        losses: tuple[Loss, ...],
        reads: Sequence[tuple[str, Any]],
        journal: Journal,
    ) -> None:
        into: dict[Any, Branch | Journal] = cast(dict[Any, "Branch | Journal"], self._known)
        key: Any = (operation, losses)
        for name, value in reads:
            branch = into.setdefault(key, Branch(name))
            assert isinstance(branch, Branch)
            assert branch.name == name, "an operation depends on something that is not in the world"
            into, key = branch.next, value
        into[key] = journal

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """With everything replaced that needs a real device."""
        with ExitStack() as stack:
            for target, name, value in self._replacements():
                stack.enter_context(mock.patch.object(target, name, value))
            yield

    def _replacements(self) -> list[tuple[Any, str, Any]]:
        def nothing(*_: Any, **__: Any) -> None:
            return None

        def no_lock(*_: Any) -> Any:
            return nullcontext()

        def speaks() -> bool:
            return self._speaks

        trials = partial(_SomeTrials, speaks)

        def same(state: BootState) -> BootState:
            return state

        return [
            (grubenv_module, "encode", same),
            (install_module, "require_root", nothing),
            (install_module, "job", no_lock),
            (target_module, "refuse_if_in_use", nothing),
            (target_module, "_refuse_unwritable", nothing),
            (install_module, "admit", self._admit),
            (install_module, "filesystem", self._filesystem()),
            (install_module, "_materialise", self._materialise),
            (install_module, "_read_back", nothing),
            (hooks_module, "scripts", lambda _folders: []),
            (install_module, "etc", SimpleNamespace(carry_over=nothing)),
            (install_module, "Trials", trials),
            (arming, "require_root", nothing),
            (arming, "job", no_lock),
            (arming, "Trials", trials),
            (confirm_module, "require_root", nothing),
            (confirm_module, "job", no_lock),
            (confirm_module, "Trials", trials),
            (confirm_module, "trust", SimpleNamespace(check_floor=nothing)),
            (verdict_module, "require_root", nothing),
            (verdict_module, "job", no_lock),
            (settle_module, "Trials", trials),
            (settle_module, "_raise_floor", nothing),
            (judge_module, "seen", SimpleNamespace(remember=nothing)),
        ]

    def _admit(self, *_: Any, **__: Any) -> Release:
        name = str(self._release)
        version = cast(Version, name)
        return Release(version, name, "", "", "", "", None, 0)

    def _filesystem(self) -> Any:
        def relabel(device: Path, label: str, *, fresh_uuid: bool = False) -> None:
            assert self._tape is not None
            slot = slot_of_device(device)
            own = label == Slot(slot).label
            self._tape.put(f"label_{slot}", own, ("label", slot, own))

        def nothing(*_: Any) -> None:
            return None

        def superblock(_device: Path) -> Any:
            return SimpleNamespace(uuid="", fingerprint="")

        def sound(_device: Path) -> bool:
            return True

        return SimpleNamespace(
            refuse_if_in_use=nothing,
            relabel=relabel,
            read_superblock=superblock,
            repair=sound,
            mounted=lambda *_: nullcontext(),
            unmount_leftover=nothing,
        )

    def _materialise(self, work: Any, *_: Any) -> tuple[Any, Written]:
        device = work.device
        assert self._tape is not None
        for content in ("half", "complete"):
            self._tape.writes.append(
                ("content", slot_of_device(device), content, self._release),
            )
        return None, Written(0, 0, 0, 0)


class _SomeTrials:
    """The records of trial boots: something in them speaks against the release, or nothing."""

    def __init__(self, speaks: Callable[[], bool], _state: Path) -> None:
        self._speaks = speaks

    def forget(self, _commit: str) -> None:
        pass

    def boots(self, _commit: str) -> list[TrialBoot]:
        return [TrialBoot("", 1, 0.0, verdict="failed")] if self._speaks() else []


Act = Callable[[ModelMachine, Operation, Settings], object]


def _install(machine: ModelMachine, _: Operation, settings: Settings) -> None:
    install_module.install(machine, [], settings, _Quiet())


def _rescue_once(machine: ModelMachine, _: Operation, __: Settings) -> None:
    machine.grubenv().write(boot.rescue_once(machine.boot_state()))


def _retry(machine: ModelMachine, _: Operation, __: Settings) -> None:
    machine.grubenv().write(boot.retry(machine.boot_state()))


def _rebuild(machine: ModelMachine, _: Operation, settings: Settings) -> None:
    if machine.grubenv().read().state is not None:
        raise RefusedError("The boot state is there.")
    disk = machine.booted().disk
    confirmed: dict[str, float] = {}
    for slot in Slot:
        record = machine.records.slot(slot)
        complete = record is not None and record.state == SlotState.CLEAN
        if record and complete and record.confirmed and disk.slot(slot).label == slot.label:
            confirmed[str(slot)] = record.confirmed
    last = max(confirmed, key=lambda name: confirmed[name], default="A")
    boot_settings = settings.boot
    rebuilt = boot.rebuild(last, confirmed.keys(), boot_settings.tries, boot_settings.limit)
    machine.grubenv().write(rebuilt)


def _reflash(machine: ModelMachine, operation: Operation, _: Settings) -> None:
    """Rescue writes a slot, as an install does.

    The first of two, which is not armed, is one that was cut just before.
    """
    slot = Slot(operation.target)
    name = str(operation.release)
    boot.begin(machine.boot_state(), slot, boot.RESCUE)
    settle_module.make_room(machine, machine.boot_state(), _Quiet())
    machine.records.write_intent(Intent(slot, name, name, boot.RESCUE, None, 0.0))
    begun = boot.begin(machine.boot_state(), slot, boot.RESCUE)
    machine.grubenv().write(begun, backup_first=True)
    # Replaced in `prepared`, as for an install.
    replaced: Any = install_module
    release = replaced.admit()
    device = machine.booted().disk.slot(slot).device
    record = install_module._record_slot
    record(machine, slot, SlotState.WRITING, release)
    install_module._relabel_unfinished(device, slot, machine.mountpoint, False)
    work = install_module._Work(machine, machine.booted(), slot, device, _Quiet())
    hooks = hooks_module.Hooks(machine, slot, release, _Quiet(), timeout=1.0)
    install_module._materialise(work, release, hooks, None)
    replaced.filesystem.relabel(device, slot.label, fresh_uuid=True)
    record(machine, slot, SlotState.CLEAN, release, device)
    arming.arm(machine, slot, _Quiet())


_ACTS: dict[str, Act] = {
    "install": _install,
    "arm": lambda machine, _, __: arming.arm_installed(machine, _Quiet()),
    "after_boot": lambda machine, _, s: verdict_module.boot_passed(machine, s, _Quiet()),
    "reject": lambda machine, _, __: confirm_module.reject(machine, _Quiet()),
    "rollback": lambda machine, _, __: confirm_module.rollback(machine, _Quiet()),
    "acknowledge": lambda machine, _, __: confirm_module.acknowledge(machine, _Quiet()),
    "rescue_once": _rescue_once,
    "retry": _retry,
    "rebuild": _rebuild,
    "reflash": _reflash,
}
