"""The verbs of a device: `abupdate install`, `status`, `rollback` and the others.

Each command imports what it needs when it runs, so that `status` is quick.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from abupdate.cli.invocation import Json, machine_of, settings_of, systemctl, wishes_of
from abupdate.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from abupdate.disk.layout import Slot
    from abupdate.events import Events


class Verify(StrEnum):
    """What an install reads back from the disk."""

    WRITTEN = "written"
    FULL = "full"


_SOURCE = (
    "A bundle file, - for standard input, http(s)://…, or release/VERSION for one in the store; "
    "where there are several, the next one is asked when one does not give it."
)
Sources = Annotated[list[str], typer.Argument(metavar="SOURCE...", help=_SOURCE)]
Context = typer.Context


def register(app: typer.Typer) -> None:
    """Add the device's verbs to the command."""
    for command in (status, install, info, arm, cancel, rollback, verify, history, doctor):
        app.command()(command)
    config = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)
    config.command("show")(config_show)
    app.add_typer(config, name="config")


def status(context: Context, as_json: Json = False) -> None:
    """What runs, what each slot holds, and what became of the last install.

    Success is said only after a release was confirmed: until then it is
    "installed, on trial".
    """
    from abupdate.update.status import collect

    report = collect(machine_of(context))
    if as_json:
        print(json.dumps(asdict(report), indent=2))
        return
    from abupdate.cli.show import printable, status_text

    print(printable(status_text(report)))


def install(
    context: Context,
    source: Sources,
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
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Also an older release than what runs.")
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Give a shell where a fixup or hook fails.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Fetch and check it, tell what would be done, change nothing."
        ),
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

    release/VERSION takes one that an earlier install left in the store; REMOTE#release/VERSION
    and REMOTE#channel/NAME take what a git repository has.

    The release's fixups and your hooks (/etc/abupdate/hooks/pre-install.d and
    post-install.d) run isolated; when one fails, nothing is armed.
    """
    from abupdate.cli.show import terminal_events
    from abupdate.source.name import parse_source
    from abupdate.update.install import install as run_install

    if interactive and ("-" in source or not sys.stdin.isatty()):
        raise UsageError(
            "--interactive needs a terminal as standard input, found none.",
            "Run it in a terminal with a bundle file, or leave --interactive out.",
        )
    events = terminal_events(progress_fd)
    settings = settings_of(context)
    if dry_run:
        _tell_dry_run(context, source, events, retry_failed, allow_downgrade)
        return
    done = run_install(
        machine_of(context), [parse_source(text) for text in source], settings, events,
        arm=not no_arm, full_verify=None if verify is None else verify is Verify.FULL,
        retry_failed=retry_failed, allow_downgrade=allow_downgrade, interactive=interactive,
    )  # fmt: skip
    if not done.armed:
        print(f"Release {done.release} is in slot {done.slot}; `abupdate arm` lets GRUB try it.")
        return
    print(f"Release {done.release} is installed in slot {done.slot}, on trial from the next boot.")
    if reboot:
        systemctl("reboot")
    elif reboot_exit_code:
        raise typer.Exit(ExitCode.REBOOT_NEEDED)


def _tell_dry_run(
    context: Context, source: list[str], events: Events, retry_failed: bool, allow_downgrade: bool
) -> None:
    from abupdate.cli.show import info_text, printable
    from abupdate.source.name import parse_source
    from abupdate.update.info import inspect

    found = inspect(
        machine_of(context), [parse_source(text) for text in source], settings_of(context), events,
        retry_failed=retry_failed, allow_downgrade=allow_downgrade,
    )  # fmt: skip
    print(printable(info_text(found)))
    if found.refused:
        raise typer.Exit(found.exit_code)
    print("It would be installed. Nothing was changed.")


def info(
    context: Context,
    source: Sources,
    as_json: Json = False,
) -> None:
    """Who signed a release, what is in it, and what an install would do; nothing is changed."""
    from abupdate.cli.show import info_text, terminal_events
    from abupdate.source.name import parse_source
    from abupdate.update.info import inspect

    events = terminal_events()
    sources = [parse_source(text) for text in source]
    found = inspect(machine_of(context), sources, settings_of(context), events)
    print(json.dumps(asdict(found), indent=2) if as_json else info_text(found))


def arm(context: Context) -> None:
    """Let GRUB try the release that `install --no-arm` wrote."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.arming import arm_installed

    slot = arm_installed(machine_of(context), terminal_events())
    print(f"Slot {slot} is armed; reboot to try it.")


