"""docs/boot-state-machine.md says what the code does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from abupdate.boot.state import provision
from tests.boot_docs import PATH, Step, cell, generated


def test_the_page_is_made_from_the_code() -> None:
    assert PATH.read_text() == generated(PATH.read_text()), "run `make docs`"


def test_a_cell_holds_for_every_state_or_is_an_error() -> None:
    new = provision(3, 8)
    countdown = [Step(replace(new, countdown=n), replace(new, countdown=n - 1)) for n in (3, 1)]
    assert cell("countdown", countdown) == "−1"  # noqa: RUF001
    assert cell("slot", countdown) == "·"
    odd = [Step(new, replace(new, failed=name)) for name in "AB"]
    with pytest.raises(ValueError, match="no expression"):
        cell("failed", odd)
