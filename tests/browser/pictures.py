"""docs/web-pages.md and its pictures: `python -m tests.browser.pictures [STATE ...]`.

Each page and state, 1280 and 360 pixels wide, with a palette.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from PIL import Image
from playwright.sync_api import Browser

from tests.browser.chromium import chromium
from tests.browser.people import NARROW, WIDE, Person
from tests.browser.scenes import show
from tests.web.fake_engine import NOW
from tests.web.live_server import LiveServer
from tests.web.states import STATES, State

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Of two that look alike, one has a picture.
_ALIKE = {"login-wrong", "install-stopped", "install-lost", "nowhere", "rescue"}
PICTURED = [state for state in STATES if state.name not in _ALIKE]
DARK = {"installing", "trial"}
_COLOURS = 128
_NEAR = 9  # sum of the differences
_TALLEST = {1280: 1500, 360: 2200}  # pixels: what is below is more of the same
_TITLE = """# What each page shows

Made by `python -m tests.browser.pictures`, from the pages as Debian's Chromium shows them, against
an engine in memory. Beside each picture is the same page 360 pixels wide, as a telephone has it.
What the words mean: [terminology.md](terminology.md).
"""


def main() -> int:
    """Take the pictures that are named, or all; and write the page."""
    folder = DOCS / "web"
    folder.mkdir(exist_ok=True)
    wanted = [one for one in PICTURED if not sys.argv[1:] or one.name in sys.argv[1:]]
    names = os.uname()
    box = os.uname_result((names.sysname, "box", names.release, names.version, names.machine))
    with patch("os.uname", return_value=box), chromium() as browser:
        for state in wanted:
            for name, data in pictures(browser, state).items():
                (folder / name).write_bytes(data)
                print(f"{name}: {len(data) / 1000:.0f} kB")
    (DOCS / "web-pages.md").write_text(page())
    total = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{total / 1e6:.2f} MB")
    return 0


def pictures(browser: Browser, state: State) -> dict[str, bytes]:
    """A state in both widths, by name."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder, "web")) as server:
        scheme = "dark" if state.name in DARK else "light"
        person = Person(
            browser, server, color_scheme=scheme, locale="en-GB", timezone_id="UTC"
        )  # fmt: skip
        person.page.clock.set_fixed_time(NOW)
        show(state, server, person, Path(folder))
        for size in (WIDE, NARROW):
            found[f"{state.name}-{size['width']}.png"] = small(_whole(person, size["width"]))
        person.leave()
    return found


def _whole(person: Person, width: int) -> bytes:
    """The page from top to bottom, and no emptiness below it."""
    page = person.page
    tall, height = 0, 480
    while tall != height:  # some of it is as tall as a part of the window
        tall = height
        page.set_viewport_size({"width": width, "height": tall})
        height = page.evaluate("document.documentElement.scrollHeight")
        height = min(height, _TALLEST[width])
    return page.screenshot(animations="disabled")


def small(png: bytes) -> bytes:
    """The same picture with a palette. Without dithering: what is flat stays flat, and small."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        full = image.convert("RGB")
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in _palette(full) for part in colour])
    flat = full.quantize(palette=palette, dither=Image.Dither.NONE)
    flat.save(out, "PNG", optimize=True)
    return out.getvalue()


def _palette(image: Image.Image) -> list[tuple[int, int, int]]:
    """The commonest colours as they are, and of those that nearly are the same, one."""
    counted = sorted(image.getcolors(1 << 24) or [], reverse=True)
    found: list[tuple[int, int, int]] = []
    for _, colour in counted:
        assert isinstance(colour, tuple)
        red, green, blue = colour
        if all(abs(red - r) + abs(green - g) + abs(blue - b) > _NEAR for r, g, b in found):
            found.append((red, green, blue))
    return found[:_COLOURS]


def page() -> str:
    """docs/web-pages.md."""
    parts = [_TITLE]
    for state in PICTURED:
        parts.append(
            f"## {state.says}\n\n"
            f'<img src="web/{state.name}-1280.png" width="640" alt="{state.says}">\n'
            f'<img src="web/{state.name}-360.png" width="180" alt="The same on a telephone">\n'
        )
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