def cancel(context: Context) -> None:
    """Stop the install that runs, or `store prune`; the running slot stays what boots next."""
    from abupdate.update.cancel import cancel as run_cancel

    run_cancel(machine_of(context))
    print("It is stopped; the booted slot stays what boots next.")


def rollback(
    context: Context,
    release: Annotated[
        str | None,
        typer.Argument(metavar="[RELEASE]", help="A release of the store; else the other slot's."),
    ] = None,
) -> None:
    """Go back to the system in the other slot: armed and tried like an update.

    RELEASE is installed from the store when the other slot holds something else. Nothing
    below the version floor is taken.
    """
    from abupdate.cli.show import terminal_events
    from abupdate.update import confirm

    machine, events = machine_of(context), terminal_events()
    if release is None or confirm.holds(machine, release):
        print(confirm.rollback(machine, events).text)
        return
    from abupdate.source.name import parse_source
    from abupdate.update.install import install as run_install

    source = parse_source(f"release/{release}")
    done = run_install(machine, [source], settings_of(context), events, allow_downgrade=True)
    print(f"Release {done.release} is installed in slot {done.slot}, on trial from the next boot.")


def verify(
    context: Context,
    slot: Annotated[str | None, typer.Argument(help="A or B; the booted slot by default.")] = None,
) -> None:
    """Read a slot again from the disk and compare every byte with its commit."""
    from abupdate.cli.show import terminal_events
    from abupdate.update.verify import verify_slot

    done = verify_slot(machine_of(context), _slot(slot), terminal_events())
    print(f"Slot {done.slot} equals release {done.release} ({done.commit[:12]}).")


def history(context: Context, as_json: Json = False) -> None:
    """Everything that happened on this device, oldest first."""
    entries = machine_of(context).records.history()
    if as_json:
        entries_json = [asdict(entry) for entry in entries]
        print(json.dumps({"schema_version": 1, "entries": entries_json}, indent=2))
        return
    from abupdate.cli.show import history_text, printable

    print(printable(history_text(entries)))


def doctor(
    context: Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what is safe to mend, and look again.")
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="A repair by which something may be lost; `abupdate doctor` names it, and what.",
        ),
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="Where releases that the store lost are fetched; REMOTE# for a git repository.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what --repair would do, and change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look for what is wrong: disk, ESP, GRUB, boot state, labels, data, who may sign, the store.

    --repair says what it does, and why, before it does it:

    \b
        abupdate doctor --repair --dry-run
        abupdate doctor --repair --from https://updates.example/gateway-2.bundle

    In rescue it can do more than while a slot runs (abupdate rescue boot). Exits with 11 when an
    error stays; docs/doctor.md lists what can be found, and what is done about it.
    """
    from abupdate.cli.show_doctor import doctor_text, tell
    from abupdate.doctor.examine import examine
    from abupdate.doctor.repair import repair as run_repair

    if (also or sources or dry_run) and not repair:
        raise UsageError("--also, --from and --dry-run go with --repair.", "Add --repair.")
    machine = machine_of(context)
    if not repair:
        report = examine(machine)
    else:
        wishes = wishes_of(context, also or [], sources or [])
        if dry_run:
            report = examine(machine, wishes)
        else:
            report = run_repair(machine, wishes, (lambda _: None) if as_json else tell)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(doctor_text(report, dry_run=dry_run))
    if not report.sound:
        raise typer.Exit(ExitCode.DEVICE_FAULT)


def config_show(
    context: Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value is set.")] = False,
) -> None:
    """All settings with their values."""
    from abupdate.config import load

    loaded = load(machine_of(context).paths)
    for section, values in loaded.settings.model_dump().items():
        print(f"[{section}]")
        for key, value in values.items():
            line = f"{key} = {json.dumps(value)}"
            if origin:
                line = f"{line:<32} # {loaded.origins.get(f'{section}.{key}', 'default')}"
            print(line)
        print()


def _slot(name: str | None) -> Slot | None:
    from abupdate.disk.layout import Slot

    if name is None:
        return None
    if name not in ("A", "B"):
        raise typer.BadParameter(f"a slot is A or B, not {name!r}")
    return Slot(name)
