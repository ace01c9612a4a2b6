"""The states of all pages, in a browser: also those that a person has to bring about."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.people import Person, bundle
from tests.web.live_server import LiveServer
from tests.web.states import State


def _wrong_password(person: Person, _: Path) -> None:
    person.page.get_by_label("Password").fill("a wrong password")
    person.press("Log in")
    person.sees("That is not the password")


def _sending(person: Person, folder: Path) -> None:
    """The line is lost after the first bytes."""
    person.page.route("**/api/v1/uploads/*", lambda route: route.abort())
    person.send(bundle(folder, 3 << 20))
    person.sees("The connection was lost")


def _reset(person: Person, _: Path) -> None:
    person.page.get_by_label("Both").check()
    person.ask("Factory reset")
    person.page.get_by_label("Type").fill("erase what is mine")


_BY_HAND: dict[str, Callable[[Person, Path], None]] = {
    "login-wrong": _wrong_password,
    "sending": _sending,
    "rescue-reset": _reset,
}


def show(state: State, server: LiveServer, person: Person, folder: Path) -> None:
    """Bring a page into a state, and wait until it is there."""
    path = state.prepare(server)
    if state.login:
        person.comes_in()
    person.go(path)
    if state.by_hand:
        _BY_HAND[state.name](person, folder)
    heading = person.page.get_by_role("heading", level=1)
    expect(heading).to_have_text(re.compile(state.reads))
