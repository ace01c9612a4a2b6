"""The verbs of the rescue system: `abupdate rescue boot`, `update`, `reflash`.

Each command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from abupdate.cli.invocation import machine_of, settings_of, systemctl, wishes_of
from abupdate.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from abupdate.events import Events
    from abupdate.rescue.reflash import Lost
    from abupdate.source.source import Source
    from abupdate.update.slots import Machine

rescue = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Context = typer.Context

# What must be typed before a factory reset.
LOSE = "lose it"


class Which(StrEnum):
    """The slots to put back."""

    A = "A"
    B = "B"
    BOTH = "both"


_SOURCE = (
    "A bundle file, - for standard input, http(s)://…, REMOTE#release/VERSION, or release/VERSION "
    "of the store."
)
ProgressFd = Annotated[
    int | None, typer.Option("--progress-fd", help="File descriptor for progress as JSON lines.")
]
Reboot = Annotated[bool, typer.Option("--reboot", help="Reboot when it is done.")]


@rescue.command()
def boot(context: Context, reboot: Reboot = False) -> None:
    """Start rescue at the next boot, and only then."""
    from abupdate.rescue.once import boot_once

    boot_once(machine_of(context))
    print("Rescue is what boots next, once.")
    if reboot:
        systemctl("reboot")


@rescue.command()
def update(
    context: Context,
    source: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=_SOURCE)],
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Also an older one than what is there.")
    ] = False,
    progress_fd: ProgressFd = None,
) -> None:
    """Replace the rescue system by the one in SOURCE.

    It must be signed, and made for COMPATIBLE:rescue (docs/rescue.md). A confirmed slot stands
    in for rescue while it is written; cut off, it is run again.
    """
    from abupdate.cli.show import terminal_events
    from abupdate.rescue.partition import replace_rescue
    from abupdate.source.name import parse_source

    done = replace_rescue(
        machine_of(context), [parse_source(text) for text in source], settings_of(context),
        terminal_events(progress_fd), allow_downgrade=allow_downgrade,
    )  # fmt: skip
    before = f", in place of {done.before}" if done.before else ""
    print(f"Release {done.release} is the rescue system{before}.")


@rescue.command()
def reflash(
    context: Context,
    which: Annotated[Which, typer.Argument(metavar="A|B|both", help="The slots to write.")],
    source: Annotated[list[str] | None, typer.Argument(metavar="[SOURCE...]", help=_SOURCE)] = None,
    stick: Annotated[
        bool, typer.Option("--stick", help="The newest bundle of the USB stick labelled ABUPDATE.")
    ] = False,
    factory_reset: Annotated[
        bool, typer.Option("--factory-reset", help="Lose the owner's data and changes in /etc.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --factory-reset: do not ask.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also a release that was tried and given up.")
    ] = False,
    reboot: Reboot = False,
    progress_fd: ProgressFd = None,
) -> None:
    """Put slots back, from rescue; the last one is armed.

    By the same transaction as an install: signature, content, read back. Data and changes in
    /etc stay.

    \b
        abupdate rescue reflash A https://example.org/gateway-2.bundle --reboot
        abupdate rescue reflash both --stick
    """
    from abupdate.cli.show import terminal_events
    from abupdate.disk.layout import Slot
    from abupdate.rescue.reflash import reflash as run_reflash

    machine, events = machine_of(context), terminal_events(progress_fd)
    slots = [Slot.A, Slot.B] if which is Which.BOTH else [Slot(which)]
    with ExitStack() as stack:
        sources = _sources(machine, source or [], stack, events, stick=stick)
        if factory_reset and not yes:
            _ask_to_lose(machine)
        done = run_reflash(
            machine, slots, sources, settings_of(context), events,
            factory_reset=factory_reset, retry_failed=retry_failed,
        )  # fmt: skip
    last = done[-1]
    for one in done[:-1]:
        print(f"Release {one.release} is in slot {one.slot}; `abupdate arm` lets GRUB try it.")
    print(f"Release {last.release} is installed in slot {last.slot}, on trial from the next boot.")
    if reboot:
        systemctl("reboot")


def _sources(
    machine: Machine, texts: list[str], stack: ExitStack, events: Events, *, stick: bool
) -> list[Source]:
    from abupdate.source.local import FileSource
    from abupdate.source.name import parse_source

    if stick == bool(texts):
        raise UsageError(
            "Either a SOURCE or --stick was expected, found " + ("both." if stick else "neither."),
            "abupdate rescue reflash A gateway-2.bundle",
        )
    if not stick:
        return [parse_source(text) for text in texts]
    from abupdate.rescue.stick import stick_bundles

    machine.paths.runtime.mkdir(parents=True, exist_ok=True)
    at = machine.paths.runtime / "stick"
    found = stack.enter_context(stick_bundles(machine.booted().disk, at, events))
    return [FileSource(path) for path in found]


def _ask_to_lose(machine: Machine) -> None:
    from abupdate.rescue.reflash import would_be_lost

    print("A factory reset loses, for good:")
    for lost in would_be_lost(machine):
        print(f"  {_lost_text(lost)}")
    if not sys.stdin.isatty():
        raise RefusedError(
            "Nobody can be asked here, and nothing was lost.", "`--yes` says that it may be."
        )
    print(f"Type '{LOSE}' to go on: ", end="", flush=True)
    if sys.stdin.readline().strip() != LOSE:
        raise RefusedError("Nothing was lost, and nothing written.")


def _lost_text(lost: Lost) -> str:
    return f"{lost.path}: {lost.files} files, {lost.bytes / 1e6:.1f} MB"


@rescue.command(hidden=True)
def retry(context: Context) -> None:
    """For abupdate-rescue-retry.timer: leave rescue for what was good, once nobody is there."""
    from abupdate.cli.show import terminal_events
    from abupdate.rescue.retry import retry as run_retry
    from abupdate.rescue.retry import retry_due

    machine, settings, events = machine_of(context), settings_of(context), terminal_events()
    if not retry_due(machine, settings):
        return
    try:
        slot = run_retry(machine, settings, events)
    except RefusedError as error:
        print(f"Rescue waits: {error.message}")
        return
    print(f"Slot {slot} is tried again.")
    systemctl("reboot")


@rescue.command(hidden=True)
def repair(context: Context) -> None:
    """For abupdate-rescue-repair.service: what is safe by itself, before anybody asks."""
    from abupdate.cli.show_doctor import doctor_text, tell
    from abupdate.doctor.repair import repair as run_repair
    from abupdate.rescue.retry import note_mended

    wishes = wishes_of(context)
    if not wishes.settings.rescue.repair:
        return
    machine = machine_of(context)
    report = run_repair(machine, wishes, tell)
    print(doctor_text(report))
    if report.repaired:
        note_mended(machine)


@rescue.command(hidden=True)
def menu(context: Context) -> None:
    """What rescue offers on its consoles."""
    from abupdate.cli.rescue_menu import run_menu

    run_menu(context)
