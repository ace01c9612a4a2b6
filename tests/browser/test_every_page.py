"""Each page and state: nobody is shut out, nothing sticks out, nothing comes from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from tests.browser.people import NARROW, WIDE, Person
from tests.browser.states import STATES
from tests.web.live_server import LiveServer

LOOKS: dict[str, dict[str, Any]] = {
    "1280-light": {"viewport": WIDE, "color_scheme": "light"},
    "360-dark": {"viewport": NARROW, "color_scheme": "dark"},
    "1280-dark": {"viewport": WIDE, "color_scheme": "dark"},
    "360-light": {"viewport": NARROW, "color_scheme": "light"},
}


@pytest.mark.row("S45")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("look", LOOKS)
def test_each_page(browser: Browser, tmp_path: Path, look: str) -> None:
    axe = Axe()
    wrong: list[str] = []
    for state in STATES:
        with LiveServer(tmp_path / state.name) as server:
            person = Person(browser, server, **LOOKS[look])
            person.visits_state(state)
            page = person.page
            width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            if width > 0:
                wrong.append(f"{state.name}: {width} pixels stick out")
            found = axe.run(page)
            if found.violations_count:
                wrong.append(f"{state.name}: {found.generate_report()}")
            person.leave()
    assert not wrong, "\n".join(wrong)
