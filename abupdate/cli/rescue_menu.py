"""What rescue offers on each console: a plain menu, for a person with a keyboard or a cable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from abupdate.cli.addresses import addresses, has_page
from abupdate.cli.invocation import machine_of, systemctl
from abupdate.errors import (
    AbupdateError,
    ExitCode,
    InterruptedByUserError,
    UsageError,
    fault_of,
)

if TYPE_CHECKING:
    import typer

_WIDTH = 46


def run_menu(context: typer.Context) -> None:
    """Offer, do, and offer again, until the machine reboots."""
    _Menu(context).run()


@dataclass(frozen=True)
class _Menu:
    context: typer.Context

    def run(self) -> None:
        from abupdate.rescue.retry import attend

        choices = self._choices()
        while True:
            self._show(choices)
            answer = _answer()
            if answer:
                attend(machine_of(self.context))
            if not answer.isdecimal() or not 0 < int(answer) <= len(choices):
                continue
            print()
            try:
                choices[int(answer) - 1][1]()
            except InterruptedByUserError:
                print("Stopped.")
            except (AbupdateError, OSError) as error:
                fault = error if isinstance(error, AbupdateError) else fault_of(error)
                print(f"\n{fault.message}\n  {fault.hint or ''}")

    def _choices(self) -> list[tuple[str, Callable[[], object]]]:
        return [
            ("Show what is wrong", lambda: self._abupdate("doctor")),
            ("Repair what can be repaired", lambda: self._abupdate("doctor", "--repair")),
            ("Install from a USB stick labelled ABUPDATE", lambda: self._reflash("--stick")),
            ("Install from an address", self._from_address),
            ("Install what the store has", self._from_store),
            ("Show the network", self._network),
            *self._code(),
            ("Restart", lambda: systemctl("reboot")),
            ("Switch off", lambda: systemctl("poweroff")),
        ]

    def _code(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Where the page is installed."""
        if has_page():
            yield (
                "Show a code that sets the page's password",
                lambda: self._abupdate("web", "code", "--new"),
            )

    def _show(self, choices: list[tuple[str, Callable[[], object]]]) -> None:
        from abupdate.cli.show import printable, status_text
        from abupdate.update.status import collect

        print("\n" + "-" * _WIDTH + "\nabupdate rescue\n")
        try:
            print(printable(status_text(collect(machine_of(self.context)))))
        except (AbupdateError, OSError) as error:
            print(f"  {error}")
        print()
        for number, (text, _) in enumerate(choices, start=1):
            print(f"{number:>3}  {text}")
        print("\nA number, or Enter to look again: ", end="", flush=True)

    def _abupdate(self, *words: str) -> bool:
        """As typed at a shell, so that what is said there is said here; whether it went well."""
        from abupdate.cli.main import main

        return main(words, self.context.obj) == ExitCode.OK

    def _reflash(self, *words: str) -> None:
        print("Into slot A, B, or both (a slot that is sound is better left): ", end="", flush=True)
        which = _answer()
        if which not in ("A", "B", "both"):
            raise UsageError(f"A, B or both was expected, found '{which}'.", "Nothing was written.")
        if self._abupdate("rescue", "reflash", which, *words):
            print("Restart to try it.")

    def _from_address(self) -> None:
        print("Address of the bundle (http://… or https://…): ", end="", flush=True)
        address = _answer()
        if not address.startswith(("http://", "https://")):
            raise UsageError(f"An address was expected, found '{address}'.", "Nothing was written.")
        self._reflash(address)

    def _from_store(self) -> None:
        from abupdate.update.store_care import contents

        found = contents(machine_of(self.context), 0)
        print("Releases: " + (", ".join(one.release for one in found) or "none"))
        print("Which: ", end="", flush=True)
        self._reflash(f"release/{_answer()}")

    def _network(self) -> None:
        found = addresses()
        for name, address in found:
            print(f"  {name:<12} {address}")
        if not found:
            print("  No interface has an address: is a cable plugged in, does anybody give any?")


def _answer() -> str:
    """A line that a person typed. Raises `InterruptedByUserError` at the end of all lines."""
    line = sys.stdin.readline()
    if not line:
        raise InterruptedByUserError("Nobody is at this console.")
    return line.strip()
