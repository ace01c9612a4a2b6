"""Records on data: whole or absent, and a history that a cut cannot spoil."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abupdate.disk.layout import Slot
from abupdate.update.records import HistoryEntry, Intent, Records, SlotRecord, SlotState

RECORD = SlotRecord("B", SlotState.CLEAN, "2", "c" * 64, "m" * 64, "t" * 64, "me", "uuid", 1.5)


def test_round_trip(tmp_path: Path) -> None:
    records = Records(tmp_path)
    intent = Intent("B", "2", "c" * 64, "A", "1", 12.0)
    assert records.slot(Slot.B) is None
    assert records.intent() is None
    records.write_slot(RECORD)
    records.write_intent(intent)
    assert records.slot(Slot.B) == RECORD
    assert records.slot(Slot.A) is None
    assert records.intent() == intent


def test_a_record_of_another_format_counts_as_absent(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write_slot(RECORD)
    path = tmp_path / "slots/B.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    assert records.slot(Slot.B) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200))
def test_garbage_counts_as_absent(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "slots").mkdir(exist_ok=True)
    (tmp_path / "slots/B.json").write_bytes(garbage)
    (tmp_path / "intent.json").write_bytes(garbage)
    records = Records(tmp_path)
    assert records.slot(Slot.B) is None
    assert records.intent() is None


def test_history_survives_a_torn_line(tmp_path: Path) -> None:
    records = Records(tmp_path)
    first, second = HistoryEntry("installed", 1.0, "2", "B", {"n": 1}), HistoryEntry("confirmed", 2)
    records.append(first)
    path = tmp_path / "history.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        records.append(second)
        entries = records.history()
        assert entries[0] == first
        assert entries[-1] == second


def test_a_cut_while_replacing_leaves_the_old_record(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write_slot(RECORD)
    (tmp_path / "slots/.B.json.new").write_text('{"half')
    assert records.slot(Slot.B) == RECORD
    assert json.loads((tmp_path / "slots/B.json").read_text())["release"] == "2"
