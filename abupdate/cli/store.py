"""The verbs of the store: `abupdate store list`, `check` and `prune`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer

from abupdate.cli.invocation import Json, machine_of, settings_of

store = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Context = typer.Context


@store.command("list")
def list_(context: Context, as_json: Json = False) -> None:
    """The releases that the store has, and what keeps each.

    One that nothing keeps goes with `abupdate store prune`; until then
    `abupdate install release/VERSION` takes it.
    """
    from abupdate.store import packs
    from abupdate.update.store_care import contents

    machine = machine_of(context)
    listed = contents(machine, settings_of(context).store.keep)
    size = packs.count(machine.store())
    if as_json:
        report = {
            "schema_version": 1,
            "releases": [asdict(one) for one in listed],
            "packs": size.count,
            "bytes": size.bytes,
        }
        print(json.dumps(report, indent=2))
        return
    for one in listed:
        when = time.strftime("%Y-%m-%d", time.gmtime(one.signed)) if one.signed else "damaged"
        reasons = ", ".join(one.wanted_by) or "nothing keeps it"
        print(f"{one.release:<16} {(one.commit or '')[:12]:<12}  {when:<10}  {reasons}")
    print(f"{size.bytes / 1e6:.1f} MB in {size.count} packs")


@store.command()
def check(context: Context) -> None:
    """Hash every object of the store; exits with 10 where one is wrong or missing."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.store_care import check as run_check

    listed = run_check(machine_of(context), terminal_events())
    print(f"Whole: {', '.join(one.release for one in listed) or 'no release'}.")


@store.command()
def prune(context: Context) -> None:
    """Drop the releases that nothing keeps (`store.keep`), and tidy up the rest.

    It may be stopped at any moment, and run again.
    """
    from abupdate.cli.show import terminal_events
    from abupdate.update.store_care import prune as run_prune

    done = run_prune(machine_of(context), settings_of(context).store.keep, terminal_events())
    freed = (done.before.bytes - done.after.bytes) / 1e6
    print(f"Dropped: {', '.join(done.dropped) or 'nothing'}; {freed:.1f} MB are free again.")


def serve(
    context: Context,
    listen: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9418,
) -> None:
    """Offer the store's releases to neighbours, read-only, until it is stopped.

    They fetch from here what they lack, and check it as from anywhere:

    \b
        abupdate install git://this-device/store.git#release/2
    """
    from abupdate.update.store_care import serve as run_serve

    print(f"Serving git://{listen}:{port}/store.git", flush=True)
    run_serve(machine_of(context), listen, port)
