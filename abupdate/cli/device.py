"""The verbs of a device: `abupdate install`, `status`, `confirm` and the others.

Each command imports what it needs when it runs, so that `status` is quick.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abupdate.errors import ExitCode, SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abupdate.config import Settings
    from abupdate.disk.layout import Slot
    from abupdate.update.admit import Source
    from abupdate.update.judge import Verdict
    from abupdate.update.slots import Machine


class Verify(StrEnum):
    """What an install reads back from the disk."""

    WRITTEN = "written"
    FULL = "full"


_STORED = "release/"
_SOURCE = "A bundle file, - for standard input, or release/VERSION for one in the store."
Json = Annotated[bool, typer.Option("--json", help="Machine-readable, with a schema version.")]
ByBoot = Annotated[bool, typer.Option("--boot", hidden=True)]
Context = typer.Context


def register(app: typer.Typer) -> None:
    """Add the device's verbs to the command."""
    for command in (
        status,
        install,
        info,
        arm,
        cancel,
        confirm,
        reject,
        rollback,
        verify,
        history,
        why,
        acknowledge,
        check,
        doctor,
    ):
        app.command()(command)
    for by_unit in (started, deadline):
        app.command(hidden=True)(by_unit)
    config = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)
    config.command("show")(config_show)
    app.add_typer(config, name="config")


def status(context: Context, as_json: Json = False) -> None:
    """What runs, what each slot holds, and what became of the last install.

    Success is said only after a release was confirmed: until then it is
    "installed, on trial".
    """
    from abupdate.update.status import collect

    report = collect(_machine(context))
    if as_json:
        print(json.dumps(asdict(report), indent=2))
        return
    from abupdate.cli.show import printable, status_text

    print(printable(status_text(report)))


