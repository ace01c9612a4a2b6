"""The format of the rules on the boot partition, and of what says which of them run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abupdate.boot import rules
from abupdate.boot.envblock import format_block
from abupdate.boot.rules import Choice, ChoiceLostError
from abupdate.boot.rulesfiles import RulesFiles
from abupdate.errors import DeviceFaultError

GRUB = Path(__file__).parents[2] / "grub"
OWN = rules.filled((GRUB / rules.SOURCE).read_bytes())


@pytest.mark.parametrize("use", ["a", "b"])
@pytest.mark.parametrize("tried", ["a", "b", "x"])
def test_choice(use: str, tried: str) -> None:
    raw = rules.encode(Choice(use, tried))
    assert (len(raw), rules.decode(raw)) == (1024, Choice(use, tried))
    # Every variable keeps its place: a change is one sector.
    assert len({raw.index(name) for name in (b"use=", b"try=", b"end=1")}) == 3
    assert rules.decode(raw[:512]) == Choice(use, tried)


@pytest.mark.parametrize(
    "values",
    [
        {"fmt": "2", "use": "a", "try": "x", "end": "1"},
        {"fmt": "1", "use": "x", "try": "x", "end": "1"},
        {"fmt": "1", "use": "ab", "try": "x", "end": "1"},
        {"fmt": "1", "use": "a", "try": "", "end": "1"},
        {"fmt": "1", "use": "a", "try": "x", "end": "0"},
        {"fmt": "1", "use": "a", "try": "x"},
    ],
)
def test_choice_that_is_lost(values: dict[str, str]) -> None:
    with pytest.raises(ChoiceLostError):
        rules.decode(format_block(values))


def test_choice_that_is_none() -> None:
    for raw in (b"", bytes(1024), rules.encode(Choice("a"))[:43]):
        with pytest.raises(ChoiceLostError):
            rules.decode(raw)
    with pytest.raises((ValueError, ChoiceLostError)):
        rules.encode(Choice("c"))


def test_own_rules_say_what_they_are() -> None:
    assert OWN.number >= 1 and OWN.readable
    assert len(OWN.content) == rules.ROOM


@given(st.binary(max_size=3 * rules.ROOM))
def test_filled_up(source: bytes) -> None:
    """To one length, by nothing that GRUB would run."""
    found = rules.filled(source).content
    assert found.startswith(source) and len(found) % rules.ROOM == 0
    assert found.endswith(b"\n")
    rest = found[len(source) :]
    assert not rest.strip(b"#\n")
    assert source.endswith(b"\n") or rest.startswith(b"\n")
    assert rules.filled(found).content == found


@pytest.mark.parametrize(
    ("text", "number", "formats"),
    [
        (b"set rules=7\nset rules_formats=12\n", 7, "12"),
        (b"", 0, ""),
        (b"# set rules=7\n set rules=8\n", 0, ""),
        (b"set rules=0\nset rules_formats=x\n", 0, ""),
        (b"set rules=1234567\n", 0, ""),
        (b"#" * 5000 + b"\nset rules=7\n", 0, ""),
        (b"\0\xff" * 100, 0, ""),
    ],
)
def test_what_rules_say_of_themselves(text: bytes, number: int, formats: str) -> None:
    found = rules.parse(text)
    assert (found.number, found.formats) == (number, formats)


def test_files(tmp_path: Path) -> None:
    files = RulesFiles(tmp_path)
    found = files.read()
    assert (found.choice, found.files, found.first) == (None, {"a": None, "b": None}, None)
    for name in rules.NAMES:
        files.write(name, OWN)
    files.choose(Choice("b"))
    found = files.read()
    assert (found.choice, found.first, found.problems) == (Choice("b"), "b", ())
    assert found.whole("a") == found.whole("b") == OWN
    words = ["sha256sum", "-c", *map(rules.sums_name, rules.NAMES)]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("rules-a.cfg", "rules-a.sha256", "rules-b.cfg", "rules-b.sha256", "rules.env")
    ]


def test_a_file_keeps_its_place(tmp_path: Path) -> None:
    """Nothing of the FAT changes: the same file, never shorter."""
    files = RulesFiles(tmp_path)
    files.write("a", OWN)
    files.choose(Choice("a"))
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    files.write("a", rules.filled(b"set rules=2\n"))
    files.choose(Choice("b", "a"))
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == before
    # What has another length is made anew.
    (tmp_path / "rules-a.cfg").write_bytes(b"cut off")
    files.write("a", OWN)
    assert files.read().whole("a") == OWN


def test_damage_is_seen(tmp_path: Path) -> None:
    files = RulesFiles(tmp_path)
    for name in rules.NAMES:
        files.write(name, OWN)
    files.choose(Choice("a"))
    path = tmp_path / "rules-a.cfg"
    path.write_bytes(OWN.content[:-64])
    found = files.read()
    assert found.whole("a") is None and found.first == "b"
    assert "rules-a.sha256" in found.problems[0]
    path.write_bytes(b"")
    assert files.read().files["a"] is None
    path.unlink()
    path.symlink_to("rules-b.cfg")
    assert files.read().files["a"] is None


def test_a_disk_that_gives_other_bytes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RulesFiles(tmp_path)
    files.write("a", OWN)
    monkeypatch.setattr("os.pwrite", lambda fd, raw, offset: len(raw))
    with pytest.raises(DeviceFaultError, match="other bytes"):
        files.write("a", rules.filled(b"set rules=2\n"))


@pytest.mark.parametrize("point", ["rules-written", "rules-summed"])
def test_a_write_that_was_cut_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    files, new = RulesFiles(tmp_path), rules.filled(b"set rules=2\n")
    files.write("a", OWN)
    monkeypatch.setenv("ABUPDATE_FAILPOINT", f"{point}:error")
    with pytest.raises(DeviceFaultError):
        files.write("a", new)
    assert files.read().whole("a") == (new if point == "rules-summed" else None)
