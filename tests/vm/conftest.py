"""What the VM tests share: the releases and the disk of `make demo`, built once."""

from __future__ import annotations

import os

import demo_parts
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/vm/" in item.nodeid:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def parts() -> demo_parts.Parts:
    if os.geteuid() != 0:
        pytest.skip("making root filesystems needs root")
    return demo_parts.build(demo_parts.Timeline())
