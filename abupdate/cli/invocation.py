"""What a verb is called with: the machine, its settings, and the services around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from abupdate.config import Settings
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


def systemctl(*words: str) -> None:
    """Ask the init system for something."""
    from abupdate.run import run

    run(["systemctl", *words])
