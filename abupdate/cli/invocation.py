"""What a verb is called with: the machine, its settings, and the services around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from abupdate.config import Settings
    from abupdate.doctor.repairs import Wishes
    from abupdate.update.slots import Machine

Json = Annotated[bool, typer.Option("--json", help="Machine-readable, with a schema version.")]


def machine_of(context: typer.Context) -> Machine:
    """The machine that a test gave, or else this one."""
    from abupdate.update.slots import Machine, this_machine

    injected = context.obj
    return injected if isinstance(injected, Machine) else this_machine()


def settings_of(context: typer.Context) -> Settings:
    """Its settings, as its files and the kernel command line say."""
    from abupdate.config import load

    return load(machine_of(context).paths).settings


def wishes_of(
    context: typer.Context, also: Sequence[str] = (), sources: Sequence[str] = ()
) -> Wishes:
    """What `doctor --repair` may do.

    A device whose settings cannot be read is repaired with the defaults, but fetches nothing.
    """
    from abupdate.cli.show import terminal_events
    from abupdate.config import Settings
    from abupdate.doctor.repairs import Wishes
    from abupdate.errors import AbupdateError

    events = terminal_events()
    try:
        settings = settings_of(context)
    except AbupdateError as error:
        if sources:
            raise
        events.warning(f"{error} The defaults are taken.")
        settings = Settings()
    return Wishes(settings, events, frozenset(also), tuple(sources))


def systemctl(*words: str) -> None:
    """Ask the init system for something."""
    from abupdate.run import run

    run(["systemctl", *words])
