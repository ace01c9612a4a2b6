"""Fixups apart from any slot: which there are, what they may write, and how it is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abupdate.errors import SourceError
from abupdate.release.fixups import declared, fixups
from abupdate.store.manifest import HEADER, Entry, Kind, format_entry
from abupdate.store.outputs import HEADER as OUTPUTS
from abupdate.store.outputs import NOTHING, make_outputs, parse_outputs

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def file(path: bytes, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.FILE, mode, 0, 0, 0, 0, EMPTY)


def folder(path: bytes) -> Entry:
    return Entry(path, Kind.DIR, 0o755, 0, 0, 0)


def text(*entries: Entry) -> bytes:
    return HEADER + b"".join(map(format_entry, entries))


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("etc/ld.so.cache", ["etc/ld.so.cache"], ["etc/ld.so.cache~", "etc/ldxso.cache", "etc"]),
        ("var/cache/**", ["var/cache", "var/cache/a", "var/cache/a/b"], ["var", "var/cachex"]),
        ("var/*/x", ["var/a/x", "var//x"], ["var/a/b/x", "var/x"]),
        ("var/**/x", ["var/x", "var/a/x", "var/a/b/x"], ["var/ax", "var/a/y"]),
        ("var/**/**/x", ["var/x", "var/a/b/c/x"], ["varx"]),
        ("etc/f?", ["etc/f1", "etc/f\n"], ["etc/f", "etc/f/", "etc/f12"]),
        ("etc/[a](b)", ["etc/[a](b)"], ["etc/ab", "etc/a"]),
        ("etc/é*", ["etc/é", "etc/éa"], ["etc/e"]),
        ("boot/**", [], ["boot", "boot/vmlinuz"]),
    ],
)
def test_a_pattern_declares(pattern: str, matches: list[str], others: list[str]) -> None:
    asked = declared([pattern])
    assert [path for path in matches if not asked(path.encode())] == []
    assert [path for path in others if asked(path.encode())] == []


def test_nothing_is_declared_without_patterns() -> None:
    assert not declared([])(b"etc/x")


def test_the_fixups_of_a_manifest_come_in_their_order() -> None:
    found = fixups(
        text(
            folder(b""), folder(b".git-fixups"), file(b".git-fixups-not"),
            file(b".git-fixups/1"), file(b".git-fixups/10"), file(b".git-fixups/2"),
            folder(b".git-fixups/lib"), file(b".git-fixups/lib/text", 0o644), file(b"usr"),
        )
    )  # fmt: skip
    assert [entry.path for entry in found] == [
        b".git-fixups/1", b".git-fixups/10", b".git-fixups/2",
    ]  # fmt: skip
    assert fixups(text(folder(b""), folder(b".git-fixups"), file(b"usr"))) == []
    assert fixups(text(folder(b""), file(b"usr"))) == []


@pytest.mark.parametrize(
    "entry", [file(b".git-fixups/1", 0o644), Entry(b".git-fixups/1", Kind.FIFO, 0o755, 0, 0, 0)]
)
def test_a_fixup_that_nothing_can_run_is_refused(entry: Entry) -> None:
    with pytest.raises(SourceError, match=r"\.git-fixups/1 should be"):
        fixups(text(folder(b""), folder(b".git-fixups"), entry))


def test_fixups_that_are_no_folder_are_refused() -> None:
    link = Entry(b".git-fixups", Kind.LINK, 0o777, 0, 0, 0, 3, EMPTY)
    with pytest.raises(SourceError, match=r"\.git-fixups should be a folder"):
        fixups(text(folder(b""), link))


names = st.lists(st.binary(min_size=1, max_size=4).filter(lambda n: not set(n) & set(b"/.\0")),
                 min_size=1, max_size=3).map(b"/".join)  # fmt: skip


@given(st.dictionaries(names, st.booleans()))
def test_outputs_read_back_as_they_were_written(paths: dict[bytes, bool]) -> None:
    outputs = make_outputs({path: file(path) if there else None for path, there in paths.items()})
    assert parse_outputs(outputs.text) == outputs
    assert (outputs.digest is None) == (not paths)
    assert list(outputs.by_path) == sorted(paths)


def test_outputs_lie_over_a_commit() -> None:
    outputs = make_outputs({b"b": None, b"c": file(b"c", 0o600), b"d": file(b"d")})
    paths = [folder(b""), file(b"a"), file(b"b"), file(b"c"), file(b"e")]
    seen = [(entry.path, entry.mode) for entry in outputs.over(paths)]
    assert seen == [
        (b"", 0o755), (b"a", 0o755), (b"c", 0o600), (b"d", 0o755), (b"e", 0o755),
    ]  # fmt: skip
    assert list(NOTHING.over(paths)) == paths


@pytest.mark.parametrize(
    "wrong",
    [b"", b"x\n", OUTPUTS + b"b -\na -\n", OUTPUTS + b"a -\na -\n", OUTPUTS + b"../a -\n",
     OUTPUTS + b"a -", OUTPUTS + b"a\n", OUTPUTS + b"%61 -\n", OUTPUTS + b".abupdate/x -\n"],
)  # fmt: skip
def test_outputs_that_are_not_so_are_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_outputs(wrong)
