"""A server for each test that wants one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web.live_server import LiveServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """The server, with the engine in scene "ok"."""
    with LiveServer(tmp_path / "web") as live:
        yield live


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests of a file that leave it as it was."""
    with LiveServer(tmp_path_factory.mktemp("lasting") / "web") as live:
        yield live
