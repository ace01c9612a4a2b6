"""What people do at the page, by what they see of it."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.browser.chromium import Visits
from tests.web.fake_engine import NEW
from tests.web.live_server import PASSWORD, LiveServer

WIDE: ViewportSize = {"width": 1280, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 740}


class Person:
    """Somebody with a browser of their own, logged in."""

    def __init__(self, browser: Browser, server: LiveServer, **options: Any) -> None:
        self.server = server
        self.visits = Visits(options.pop("url", server.url))
        options = {"viewport": WIDE, "reduced_motion": "reduce", **options}
        self.page: Page = self.visits.add(browser.new_context(**options))
        self.page.set_default_timeout(20_000)

    def log_in(self) -> Person:
        """By the form."""
        self.go("/login")
        self.page.get_by_label("Password").fill(PASSWORD)
        self.press("Log in")
        expect(self.page.get_by_role("navigation")).to_be_visible()
        return self

    def comes_in(self) -> Person:
        """Was logged in before."""
        name = self.server.context.cookie
        with closing(self.server.logged_in()) as client:
            number = client.cookies[name]
        self.page.context.add_cookies([{"name": name, "value": number, "url": self.visits.url}])
        return self

    def go(self, path: str) -> None:
        """To a page."""
        self.page.goto(self.visits.url + path)

    def press(self, name: str) -> None:
        """A button, as its words are."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def tab_to(self, name: str, *, back: bool = False) -> None:
        """By the key Tab, until what has these words is in focus; and it is seen to be."""
        for _ in range(40):
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
            focused = self.page.evaluate(
                """() => { const one = document.activeElement, look = getComputedStyle(one);
                return [one.innerText || one.value || "", parseFloat(look.outlineWidth) > 0
                        && look.outlineStyle !== "none" || look.boxShadow !== "none"]; }"""
            )
            if focused[0].strip() == name:
                assert focused[1], f"'{name}' has the focus, and nobody sees it"
                return
        raise AssertionError(f"No key leads to '{name}'.")

    def slowed(self, rate: int | None) -> None:
        """This browser's network sends so many bytes a second; None: as many as it can."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("Network.emulateNetworkConditions", {
            "offline": False, "latency": 0, "downloadThroughput": -1,
            "uploadThroughput": -1 if rate is None else rate,
        })  # fmt: skip

    def ask(self, name: str) -> None:
        """Open what is asked before something is done."""
        self.page.locator("summary").filter(has_text=name).click()

    def reads(self, words: str) -> None:
        """The first words of the page are these, or become so."""
        heading = self.page.get_by_role("heading", level=1)
        expect(heading).to_have_text(re.compile(words), timeout=20_000)

    def sees(self, words: str) -> None:
        """These words are somewhere on the page."""
        expect(self.page.get_by_text(words).first).to_be_visible(timeout=20_000)

    def send(self, bundle: Path) -> None:
        """Choose a bundle and send it."""
        self.go("/update")
        self.page.locator("#bundle").set_input_files(bundle)
        self.press("Send and look into it")

    def install(self, bundle: Path) -> None:
        """Send a bundle, look at what it would do, install it."""
        self.send(bundle)
        self.reads(f"Release {NEW}")
        self.press(f"Install release {NEW}")

    def leave(self) -> None:
        """Nothing was asked of others, nothing went wrong in the browser."""
        assert not self.visits.foreign()
        assert not self.visits.complaints
        self.page.context.close()


def bundle(folder: Path, size: int = 1 << 20) -> Path:
    """A file to send."""
    path = folder / "box-1.5.0.bundle"
    path.write_bytes(bytes(range(256)) * (size // 256))
    return path
