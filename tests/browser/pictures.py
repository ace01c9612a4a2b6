"""The pictures of docs/web-pages.md: `python -m tests.browser.pictures`.

Each page and state, 1280 and 360 pixels wide, in 64 colours.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser.chromium import chromium
from tests.browser.people import NARROW, WIDE, Person
from tests.browser.scenes import SCENES
from tests.web.live_server import LiveServer

FOLDER = Path(__file__).resolve().parents[2] / "docs/web"
_COLOURS = 64


def main() -> None:
    """Take them all."""
    FOLDER.mkdir(exist_ok=True)
    with chromium() as browser:
        for size in (WIDE, NARROW):
            with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder, "web")) as server:
                options = {"viewport": size, "color_scheme": "light", "locale": "en-GB"}
                person = Person(browser, server, timezone_id="UTC", **options)
                for name, show in SCENES.items():
                    show(server, person, Path(folder))
                    _save(person, FOLDER / f"{name}-{size['width']}.png")


def _save(person: Person, path: Path) -> None:
    shot = person.page.screenshot(full_page=True, animations="disabled")
    with Image.open(io.BytesIO(shot)) as image:
        # Without dithering: flat colours stay flat, and small.
        image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
