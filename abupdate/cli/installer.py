"""`abupdate installer`: what a stick that installs offers on its console."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from abupdate.cli.addresses import has_page, page_addresses, qr_code
from abupdate.cli.invocation import machine_of, settings_of
from abupdate.errors import AbupdateError, InterruptedByUserError, RefusedError, fault_of

if TYPE_CHECKING:
    from abupdate.disk.drive import Drive
    from abupdate.provision.layout import Layout
    from abupdate.update.slots import Machine

_SYSRQ = Path("/proc/sysrq-trigger")


def installer(context: typer.Context) -> None:
    """Offer to install this system's own release on another disk."""
    from abupdate.provision.installer import (
        installed_layout,
        installed_state,
        own_release,
        own_rescue,
    )

    machine = machine_of(context)
    release, layout = own_release(machine), installed_layout(machine)
    offer = _Offer(context, machine, release, layout, installed_state(machine), own_rescue(machine))
    while not offer.made():
        pass
    # The stick may be gone by then, and with it every program: so the kernel is asked, by a
    # file that is open already. Nothing is left to be written.
    with _SYSRQ.open("wb", buffering=0) as kernel:
        print("\nRemove the stick, and press Enter to restart: ", end="", flush=True)
        _answer()
        kernel.write(b"b")


@dataclass(frozen=True)
class _Offer:
    """What can be installed. `made` is one round of questions."""

    context: typer.Context
    machine: Machine
    release: str
    layout: Layout
    state: Path | None
    rescue: str | None

    def made(self) -> bool:
        """Whether a disk was made; what went wrong is told, and can be tried again."""
        drives = self._disks()
        print("\nWhich disk? Its number, or Enter to look again: ", end="", flush=True)
        answer = _answer()
        if not answer.isdecimal() or not 0 < int(answer) <= len(drives):
            return False
        try:
            return self._install(drives[int(answer) - 1])
        except InterruptedByUserError:
            raise
        except (AbupdateError, OSError) as error:
            fault = error if isinstance(error, AbupdateError) else fault_of(error)
            print(f"\nNot installed: {fault.message}\n  {fault.hint or ''}")
            return False

    def _disks(self) -> list[Drive]:
        """Those that could be installed on, listed."""
        from abupdate.cli.show import printable
        from abupdate.cli.show_provision import disk_text
        from abupdate.disk import drive
        from abupdate.provision.plan import disk_facts

        print(f"\nThis installs release {self.release}. The disks of this machine:\n")
        found = []
        for path in drive.disks():
            try:
                one = drive.look(path)
                drive.refuse_if_used(one)
            except RefusedError:
                continue  # this stick, as a rule
            except (AbupdateError, OSError) as error:
                print(printable(f"     {path} cannot be read: {error}"))
                continue
            found.append(one)
            print(printable(f"{len(found):>3}  {disk_text(disk_facts(one))}"))
        if not found:
            print("  none that is not in use")
        return found

    def _install(self, drive: Drive) -> bool:
        from abupdate.cli.show import printable, terminal_events
        from abupdate.cli.show_provision import plan_text
        from abupdate.provision import permission
        from abupdate.provision.prepare import prepared
        from abupdate.provision.wishes import Wishes
        from abupdate.source.name import parse_source
        from abupdate.web.auth import make_code

        # The release that is installed is the one that runs here.
        code, kept = make_code() if has_page() else (None, None)
        rescue = parse_source(f"release/{self.rescue}") if self.rescue is not None else None
        wishes = Wishes(
            layout=self.layout, asked_later=True, state=self.state, rescue=rescue,
            page_code=None if kept is None else json.dumps(kept).encode(),
        )  # fmt: skip
        source = parse_source(f"release/{self.release}")
        settings, events = settings_of(self.context), terminal_events(stream=sys.stdout)
        with prepared(self.machine, drive.path, source, settings, wishes, events) as ready:
            print(printable(plan_text(ready.plan)))
            print(f"\nEverything on {drive.path} is lost.")
            print(f"Type {ready.plan.confirm} to go on, or Enter to go back: ", end="", flush=True)
            answer = _answer()
            if not answer:
                return False
            permission.check(drive, answer)
            done = ready.write()
        print(f"\nRelease {done.release} is on {done.disk}, and is what boots from it.")
        if code is not None:
            _show_code(code)
        return True


def _show_code(code: str) -> None:
    """How somebody gets onto the new device's page for the first time."""
    print(f"\nIts page asks for a code, once, to set the first password: {code}")
    for address in page_addresses():
        print(f"If it keeps this machine's address: {address}")
        print(qr_code(f"{address}/setup?code={code}"), end="", flush=True)


def _answer() -> str:
    """A line that a person typed. Raises `InterruptedByUserError` at the end of all lines."""
    line = sys.stdin.readline()
    if not line:
        raise InterruptedByUserError("Nobody is at this console.")
    return line.strip()
