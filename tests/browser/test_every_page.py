"""Each page and state: nobody is shut out, nothing sticks out, nothing comes from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize

from tests.browser.people import NARROW, WIDE, Person
from tests.browser.scenes import show
from tests.web.live_server import LiveServer
from tests.web.states import STATES, State

LOOKS: dict[str, tuple[ViewportSize, Literal["light", "dark"]]] = {
    "1280-light": (WIDE, "light"),
    "1280-dark": (WIDE, "dark"),
    "360-dark": (NARROW, "dark"),
    "360-light": (NARROW, "light"),
}
# Words of the drawing that do not fit into their partition.
_CUT = """[...document.querySelectorAll(".part text")].filter((text) => {
  const box = text.getBBox();
  return box.width && box.x + box.width > text.parentElement.width.baseVal.value;
}).map((text) => text.textContent)"""
# With reduced motion, that is.
_MOVING = """document.getAnimations().filter((one) => one.playState === "running").length"""


@pytest.mark.row("S45")
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_each_page(browser: Browser, server: LiveServer, tmp_path: Path, state: State) -> None:
    person = Person(browser, server)
    show(state, server, person, tmp_path)
    wrong = []
    for look, (size, scheme) in LOOKS.items():
        person.page.set_viewport_size(size)
        person.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        wrong += [f"{look}: {one}" for one in _faults(person.page)]
    assert not wrong, "\n".join(wrong)
    person.leave()


def _faults(page: Page) -> list[str]:
    found = []
    if (width := page.evaluate("document.documentElement.scrollWidth - innerWidth")) > 0:
        found.append(f"{width} pixels stick out")
    if cut := page.evaluate(_CUT):
        found.append(f"the drawing has no place for {cut}")
    if moving := page.evaluate(_MOVING):
        found.append(f"{moving} animations run")
    axe = Axe().run(page)
    if axe.violations_count:
        found.append(axe.generate_report())
    return found
