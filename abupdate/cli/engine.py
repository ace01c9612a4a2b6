"""`abupdate engine`: the privileged half of the page, for its unit; and the process of a job."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Annotated

import typer

from abupdate.cli.invocation import machine_of

if TYPE_CHECKING:
    from abupdate.run import Process

engine = typer.Typer(no_args_is_help=True, rich_markup_mode=None, hidden=True)


@engine.command()
def serve(context: typer.Context) -> None:
    """For abupdate-engine.service: answer the page's calls on /run/abupdate/engine.sock."""
    import asyncio
    import signal

    from abupdate.engine import server

    machine = machine_of(context)
    listening = server.listen(machine.paths.runtime)

    async def until_stopped() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await server.serve(server.Engine(machine, _launch), listening, server.callers(), stop)

    asyncio.run(until_stopped())


@engine.command()
def job(
    context: typer.Context,
    name: str,
    held: Annotated[
        int | None, typer.Option(help="The descriptor that tells that it lives.")
    ] = None,
) -> None:
    """For the engine: do what was asked of it."""
    from abupdate.engine.work import run_job

    raise typer.Exit(run_job(machine_of(context), name, held))


def _launch(name: str, held: int, log: IO[bytes]) -> Process:
    from abupdate.run import start_apart

    words = ["abupdate", "engine", "job", name, "--held", str(held)]
    return start_apart(words, held=[held], log=log)
