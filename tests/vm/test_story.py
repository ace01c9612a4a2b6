"""`make demo` as a test: an update that is confirmed and one that GRUB takes back."""

from __future__ import annotations

from pathlib import Path

import demo
import demo_parts
import pytest
from vm import Firmware


@pytest.mark.row("S12", "S33", "S34")
@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_confirm_and_fallback(parts: demo_parts.Parts, tmp_path: Path, firmware: Firmware) -> None:
    timeline = demo_parts.Timeline()
    demo.play(timeline, parts, tmp_path, firmware)
    assert timeline.elapsed > 0  # `play` raises at the first thing that differs
