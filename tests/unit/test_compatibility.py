"""Rows of docs/compatibility.md that need neither GRUB nor a device: what meets what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from abupdate.boot import rules
from abupdate.boot.cmdline import BootArguments, parse
from abupdate.boot.envblock import format_block, parse_block
from abupdate.boot.grubenv import LostError, decode, encode
from abupdate.boot.rules import Choice, ChoiceLostError, Fit, Rules
from abupdate.boot.rulesfiles import RulesFile, RulesReading
from abupdate.boot.state import provision
from abupdate.update.rules import Outcome, outcome, wanted
from abupdate.update.rules_record import FailedRules, OfferedRules, RulesRecord

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "compatibility.md"


def made(number: int, formats: str = "1", more: str = "") -> Rules:
    head = f"set rules={number}\nset rules_formats={formats}\n" if number else ""
    return rules.filled(f"{head}# {more}\n".encode())


@pytest.mark.parametrize(
    ("own", "used", "expected"),
    [
        (made(2), made(2), Fit.SAME),
        (made(3), made(2), Fit.NEWER),
        (made(1), made(2), Fit.OLDER),
        (made(2, more="other"), made(2), Fit.DIFFERENT),
        (made(3, "12"), made(2), Fit.NEWER),
        (made(3), made(2, "12"), Fit.FORGETFUL),
        (made(3), made(0), Fit.NEWER),
        (made(0), made(2), Fit.UNKNOWN),
        (made(3, "2"), made(2), Fit.UNKNOWN),
    ],
)
def test_rules_of_a_release_against_those_in_use(own: Rules, used: Rules, expected: Fit) -> None:
    assert rules.fit(own, used) == expected
    reading = reading_of(Choice("a"), used, used)
    assert wanted(reading, own, RulesRecord()) == expected
    failed = FailedRules(own.digest, own.number, 0.0, "hung")
    assert wanted(reading, own, RulesRecord(None, (failed,))) is None
    assert wanted(reading, None, RulesRecord()) is None
    assert wanted(reading_of(None, used, used), own, RulesRecord()) is None


def test_rules_that_do_not_read_what_is_written() -> None:
    assert made(1).readable and made(9, "12").readable
    assert not made(9, "2").readable and not made(0).readable
    # What userland writes is what it says.
    assert (parse_block(encode(provision(3, 8))) or {})["fmt"] == rules.FORMAT


OLD, NEW, OTHER = made(1), made(2), made(3)


def reading_of(choice: Choice | None, a: Rules | None, b: Rules | None) -> RulesReading:
    files = {"a": a, "b": b}
    found = {name: RulesFile(one, True) if one else None for name, one in files.items()}
    return RulesReading(choice, found, ())


def offered(came_up: bool = False, again: bool = False) -> OfferedRules:
    return OfferedRules("b", NEW.digest, NEW.number, 0.0, came_up, again)


@pytest.mark.parametrize(
    ("choice", "a", "b", "runs", "record", "expected"),
    [
        (Choice("a", "b"), OLD, NEW, "a", offered(), Outcome.WAITING),
        (Choice("a"), OLD, NEW, "b", offered(), Outcome.WORKED),
        (Choice("a"), OLD, NEW, "b", None, Outcome.WORKED),
        (Choice("b"), OLD, NEW, "b", offered(), Outcome.KEPT),
        (Choice("a"), OLD, NEW, "a", offered(), Outcome.FAILED),
        (Choice("a"), OLD, NEW, "a", offered(came_up=True), Outcome.INTERRUPTED),
        (Choice("a"), OLD, NEW, "a", offered(came_up=True, again=True), Outcome.FAILED),
        (Choice("a"), OLD, OTHER, "a", offered(), Outcome.GONE),
        (Choice("a"), OLD, None, "a", offered(), Outcome.GONE),
        (Choice("a"), OLD, NEW, "a", None, None),
        # GRUB took the other file because the one in use is lost: nothing was tried.
        (Choice("a"), None, NEW, "b", offered(), None),
        # What GRUB says that it tried, it has saved.
        (Choice("a", "b"), OLD, NEW, "b", offered(), None),
        # No switch, or rules that do not say which they are.
        (Choice("a"), OLD, NEW, None, offered(), None),
        (None, OLD, NEW, "a", offered(), None),
    ],
)
def test_what_became_of_rules(
    choice: Choice | None,
    a: Rules | None,
    b: Rules | None,
    runs: str | None,
    record: OfferedRules | None,
    expected: Outcome | None,
) -> None:
    assert outcome(reading_of(choice, a, b), runs, record) == expected


def test_boot_state_of_another_format() -> None:
    raw = encode(provision(3, 8))
    with pytest.raises(LostError, match="'fmt' should be 1"):
        decode(raw.replace(b"fmt=1", b"fmt=2"))


def test_boot_state_with_more_in_it() -> None:
    state = provision(3, 8)
    assert decode(encode(state).replace(b"end=1\n#####", b"end=1\nnew=1\n")[:1024]) == state


def test_choice_of_another_format() -> None:
    with pytest.raises(ChoiceLostError):
        rules.decode(rules.encode(Choice("a")).replace(b"fmt=1", b"fmt=2"))


@pytest.mark.parametrize("more", ["", " abupdate.rules=c", " abupdate.later=yes"])
def test_arguments_that_are_not_known(more: str) -> None:
    words = "root=PARTUUID=AB abupdate.slot=R abupdate.boot=rescue"
    assert parse(words + more) == BootArguments("R", "rescue", "ab", False)


def test_settings_that_are_not_known_are_a_block_all_the_same() -> None:
    assert parse_block(format_block({"menu_wait": "0", "later": "1"})) is not None


def test_each_row_has_its_test() -> None:
    """The page names a test in each row, and it is there."""
    table = PAGE.read_text().partition("## What meets what")[2].partition("\n## ")[0]
    head, *rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert head.endswith("| test |") and len(rows) > 20
    for row in rows:
        found = re.search(r"\| `(tests/\S+\.py)::(\w+)` \|$", row)
        assert found is not None, row
        assert f"def {found[2]}(" in (PROJECT / found[1]).read_text(), row
