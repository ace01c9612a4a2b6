"""Which health checks this device has, and what is asked of them.

Those built in are set in `config.toml` under [health]; a broken configuration
is a failed check, so that it cannot take the verdict with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from abupdate.boot.cmdline import BootArguments
from abupdate.config import HealthSection, Settings, load
from abupdate.errors import AbupdateError, RefusedError, UsageError
from abupdate.health import network, programs, services, system
from abupdate.health.check import Check, UnhealthyError
from abupdate.health.watch import Patience, Watched, watch
from abupdate.update import trust
from abupdate.update.slots import Machine

# Always in the list, whatever [health] says: without them no update could come after this one.
CONFIGURATION, DATA, UPDATE = "configuration", "data", "can-update"
BUILT_IN = (
    *(CONFIGURATION, DATA, UPDATE, "failed-units", "units", "containers", "http"),
    *("route", "dns", "space", "clock"),
)


@dataclass(frozen=True)
class HealthCheck:
    """The checks of this device, and how patient it is with them."""

    checks: list[Check]
    patience: Patience

    def once(self) -> Watched:
        """One look, for a person."""
        return watch(self.checks, Patience(self.patience.timeout))

    def verdict(self, on_trial: bool) -> Watched:
        """Look until the verdict is sure; a trial must stay healthy for the settle time."""
        settle = self.patience.settle if on_trial else 0.0
        patience = self.patience
        return watch(
            self.checks, Patience(patience.timeout, patience.wait, settle, patience.interval)
        )


def health_check(machine: Machine) -> HealthCheck:
    """The checks of the release, of the owner, and of the configuration."""
    try:
        settings, fault = load(machine.paths).settings, None
        _refuse_unknown(settings.health)
    except UsageError as error:
        settings, fault = Settings(), error
    health = settings.health
    patience = Patience(health.timeout, health.wait, settings.confirm.settle, health.interval)
    env = _environment(machine)
    found = [] if fault is None else [Check(CONFIGURATION, True, partial(_raise, fault))]
    found += [
        Check(name, name not in health.wanted, look)
        for name, look in _built_in(machine, health, env)
        if name not in health.off
    ]
    found += programs.programs([machine.paths.vendor, machine.paths.etc], env)
    return HealthCheck(found, patience)


def _built_in(
    machine: Machine, health: HealthSection, env: dict[str, str]
) -> list[tuple[str, Callable[[float], str]]]:
    paths = machine.paths
    found: list[tuple[str, Callable[[float], str]]] = [
        (DATA, partial(system.data_kept, paths.data, paths.runtime)),
        (UPDATE, partial(_can_update, machine)),
        ("clock", lambda timeout: system.clock_sane(trust.not_before(paths), timeout)),
        ("failed-units", partial(services.failed_units, health.may_fail)),
        ("space", partial(system.free_space, health.free_bytes, health.free_inodes)),
    ]
    if health.units:
        found.append(("units", partial(services.active_units, health.units)))
    if health.containers:
        found.append(("containers", partial(services.containers, health.containers)))
    if health.http:
        found.append(("http", partial(network.answers, health.http)))
    if health.route:
        found.append(("route", network.default_route))
    if health.dns:
        found.append(("dns", partial(network.names_resolve, health.dns)))
    found += [
        (name, partial(programs.look, argv, env=env)) for name, argv in health.commands.items()
    ]
    return found


def _can_update(machine: Machine, _timeout: float) -> str:
    """The release after this one can come: other slot, store, signers, boot state."""
    booted = machine.booted()
    if booted.slot is not None:
        booted.disk.slot(booted.slot.other)
    machine.boot_state()
    trust.trust_files(machine.paths).require_keys()
    store = machine.store()
    if store.path.exists():
        store.refs("refs/tags/release")
    return "the next release can come"


def _environment(machine: Machine) -> dict[str, str]:
    """What a program is told of the boot."""
    try:
        arguments = machine.arguments()
    except RefusedError:
        arguments = BootArguments(None, None, None, etc_clean=False)
    return {
        "ABUPDATE_SLOT": arguments.slot or "",
        "ABUPDATE_BOOT": arguments.how or "",
    }


def _refuse_unknown(health: HealthSection) -> None:
    both = sorted(set(health.commands) & set(BUILT_IN))
    if both:
        raise UsageError(
            f"health.commands: '{both[0]}' is the name of a check that is built in.",
            "Give the command another name.",
        )
    for key, names in (("wanted", health.wanted), ("off", health.off)):
        for name in names:
            if name not in (*BUILT_IN, *health.commands):
                known = ", ".join(BUILT_IN[1:])
                raise UsageError(
                    f"health.{key}: there is no check '{name}'.",
                    f"Known: {known}, and the names in health.commands.",
                )


def _raise(error: AbupdateError, _timeout: float) -> str:
    raise UnhealthyError(str(error))
