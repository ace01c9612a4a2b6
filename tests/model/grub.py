"""Runs of GRUB, by `abupdate.boot.state.grub`, each once for what it depends on."""

from __future__ import annotations

from typing import NamedTuple

from abupdate.boot import state as boot
from tests.model.world import States, World


class Run(NamedTuple):
    """What GRUB boots, and both copies of the state afterwards."""

    boots: str | None
    how: str | None
    copy: str | None
    primary: int
    backup: int


class Grub:
    """The real rules, remembered."""

    def __init__(self, states: States) -> None:
        self._states = states
        self._runs: dict[tuple[int, int, str, bool], Run] = {}

    def run(self, primary: int, backup: int, loads: str, saves: bool) -> Run:
        """One run of GRUB, without its effect on a world."""
        key = (primary, backup, loads, saves)
        found = self._runs.get(key)
        if found is None:
            found = self._runs[key] = self._boot(*key)
        return found

    def _boot(self, primary: int, backup: int, loads: str, saves: bool) -> Run:
        state = self._states.state
        done = boot.grub(state(primary), state(backup), loads, saves=saves)
        if done.state is not None:
            number = self._states.number(done.state)
            if done.copy == "primary":
                primary = number
            else:
                backup = number
        return Run(done.boots, done.how, done.copy, primary, backup)

    def offered(self, world: World) -> list[tuple[str, str]]:
        """What the menu of grub.cfg offers and GRUB can load: (what, abupdate.boot)."""
        state = self._states.state(world.primary) or self._states.state(world.backup)
        good = state.good if state else "AB"
        offers = [(name, "normal") for name in "AB" if name in good]
        if state and state.on_trial:
            offers.append((state.on_trial, "trial"))
        offers.append(("R", "rescue"))
        loads = world.loads()
        return [offer for offer in offers if offer[0] in loads]
