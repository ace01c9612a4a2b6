"""Each page's HTML in each of its states: whole, labelled, safe, and nothing from elsewhere."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import pytest

from abupdate.engine.contract import EngineError, Told
from abupdate.errors import ExitCode
from tests.web.live_server import LiveServer
from tests.web.states import STATES, State

_VOID = {"meta", "link", "input", "br", "hr", "img"}
# Of SVG: they end themselves.
_SHAPES = {"rect", "path", "circle", "line"}


class Page(HTMLParser):
    """A page's elements, in order; faults of its form."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{name}> is never closed" for name in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}, tuple(self._open)))
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}, tuple(self._open)))
        if tag not in _VOID | _SHAPES:
            self.faults.append(f"<{tag}/> does not end in HTML")

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes what is not open")

    def all(self, *tags: str) -> list[dict[str, str]]:
        """The attributes of each element of this kind."""
        return [attributes for tag, attributes, _ in self.elements if tag in tags]


@pytest.mark.row("S45")
@pytest.mark.parametrize(
    "state", [one for one in STATES if not one.by_hand], ids=lambda state: state.name
)
def test_each_page_is_as_a_page_should_be(state: State, tmp_path: Path) -> None:
    with LiveServer(tmp_path / "web") as server:
        path = state.prepare(server)
        client = server.logged_in() if state.login else server.browser()
        answer = client.get(path)
        client.close()
    assert answer.status_code == state.status, answer.text
    page = Page(answer.text)
    assert page.faults == []
    assert [one["lang"] for one in page.all("html")] == ["en"]
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert (
        len([tag for tag, _, parents in page.elements if tag == "title" and "head" in parents]) == 1
    )
    ids = Counter(one["id"] for _, one, _ in page.elements if "id" in one)
    assert [name for name, count in ids.items() if count > 1] == []
    labelled(page, set(ids))
    safe(page)
    forms(answer.text)


@pytest.mark.parametrize(
    ("button", "page"),
    [
        ("/act/reboot", "/trial"),
        ("/act/what-there-is-not", "/trial"),
        ("/update/upload", "/update"),
        ("/update/drop", "/update"),
        ("/jobs/20260921-000001/cancel", "/jobs/20260921-000001"),
    ],
)
def test_a_buttons_address_leads_to_its_page(lasting: LiveServer, button: str, page: str) -> None:
    """As after an error, whose page is at that address and looks again by itself."""
    lasting.engine.calls.clear()
    with closing(lasting.logged_in()) as client:
        answer = client.get(button)
    assert (answer.status_code, answer.headers["Location"]) == (303, page)
    assert lasting.engine.calls == []


def test_a_restart_that_takes_the_engine_along(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page that waits is shown all the same, and not that something is wrong."""
    gone = EngineError(ExitCode.DEVICE_FAULT, "The engine of abupdate does not answer.")

    async def reboot(into: str = "") -> Told:
        raise gone

    monkeypatch.setattr(server.engine, "reboot", reboot)
    with closing(server.logged_in()) as client:
        answer = client.post("/act/reboot", data={"csrf": client.headers["X-CSRF-Token"]})
        boot = server.engine.now.boot_id
        assert answer.headers["Location"] == f"/trial?boot={boot}&slot=A"
        gone.code = ExitCode.BUSY
        answer = client.post("/act/reboot", data={"csrf": client.headers["X-CSRF-Token"]})
        assert answer.status_code == 409


def labelled(page: Page, ids: set[str]) -> None:
    """Whoever does not see the page is told of each field and meter."""
    named = {one["for"] for one in page.all("label") if "for" in one}
    for tag, one, parents in page.elements:
        told = one.get("id") in named or "aria-label" in one or "label" in parents
        if tag in ("input", "select", "textarea") and one.get("type") != "hidden":
            assert told, one
        if tag in ("progress", "meter"):
            assert told, one
        if tag == "svg" and "svg" not in parents:
            assert one.get("aria-hidden") == "true" or one.get("role") == "img", one
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert {*one.get(name, "").split()} <= ids, one


def safe(page: Page) -> None:
    """What the policy of the page's content would not let through is not in it."""
    for tag, one, _ in page.elements:
        assert not [name for name in one if name.startswith("on") or name == "style"], (tag, one)
        assert tag != "style" and (tag != "script" or "src" in one), (tag, one)
        for name in ("src", "href", "action", "formaction"):
            target = one.get(name, "/")
            assert target.startswith(("/", "#")) and not target.startswith("//"), (tag, one)


def forms(text: str) -> None:
    """Each form that changes something has the token without which it is refused."""
    for part in text.split("<form ")[1:]:
        form = part.split("</form>", 1)[0]
        if 'method="post"' in form.split(">", 1)[0]:
            assert 'name="csrf"' in form, form
