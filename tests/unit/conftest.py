"""A publisher with two releases, and devices that have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.bundles import (
    Device,
    Publisher,
    make_publisher,
)


@pytest.fixture(scope="module", params=["sha256", "sha1"])
def publisher(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Publisher:
    return make_publisher(tmp_path_factory.mktemp("publisher"), request.param)


@pytest.fixture(scope="module")
def sha256(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    return make_publisher(tmp_path_factory.mktemp("publisher"), "sha256")


@pytest.fixture
def device(publisher: Publisher, tmp_path: Path) -> Device:
    return Device(tmp_path, publisher.repository.object_format)


@pytest.fixture
def device256(tmp_path: Path) -> Device:
    return Device(tmp_path, "sha256")