def install(
    context: Context,
    source: Annotated[str, typer.Argument(help=_SOURCE)],
    no_arm: Annotated[
        bool, typer.Option("--no-arm", help="Write and verify, but do not try it at the next boot.")
    ] = False,
    verify: Annotated[
        Verify | None,
        typer.Option(
            help="Read back what was written, or the full slot; default: `install.verify`.",
            show_default=False,
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also a release that was tried and given up.")
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Give a shell where a fixup or hook fails.")
    ] = False,
    reboot: Annotated[bool, typer.Option("--reboot", help="Reboot when it is armed.")] = False,
    reboot_exit_code: Annotated[
        bool, typer.Option("--reboot-exit-code", help="Exit with 4 when a reboot is needed.")
    ] = False,
    progress_fd: Annotated[
        int | None, typer.Option(help="File descriptor for progress as JSON lines.")
    ] = None,
) -> None:
    """Install a release into the other slot and arm it.

    The running slot is never written. The signature is checked before anything
    is touched, what was written is read back from the disk, and only then is
    GRUB told to try it:

    \b
        abupdate install gateway-2.bundle && reboot

    release/VERSION takes one that an earlier install left in the store.

    The release's fixups and your hooks (/etc/abupdate/hooks/pre-install.d and
    post-install.d) run isolated; when one fails, nothing is armed.
    """
    from abupdate.cli.show import terminal_events
    from abupdate.update.install import install as run_install

    if interactive and (source == "-" or not sys.stdin.isatty()):
        raise UsageError(
            "--interactive needs a terminal as standard input, found none.",
            "Run it in a terminal with a bundle file, or leave --interactive out.",
        )
    events = terminal_events(progress_fd)
    settings = _settings(context)
    with _opened(source) as stream:
        done = run_install(
            _machine(context), stream, source, settings, events,
            arm=not no_arm, full_verify=None if verify is None else verify is Verify.FULL,
            retry_failed=retry_failed, interactive=interactive,
        )  # fmt: skip
    if not done.armed:
        print(f"Release {done.release} is in slot {done.slot}; `abupdate arm` lets GRUB try it.")
        return
    print(f"Release {done.release} is installed in slot {done.slot}, on trial from the next boot.")
    if reboot:
        _reboot()
    elif reboot_exit_code:
        raise typer.Exit(ExitCode.REBOOT_NEEDED)


def info(
    context: Context,
    source: Annotated[str, typer.Argument(help=_SOURCE)],
    as_json: Json = False,
) -> None:
    """Who signed a release, what is in it, and what an install would do; nothing is changed."""
    from abupdate.cli.show import info_text, terminal_events
    from abupdate.update.info import inspect

    events = terminal_events()
    with _opened(source) as stream:
        found = inspect(_machine(context), stream, _settings(context), events)
    print(json.dumps(asdict(found), indent=2) if as_json else info_text(found))


def arm(context: Context) -> None:
    """Let GRUB try the release that `install --no-arm` wrote."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.install import arm_installed

    slot = arm_installed(_machine(context), terminal_events())
    print(f"Slot {slot} is armed; reboot to try it.")


def cancel(context: Context) -> None:
    """Stop the install that runs; the running slot stays what boots next."""
    from abupdate.update.cancel import cancel as run_cancel

    run_cancel(_machine(context))
    print("The install is stopped; the booted slot stays what boots next.")


def confirm(context: Context, boot: ByBoot = False) -> None:
    """Keep the release that runs on trial, for good."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.confirm import confirm as run_confirm
    from abupdate.update.verdict import boot_passed

    judge = boot_passed if boot else run_confirm
    _finish(judge(_machine(context), _settings(context), terminal_events()))


def reject(context: Context, boot: ByBoot = False) -> None:
    """Give up the release that is armed or on trial; the other slot boots next."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.confirm import reject as run_reject
    from abupdate.update.verdict import boot_failed

    if not boot:
        _finish(run_reject(_machine(context), terminal_events()))
        return
    _obey(boot_failed(_machine(context), terminal_events()))


def rollback(context: Context) -> None:
    """Go back to the system in the other slot: armed and tried like an update."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.confirm import rollback as run_rollback

    _finish(run_rollback(_machine(context), terminal_events()))


def verify(
    context: Context,
    slot: Annotated[str | None, typer.Argument(help="A or B; the booted slot by default.")] = None,
) -> None:
    """Read a slot again from the disk and compare every byte with its commit."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.verify import verify_slot

    done = verify_slot(_machine(context), _slot(slot), terminal_events())
    print(f"Slot {done.slot} equals release {done.release} ({done.commit[:12]}).")


def history(context: Context, as_json: Json = False) -> None:
    """Everything that happened on this device, oldest first."""
    entries = _machine(context).records.history()
    if as_json:
        entries_json = [asdict(entry) for entry in entries]
        print(json.dumps({"schema_version": 1, "entries": entries_json}, indent=2))
        return
    from abupdate.cli.show import history_text, printable

    print(printable(history_text(entries)))


def why(context: Context, as_json: Json = False) -> None:
    """Why the last release did not stay: its boots, what failed, and the log of it."""
    from abupdate.update.why import tell

    story = tell(_machine(context))
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

    _finish(run_acknowledge(_machine(context), terminal_events()))


def check(context: Context, as_json: Json = False, boot: ByBoot = False) -> None:
    """Run the health checks now and show what they find; nothing is confirmed or given up.

    Exits with 7 when a required one fails.
    """
    from abupdate.cli.show import printable
    from abupdate.cli.show_health import checks_json, checks_text

    machine = _machine(context)
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

    boot_began(_machine(context), terminal_events())


def deadline(context: Context) -> None:
    """For abupdate-deadline.timer: leave a trial that nobody judged in time."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.verdict import deadline_passed

    verdict = deadline_passed(_machine(context), terminal_events())
    if verdict is None:
        return
    _obey(verdict)
    if not verdict.reboot:
        _systemctl("stop", "--no-block", "abupdate-deadline.timer")


def doctor(
    context: Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what is safe to mend, and look again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look for what is wrong with the boot side: boot state, ESP, labels, GRUB itself.

    Exits with 11 when an error stays; docs/doctor.md lists what can be found.
    """
    from abupdate.update import doctor as doctors

    machine = _machine(context)
    report = doctors.repair(machine) if repair else doctors.examine(machine)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        from abupdate.cli.show import doctor_text

        print(doctor_text(report))
    if not report.sound:
        raise typer.Exit(ExitCode.DEVICE_FAULT)


def config_show(
    context: Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value is set.")] = False,
) -> None:
    """All settings with their values."""
    from abupdate.config import load

    loaded = load(_machine(context).paths)
    for section, values in loaded.settings.model_dump().items():
        print(f"[{section}]")
        for key, value in values.items():
            line = f"{key} = {json.dumps(value)}"
            if origin:
                line = f"{line:<32} # {loaded.origins.get(f'{section}.{key}', 'default')}"
            print(line)
        print()


def _machine(context: Context) -> Machine:
    from abupdate.update.slots import Machine, this_machine

    injected = context.obj
    return injected if isinstance(injected, Machine) else this_machine()


def _settings(context: Context) -> Settings:
    from abupdate.config import load

    return load(_machine(context).paths).settings


def _slot(name: str | None) -> Slot | None:
    from abupdate.disk.layout import Slot

    if name is None:
        return None
    if name not in ("A", "B"):
        raise typer.BadParameter(f"a slot is A or B, not {name!r}")
    return Slot(name)


@contextmanager
def _opened(source: str) -> Iterator[Source]:
    if source.startswith(_STORED):
        from abupdate.release.metadata import Version

        yield Version.parse(source.removeprefix(_STORED))
        return
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 - closed below; only the opening is caught
    except OSError as error:
        raise SourceError(
            f"A bundle should be readable at {source}: {error.strerror}.",
            "Give the path of a bundle file, - for standard input, or release/VERSION.",
        ) from error
    with stream:
        yield stream


def _finish(verdict: Verdict) -> None:
    print(verdict.text)


def _obey(verdict: Verdict) -> None:
    """A verdict that a unit asked for. Nobody who holds back a shutdown holds back this reboot."""
    print(verdict.text)
    if verdict.reboot:
        _systemctl("start", "--no-block", "--job-mode=replace-irreversibly", "reboot.target")


def _reboot() -> None:
    _systemctl("reboot")


def _systemctl(*words: str) -> None:
    from abupdate.run import run

    run(["systemctl", *words])
