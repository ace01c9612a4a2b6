"""Hostile input with the git of another Debian: the same verdicts, word for word."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import other_git
import pytest

from tests.slots.conftest import put_back
from tests.slots.device import Device
from tests.slots.hostile import workshop
from tests.slots.hostile.cases import CASES
from tests.slots.hostile.workshop import Workshop
from tests.slots.test_hostile_inputs import test_input as check_input
from tests.slots.test_hostile_inputs import (
    test_what_is_made_by_hand_is_good_where_nothing_is_wrong as check_good,
)

pytestmark = pytest.mark.long

# Debian 12 has 2.39, Debian 13 has 2.47.
SUITES = {"2.39": "bookworm", "2.47": "trixie"}


def version() -> str:
    said = subprocess.run(["git", "--version"], check=True, stdout=subprocess.PIPE).stdout
    found = re.match(rb"git version (\d+\.\d+)", said)
    assert found
    return found[1].decode()


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    """The other git stands where ours is: here, and in all that is started from here."""
    ours = version()
    number, suite = next(item for item in SUITES.items() if item[0] != ours)
    with tempfile.TemporaryDirectory(prefix="abupdate-") as folder:
        top = Path(folder)
        top.chmod(0o755)
        program = other_git.git_of(suite, top)
        subprocess.run(["mount", "--bind", program, "/usr/bin/git"], check=True)
        try:
            assert version() == number
            yield number
        finally:
            subprocess.run(["umount", "/usr/bin/git"], check=True)


@pytest.fixture(scope="module")
def shop(shared_plain_device: Device, other: str) -> Iterator[Workshop]:
    print(f"git {other}")
    device = put_back(shared_plain_device)
    with workshop.opened(device) as found:
        yield found


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.long])
def test_the_same_verdict(shop: Workshop, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABUPDATE_HOSTILE", raising=False)
    check_input(shop, name)


def test_what_is_good(shop: Workshop) -> None:
    check_good(shop)
