"""Attacks by time and number: slow ones, many at once, guesses, and texts that others display."""

from __future__ import annotations

GROUPS = ()
