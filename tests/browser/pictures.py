"""The pictures of docs/web-pages.md, and that page: `python -m tests.browser.pictures [NAME ...]`.

Each page and state, 1280 and 360 pixels wide, in few colours.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from tests.browser.chromium import chromium
from tests.browser.people import NARROW, WIDE, Person
from tests.browser.states import STATES, State
from tests.web.live_server import LiveServer

DOCS = Path(__file__).resolve().parents[2] / "docs"
_COLOURS = 128
_TALLEST = 1500  # pixels
_TOP = """# What the page looks like

Each page in its main states, on a wide screen and on a phone (1280 and 360 pixels wide); in the
dark where the system says so. Made by `python -m tests.browser.pictures`, with Debian's Chromium
from the page itself; [web.md](web.md) says how to get there.
"""


def main(wanted: Collection[str]) -> None:
    """Take those that are named, or all; and write the page."""
    folder = DOCS / "web"
    folder.mkdir(exist_ok=True)
    with chromium() as browser:
        for state in STATES:
            for size in (WIDE, NARROW) if state.name in wanted or not wanted else ():
                with tempfile.TemporaryDirectory() as place, LiveServer(Path(place)) as server:
                    person = Person(
                        browser, server, viewport=size, locale="en-GB", timezone_id="UTC",
                        color_scheme="dark" if state.dark else "light",
                    )  # fmt: skip
                    person.visits_state(state)
                    _save(person, folder / f"{state.name}-{size['width']}.png")
                    person.leave()
    (DOCS / "web-pages.md").write_text(document(), encoding="utf-8")


def document() -> str:
    """docs/web-pages.md."""
    return _TOP + "".join(_section(state) for state in STATES)


def _section(state: State) -> str:
    wide, narrow = (f"web/{state.name}-{size['width']}.png" for size in (WIDE, NARROW))
    return (
        f"\n**{state.says}**\n\n"
        f'<img src="{wide}" width="640" alt="wide: {state.says}"> '
        f'<img src="{narrow}" width="180" alt="on a phone: {state.says}">\n'
    )


def _save(person: Person, path: Path) -> None:
    page, size = person.page, person.page.viewport_size
    assert size is not None
    # The place of a scrollbar that no picture has.
    page.evaluate("document.documentElement.style.scrollbarGutter = 'auto'")
    tall = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({**size, "height": max(size["height"], min(tall, _TALLEST))})
    shot = page.screenshot(animations="disabled")
    with Image.open(io.BytesIO(shot)) as image:
        # Without dithering: flat colours stay flat, and small.
        small = image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
