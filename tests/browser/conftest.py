"""One browser for all tests of this folder, and a server for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import chromium
from tests.web.live_server import LiveServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They need a browser, which is no part of what tests need otherwise."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with chromium() as found:
        yield found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """The server, with the engine in scene "ok"."""
    with LiveServer(tmp_path / "web") as live:
        yield live
