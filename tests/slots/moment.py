"""Something that happens in the middle of an install, in this process: at a failpoint."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

import pytest

import abupdate
from abupdate.failpoints import NAMES, failpoint

# The place where the name of a failpoint is passed on its way.
Hook = Callable[[str], None]


def passing(monkeypatch: pytest.MonkeyPatch, hook: Hook) -> None:
    """Call `hook` with the name of each failpoint that is passed."""
    for found in pkgutil.walk_packages(abupdate.__path__, "abupdate."):
        if found.name.startswith("abupdate.cli") or found.name == failpoint.__module__:
            continue
        module = importlib.import_module(found.name)
        if getattr(module, "failpoint", None) is not None:
            monkeypatch.setattr(module, "failpoint", hook)


def at(monkeypatch: pytest.MonkeyPatch, point: str, act: Callable[[], object]) -> None:
    """Do something the first time that a failpoint is passed."""
    assert point in NAMES
    passed = False

    def hook(name: str) -> None:
        nonlocal passed
        if name == point and not passed:
            passed = True
            act()

    passing(monkeypatch, hook)
