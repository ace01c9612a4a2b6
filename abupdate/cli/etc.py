"""The verbs of the owner's changes: `abupdate etc status`, `diff`, `reset` and `resolve`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from abupdate.cli.invocation import Json, machine_of, settings_of

etc = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Context = typer.Context

Paths = Annotated[list[str], typer.Argument(metavar="PATH...", show_default=False)]
SomePaths = Annotated[list[str] | None, typer.Argument(metavar="[PATH...]", show_default=False)]


@etc.command()
def status(context: Context, as_json: Json = False) -> None:
    """What you changed in /etc, and what the last update could not merge."""
    from abupdate.cli.show import printable
    from abupdate.update.etc_changes import look

    found = look(machine_of(context))
    if as_json:
        print(json.dumps({"schema_version": 1, **asdict(found)}, indent=2))
        return
    lines = [f"{told.outcome:<10} /etc/{told.path}: {told.text}" for told in found.findings]
    for word in ("added", "changed", "removed"):
        lines += [f"{word:<10} /etc/{path}" for path in getattr(found, word)]
    print(printable("\n".join(lines) or "/etc is as the release has it."))


@etc.command()
def diff(
    context: Context,
    paths: SomePaths = None,
    secrets: Annotated[
        bool, typer.Option("--secrets", help="Also files that not everybody may read.")
    ] = False,
) -> None:
    """Your changes as a patch for the root filesystem, which the next release may have.

    \b
        abupdate etc diff > etc.patch
        patch -p1 -d rootfs < etc.patch        # where releases are made
    """
    from abupdate.update.etc_changes import as_patch

    found = as_patch(machine_of(context), paths or (), secrets=secrets)
    for piece in found.pieces:
        sys.stdout.buffer.write(piece)
    if found.left_out:
        print(f"Left out: {', '.join(found.left_out)}; --secrets takes them.", file=sys.stderr)


@etc.command()
def reset(context: Context, paths: Paths) -> None:
    """Make files or folders of /etc as the release has them."""
    from abupdate.update.etc_changes import reset as run_reset

    for path in run_reset(machine_of(context), paths):
        print(f"As the release has it: /etc/{path}")


@etc.command()
def resolve(context: Context, paths: Paths) -> None:
    """Say that you have looked at a conflict: it is told no more, and what lay beside goes."""
    from abupdate.update.etc_changes import resolve as run_resolve

    run_resolve(machine_of(context), paths)


@etc.command(hidden=True)
def carry(context: Context) -> None:
    """For abupdate-etc.service: what was changed since the install goes along, too."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.etc import carry_again

    if carry_again(machine_of(context), settings_of(context), terminal_events()) is not None:
        print("Your changes in /etc since the install go along.")
