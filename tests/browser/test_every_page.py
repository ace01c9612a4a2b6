"""Each page and state: nobody is shut out, nothing sticks out, nothing comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from tests.browser.people import NARROW, WIDE, Person
from tests.browser.scenes import SCENES
from tests.web.live_server import LiveServer

LOOKS: dict[str, dict[str, Any]] = {
    "1280-light": {"viewport": WIDE, "color_scheme": "light"},
    "360-dark": {"viewport": NARROW, "color_scheme": "dark"},
    "1280-dark": {"viewport": WIDE, "color_scheme": "dark"},
    "360-light": {"viewport": NARROW, "color_scheme": "light"},
}


@pytest.mark.row("S45")
@pytest.mark.parametrize("look", LOOKS)
def test_each_page(browser: Browser, server: LiveServer, tmp_path: Path, look: str) -> None:
    axe = Axe()
    wrong: list[str] = []
    person = Person(browser, server, **LOOKS[look])

    def seen(name: str) -> None:
        page = person.page
        width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if width > 0:
            wrong.append(f"{name}: {width} pixels stick out")
        found = axe.run(page)
        if found.violations_count:
            wrong.append(f"{name}: {found.generate_report()}")

    each_scene(server, person, tmp_path, seen)
    assert not wrong, "\n".join(wrong)
    person.leave()


def each_scene(
    server: LiveServer, person: Person, folder: Path, seen: Callable[[str], None]
) -> None:
    for name, show in SCENES.items():
        show(server, person, folder)
        seen(name)
