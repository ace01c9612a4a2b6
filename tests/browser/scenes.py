"""Each page in each state that it can be in: what is looked at, tested and pictured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.people import Person, bundle
from tests.web.fake_engine import NEW, Scene
from tests.web.live_server import PASSWORD, LiveServer

Show = Callable[[LiveServer, Person, Path], None]


def _setup(_: LiveServer, person: Person, __: Path) -> None:
    person.go("/setup")


def _login(_: LiveServer, person: Person, __: Path) -> None:
    person.go("/login")


def _wrong_password(_: LiveServer, person: Person, __: Path) -> None:
    person.go("/login")
    person.page.get_by_label("Password").fill("wrong password")
    person.press("Log in")


def _at(scene: Scene, path: str, words: str) -> Show:
    def show(server: LiveServer, person: Person, _: Path) -> None:
        server.do(lambda: server.engine.set_scene(scene))
        person.go(path)
        if "/login" in person.page.url:
            person.page.get_by_label("Password").fill(PASSWORD)
            person.press("Log in")
        person.sees(words)

    return show


def _sending(server: LiveServer, person: Person, folder: Path) -> None:
    """The line is lost in the middle."""
    server.do(lambda: server.engine.set_scene("ok"))
    person.page.route("**/api/v1/uploads/*", lambda route: route.abort())
    person.send(bundle(folder, 3 << 20))
    person.sees("The connection was lost")


def _proposal(server: LiveServer, person: Person, folder: Path) -> None:
    person.page.unroute_all()
    person.page.get_by_role("button", name="Cancel").click()
    person.send(bundle(folder))
    person.reads(f"Release {NEW}")


def _installing(server: LiveServer, person: Person, _: Path) -> None:
    server.engine.pause_at = "write"
    person.press(f"Install release {NEW}")
    person.reads("Installing")
    expect(person.page.get_by_role("progressbar", name=f"Write release {NEW}")).to_be_visible()


def _busy(_: LiveServer, person: Person, __: Path) -> None:
    person.go("/update")
    person.sees("Another job runs")


def _installed(server: LiveServer, person: Person, _: Path) -> None:
    server.do(server.engine.resume)
    person.go("/")
    person.page.get_by_role("link", name="History").click()
    person.page.get_by_role("link", name=f"Installing release {NEW}").click()
    person.sees("Restart now")


def _failed(server: LiveServer, person: Person, folder: Path) -> None:
    server.do(lambda: server.engine.set_scene("ok"))
    server.engine.fail_at = "trust"
    person.send(bundle(folder))
    person.sees("No trusted key has signed this release.")
    server.engine.fail_at = None


SCENES: dict[str, Show] = {
    "setup": _setup,
    "login": _login,
    "login-wrong": _wrong_password,
    "overview": _at("ok", "/", "The disk"),
    "overview-armed": _at("armed", "/", "waits for a restart"),
    "overview-fallback": _at("fallback", "/", "was given up"),
    "update": _at("ok", "/update", "A bundle from this computer"),
    "release": _at("ok", f"/update/release/{NEW}", "Kept for"),
    "sending": _sending,
    "proposal": _proposal,
    "installing": _installing,
    "busy": _busy,
    "installed": _installed,
    "refused": _failed,
    "trial": _at("on-trial", "/trial", "on trial"),
    "trial-manual": _at("manual", "/trial", "Confirm: keep it"),
    "history": _at("ok", "/history", "History"),
    "history-fallback": _at("fallback", "/history", "Cause"),
    "log": _at("ok", "/log", "support file"),
    "password": _at("ok", "/password", "password"),
    "rescue": _at("rescue", "/rescue", "Put slots back"),
    "gone": _at("gone", "/", "engine"),
}
