"""Versions and release.toml."""

from __future__ import annotations

import contextlib
import random
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abupdate.errors import AbupdateError, RefusedError, SourceError, UsageError
from abupdate.release.metadata import ReleaseToml, format_release_toml, parse_release_toml
from abupdate.release.version import Version

IN_ORDER = [
    *["0", "0.0.1", "0.9", "0.10", "1-alpha", "1-beta.2", "1-rc", "1-rc.0", "1-rc.1", "1-rc.2"],
    *["1-rc.10", "1", "1.0-rc.1", "1.0", "1.0.0", "1.0.1", "1.2", "1.10", "2", "10"],
    *["2026.4.1", "2026.11.21"],
]

BAD_VERSIONS = [
    *["", " 1", "1 ", "1\n", "v1", "1.", ".1", "1..2", "01", "1.02", "1-", "1-rc.", "1-rc.01"],
    *["1-RC.1", "1-rc1", "1-1", "1-rc.1.2", "1+b", "1/2", "1:2", "1~", "1^", "..", "-1", "1.lock"],
    *["\N{ARABIC-INDIC DIGIT ONE}", "1" * 65, "1\0", "HEAD", "@{1}", "1-rc.lock"],
]

GOOD = ReleaseToml(
    version=Version("1.2.0-rc.1"),
    compatible="acme,board-2",
    bytes=900_000_000,
    inodes=21_000,
    created=1_795_000_000,
    floor=Version("1.1"),
    min_from=Version("1.0"),
    fixups_write=("etc/ld.so.cache", 'var/"odd"\\name/**', "usr/lib/é*"),
)


def test_versions_sort_in_the_documented_order() -> None:
    versions = [Version(text) for text in IN_ORDER]
    shuffled = random.Random(7).sample(versions, len(versions))
    assert [str(version) for version in sorted(shuffled)] == IN_ORDER


version_texts = st.from_regex(
    r"\A(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){0,3}(-[a-z]{1,4}(\.(0|[1-9][0-9]?))?)?\Z"
)


@given(version_texts, version_texts, version_texts)
def test_the_order_is_total(a: str, b: str, c: str) -> None:
    x, y, z = Version(a), Version(b), Version(c)
    assert [x < y, x == y, x > y].count(True) == 1
    assert (x == y) == (a == b)
    if x <= y <= z:
        assert x <= z


@pytest.mark.parametrize("text", BAD_VERSIONS)
def test_a_text_that_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Version(text)


def test_every_version_is_a_ref_that_git_allows() -> None:
    for text in [*IN_ORDER, "9" * 64, "1-lock"]:
        subprocess.run(["git", "check-ref-format", Version(text).ref], check=True)


def test_round_trip() -> None:
    raw = format_release_toml(GOOD)
    assert parse_release_toml(raw) == GOOD
    assert format_release_toml(parse_release_toml(raw)) == raw


def test_optional_keys_may_be_missing() -> None:
    raw = b'format = 1\nversion = "7"\ncompatible = "x"\nbytes = 0\ninodes = 0\ncreated = 0\n'
    release = parse_release_toml(raw)
    assert (release.floor, release.min_from, release.fixups_write) == (None, None, ())


def test_unknown_keys_are_named_and_do_no_harm() -> None:
    release = parse_release_toml(format_release_toml(GOOD) + b"zeal = 1\n[extra]\na = 1\n")
    assert release.unknown == ("extra", "zeal")
    assert release == GOOD


@pytest.mark.parametrize(
    ("line", "needs"),
    [
        (b"", "a newer abupdate"),
        (b'needs_abupdate = "2.5"\n', "abupdate >= 2.5"),
        (b'needs_abupdate = "\\u001b[31m"\n', "a newer abupdate"),
    ],
)
def test_a_newer_format_is_refused_before_its_keys_are_read(line: bytes, needs: str) -> None:
    with pytest.raises(RefusedError, match=f"format 2 and needs {needs};"):
        parse_release_toml(b"format = 2\nversion = 1\n" + line)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "true"),
        ("format", '"1"'),
        ("format", "0"),
        ("format", "-1"),
        ("version", "1.2"),
        ("version", '"1/2"'),
        ("compatible", '""'),
        ("compatible", '"two\\nlines"'),
        ("compatible", '"a b"'),
        ("compatible", "[]"),
        ("bytes", "-1"),
        ("bytes", "1.5"),
        ("bytes", "true"),
        ("bytes", "9" * 30),
        ("inodes", '"3"'),
        ("created", "99999999999999"),
        ("floor", '"1.3"'),
        ("floor", "1"),
        ("min_from", '"2"'),
        ("fixups_write", '"etc/x"'),
        ("fixups_write", "[1]"),
        *[("fixups_write", f'["{p}"]') for p in ("/etc/x", "../x", "a//b", "", "a/./b", "a**")],
        *[("fixups_write", f'["{p}"]') for p in ("**", "*/x", "v?r", "boot/x", ".abupdate/**")],
        *[("fixups_write", f'["{p}"]') for p in (".git-fixups", "boot", "lost+found/x")],
    ],
)
def test_a_wrong_value_is_refused_and_its_key_named(key: str, value: str) -> None:
    lines = format_release_toml(GOOD).decode().splitlines()
    changed = [f"{key} = {value}" if line.startswith(f"{key} ") else line for line in lines]
    assert changed != lines
    with pytest.raises(SourceError, match=key):
        parse_release_toml("\n".join(changed).encode())


@pytest.mark.parametrize("key", ["format", "version", "compatible", "bytes", "inodes", "created"])
def test_a_missing_key_is_named(key: str) -> None:
    lines = format_release_toml(GOOD).decode().splitlines()
    with pytest.raises(SourceError, match=f"{key} must be .* found nothing"):
        parse_release_toml("\n".join(x for x in lines if not x.startswith(f"{key} ")).encode())


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff\xfe", b"format = ", b"[" * 60_000, b"x=" + b"[" * 60_000],
    ids=["empty", "not-utf8", "not-toml", "tables", "nested"],
)
def test_what_is_no_toml_is_refused(raw: bytes) -> None:
    with pytest.raises(SourceError):
        parse_release_toml(raw)


def test_a_file_that_is_too_large_is_not_read() -> None:
    raw = format_release_toml(GOOD)
    assert parse_release_toml(raw + b"#" * (65_536 - len(raw))) == GOOD
    with pytest.raises(SourceError, match="65536 bytes, found 65537"):
        parse_release_toml(raw + b"#" * (65_537 - len(raw)))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(AbupdateError):
        parse_release_toml(raw)


@given(st.data())
def test_a_changed_file_is_read_or_refused(data: Any) -> None:
    raw = bytearray(format_release_toml(GOOD))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(AbupdateError):
        parse_release_toml(bytes(raw))


def test_a_release_that_forbids_itself_cannot_be_made() -> None:
    with pytest.raises(UsageError, match="floor 3 is above"):
        ReleaseToml(Version("2"), "x", 0, 0, 0, floor=Version("3"))
