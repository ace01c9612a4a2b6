"""The verbs around a trial: its health check and verdict, by units and by hand, and its story."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from abupdate.cli import invocation
from abupdate.cli.invocation import Json, machine_of, settings_of
from abupdate.errors import ExitCode

if TYPE_CHECKING:
    from abupdate.update.judge import Verdict

ByBoot = Annotated[bool, typer.Option("--boot", hidden=True)]
Context = typer.Context


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    for command in (confirm, reject, why, acknowledge, check):
        app.command()(command)
    for by_unit in (started, deadline):
        app.command(hidden=True)(by_unit)


def confirm(context: Context, boot: ByBoot = False) -> None:
    """Keep the release that runs on trial, for good."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.confirm import confirm as run_confirm
    from abupdate.update.verdict import boot_passed

    judge = boot_passed if boot else run_confirm
    print(judge(machine_of(context), settings_of(context), terminal_events()).text)


def reject(context: Context, boot: ByBoot = False) -> None:
    """Give up the release that is armed or on trial; the other slot boots next."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.confirm import reject as run_reject
    from abupdate.update.verdict import boot_failed

    if not boot:
        print(run_reject(machine_of(context), terminal_events()).text)
        return
    _obey(boot_failed(machine_of(context), terminal_events()))


def why(context: Context, as_json: Json = False) -> None:
    """Why the last release did not stay: its boots, what failed, and the log of it."""
    from abupdate.update.why import tell

    story = tell(machine_of(context))
    if as_json:
        print(json.dumps(asdict(story), indent=2))
        return
    from abupdate.cli.show import printable
    from abupdate.cli.show_health import why_text

    print(printable(why_text(story)))


def acknowledge(context: Context) -> None:
    """Say that the last fallback is known; `status` no longer tells it."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.confirm import acknowledge as run_acknowledge

    print(run_acknowledge(machine_of(context), terminal_events()).text)


def check(context: Context, as_json: Json = False, boot: ByBoot = False) -> None:
    """Run the health checks now and show what they find; nothing is confirmed or given up.

    Exits with 7 when a required one fails.
    """
    from abupdate.cli.show import printable
    from abupdate.cli.show_health import checks_json, checks_text

    machine = machine_of(context)
    if boot:
        from abupdate.cli.show import terminal_events
        from abupdate.update.verdict import check_boot

        found = check_boot(machine, terminal_events())
    else:
        from abupdate.update.health import health_check

        found = health_check(machine).once()
    try:
        print(
            json.dumps(checks_json(found), indent=2) if as_json else printable(checks_text(found))
        )
    finally:
        if found.failed:  # whoever reads it, or not: the exit code is the verdict
            raise typer.Exit(ExitCode.REFUSED)


def started(context: Context) -> None:
    """For abupdate-started.service: note on data that a boot of a trial began."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.verdict import boot_began

    boot_began(machine_of(context), terminal_events())


def deadline(context: Context) -> None:
    """For abupdate-deadline.timer: leave a trial that nobody judged in time."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.verdict import deadline_passed

    verdict = deadline_passed(machine_of(context), terminal_events())
    if verdict is None:
        return
    _obey(verdict)
    if not verdict.reboot:
        invocation.systemctl("stop", "--no-block", "abupdate-deadline.timer")


def _obey(verdict: Verdict) -> None:
    """A verdict that a unit asked for. Nobody who holds back a shutdown holds back this reboot."""
    print(verdict.text)
    if verdict.reboot:
        invocation.systemctl(
            "start", "--no-block", "--job-mode=replace-irreversibly", "reboot.target"
        )
