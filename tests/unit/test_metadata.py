"""Versions and release.toml."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import tomllib
from datetime import timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abupdate.errors import AbupdateError, ExitCode, RefusedError, SourceError, UsageError
from abupdate.release.metadata import ReleaseToml, format_release_toml, parse_release_toml
from abupdate.release.toml import value_text
from abupdate.release.version import Version
from tests.schema import DOCS

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


def with_value(key: str, value: str) -> bytes:
    """A good file but for one key."""
    lines = format_release_toml(GOOD).decode().splitlines()
    kept = [line for line in lines if not line.startswith(f"{key} ")]
    return "\n".join([*kept, f"{key} = {value}"]).encode()


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


def test_unknown_keys_are_kept_and_do_no_harm() -> None:
    release = parse_release_toml(format_release_toml(GOOD) + b"zeal = 1\n[extra]\na = 1\n")
    assert release.model_extra == {"zeal": 1, "extra": {"a": 1}}
    assert all(getattr(release, key) == getattr(GOOD, key) for key in ReleaseToml.model_fields)
    written = format_release_toml(release)
    assert written == format_release_toml(GOOD) + b"extra = {a = 1}\nzeal = 1\n"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
scalars = (
    st.booleans()
    | st.integers(-(1 << 80), 1 << 80)
    | st.floats(allow_nan=False)
    | texts
    | st.datetimes(timezones=st.none() | zones)
    | st.dates()
    | st.times()
)
toml_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
# Names that a class could mistake for its own.
odd_keys = st.sampled_from(["", "a.b", "copy", "model_fields", "__class__", "_private", "self"])
unknown_keys = (texts | odd_keys).filter(lambda key: key not in ReleaseToml.model_fields)


@given(st.dictionaries(unknown_keys, toml_values, max_size=5))
def test_any_unknown_keys_survive_a_round_trip(unknown: dict[str, Any]) -> None:
    release = ReleaseToml.model_validate({**GOOD.model_dump(), **unknown})
    raw = format_release_toml(release)
    again = parse_release_toml(raw)
    assert again == release
    assert again.model_extra == unknown
    assert format_release_toml(again) == raw  # 1, 1.0 and true are equal to Python


@pytest.mark.parametrize("text", ["nan", "0x" + "f" * 50_000, "{b = [[{}], []], a = 1}"])
def test_odd_values_of_unknown_keys_survive_a_round_trip(text: str) -> None:
    raw = format_release_toml(GOOD) + f"x = {text}\n".encode()
    written = format_release_toml(parse_release_toml(raw))
    assert format_release_toml(parse_release_toml(written)) == written
    assert len(written) == len(raw)


def test_unknown_keys_that_no_file_has_room_for_cannot_be_written() -> None:
    release = ReleaseToml.model_validate({**GOOD.model_dump(), "x": "x" * 70_000})
    with pytest.raises(UsageError, match="65536 bytes"):
        format_release_toml(release)


@pytest.mark.parametrize(
    ("line", "needs"),
    [
        (b"", "a newer abupdate"),
        (b'needs_abupdate = "2.5"\n', "abupdate >= 2.5"),
        (b'needs_abupdate = "\\u001b[31m"\n', "a newer abupdate"),
        (b"needs_abupdate.a = 2.5\n", "a newer abupdate"),
        (b"x = " + b"[" * 50 + b"]" * 50, "a newer abupdate"),
    ],
)
def test_a_newer_format_is_refused_before_its_keys_are_read(line: bytes, needs: str) -> None:
    with pytest.raises(RefusedError, match=f"format 2 and needs {needs};") as refused:
        parse_release_toml(b"format = 2\nversion = 1\n" + line)
    assert refused.value.exit_code == ExitCode.REFUSED


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
    with pytest.raises(SourceError, match=rf"^release.toml: .*\b{key}\b"):
        parse_release_toml(with_value(key, value))


NESTED = "a" + ".a" * 4_000
HOSTILE = {
    "hex": "0x" + "f" * 60_000,
    "decimal": "-" + "9" * 4_000,
    "infinite": "-inf",
    "not-a-number": "nan",
    "date": "1979-05-27",
    "time": "07:32:00",
    "moment": "1979-05-27T07:32:00-07:00",
    "escape": '"\\u001b[2J"',
    "long": f'"{"x" * 60_000}"',
    "list": "[[]]",
    "table": "{a = 1}",
    "nested-keys": f"{{{NESTED} = 1}}",
    "nested-lists": f"{'[' * 200}{']' * 200}",
}


@pytest.mark.parametrize("key", ReleaseToml.model_fields)
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_value_is_refused_in_a_few_words(key: str, value: str) -> None:
    raw = with_value(key, value)
    with pytest.raises(
        SourceError, match=rf"^release.toml: .*\b{key}\b.*(found|tables)"
    ) as refused:
        parse_release_toml(raw)
    assert len(refused.value.message) < 350
    assert refused.value.message.isprintable()
    assert refused.value.hint
    assert "pydantic" not in str(refused.value)


def test_what_is_wrong_is_told_in_words() -> None:
    def told(key: str, value: str) -> str:
        with pytest.raises(SourceError) as refused:
            parse_release_toml(with_value(key, value))
        return str(refused.value)

    make = " Make releases with `abupdate publish commit`."
    assert told("version", "1.2") == (
        f"release.toml: version must be a version in quotes, found 1.2.{make}"
    )
    assert told("bytes", "true") == (
        f"release.toml: bytes must be a whole number from 0 to {1 << 62}, found true.{make}"
    )
    assert told("fixups_write", '["a", 1]') == (
        f"release.toml: fixups_write must be a list of texts, found 1 in it.{make}"
    )
    assert told("floor", '"1..2"').startswith("release.toml: floor: A version is dotted numbers")


@pytest.mark.parametrize(
    "lines",
    ["format = 1", "x = 1\nx = 2", "x.a = 1\n[x]", "[x]\n[x]", "x = {a = 1, a = 2}"],
)
def test_a_key_that_is_there_twice_is_refused(lines: str) -> None:
    with pytest.raises(SourceError, match="not TOML"):
        parse_release_toml(format_release_toml(GOOD) + lines.encode())


@pytest.mark.parametrize(
    "deep",
    [
        lambda depth: f"x = {'[' * depth}{']' * depth}",
        lambda depth: f"x = {'{a = ' * depth}1{'}' * depth}",
        lambda depth: f"x{'.a' * depth} = 1",
        lambda depth: f"[x{'.a' * (depth - 1)}]",
    ],
    ids=["lists", "tables", "keys", "headers"],
)
def test_unknown_keys_nest_as_deep_as_documented(deep: Any) -> None:
    good = format_release_toml(GOOD)
    assert parse_release_toml(good + deep(32).encode()).model_extra
    for depth in (33, 200, 2_000):
        with pytest.raises(SourceError, match="tables"):
            parse_release_toml(good + deep(depth).encode())


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
        ReleaseToml(
            version=Version("2"),
            compatible="x",
            bytes=0,
            inodes=0,
            created=0,
            floor=Version("3"),
        )


def test_a_date_that_no_tag_can_have_is_told_to_the_publisher() -> None:
    with pytest.raises(UsageError, match="created must be a whole number from 0 to 253402300799"):
        ReleaseToml(version=Version("2"), compatible="x", bytes=0, inodes=0, created=1 << 60)


SCHEMA = json.loads((DOCS / "release.schema.json").read_text())


def test_the_documented_table_and_the_schema_name_the_same_keys() -> None:
    page = (DOCS / "release-format.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes|no) \|", page, re.MULTILINE)
    assert {key for key, _ in rows} == SCHEMA["properties"].keys()
    assert {key for key, needed in rows if needed == "yes"} == set(SCHEMA["required"])
    assert SCHEMA["additionalProperties"] is True


def schema_allows(key: str, value: Any, rules: Any = None) -> bool:
    """What a validator of JSON schemas would say, for the few words that this one has."""
    rules = rules or SCHEMA["properties"][key]
    if type(value) is not {"string": str, "integer": int, "array": list}[rules["type"]]:
        return False
    if isinstance(value, list):
        return all(schema_allows(key, item, rules["items"]) for item in value)
    if isinstance(value, str):
        fits = rules.get("minLength", 0) <= len(value) <= rules.get("maxLength", len(value))
        return fits and bool(re.fullmatch(rules.get("pattern", ".*"), value))
    if "const" in rules:
        return bool(value == rules["const"])
    return bool(rules["minimum"] <= value <= rules["maximum"])


def test_the_schema_allows_what_a_publisher_writes() -> None:
    release = GOOD.model_copy(update={"needs_abupdate": Version("1")})
    table = tomllib.loads(format_release_toml(release).decode())
    assert table.keys() == SCHEMA["properties"].keys()
    assert [key for key, value in table.items() if not schema_allows(key, value)] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("format", True), ("format", "1"), ("format", 2), ("version", 1.2), ("floor", 1)],
        *[("compatible", ""), ("compatible", "a b"), ("compatible", "x" * 129)],
        *[("bytes", -1), ("bytes", True), ("inodes", 1 << 63), ("created", 99999999999999)],
        *[("fixups_write", "etc/x"), ("fixups_write", [1]), ("fixups_write", [""])],
    ],
)
def test_the_schema_refuses_what_a_device_refuses(key: str, value: Any) -> None:
    assert not schema_allows(key, value)
    with pytest.raises((SourceError, RefusedError)):
        parse_release_toml(with_value(key, value_text(value)))


@pytest.mark.parametrize("key", ["version", "floor", "min_from", "needs_abupdate"])
def test_the_schema_has_the_documented_versions(key: str) -> None:
    assert all(schema_allows(key, text) for text in IN_ORDER)
    assert not any(schema_allows(key, text) for text in BAD_VERSIONS)
