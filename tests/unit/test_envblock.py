"""The environment block, byte for byte what GRUB's own `grub-editenv` reads and writes."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from abupdate.boot.envblock import SIGNATURE, format_block, parse_block, parse_lines
from abupdate.boot.grubenv import decode
from abupdate.boot.state import BootState
from tests.unit.any_state import STATES
from tests.unit.boot_states import NEW, OLD, block, encode, plain

# A program is started for each example.
PROGRAM = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PIECES = st.sampled_from(
    [b"a", b"b=", b"=", b"\\", b"\n", b"#", b"\0", b" ", b"\xe4", b"slot=A\n", b"\\\n", b"#" * 9]
)
BODIES = st.lists(PIECES, max_size=24).map(b"".join) | st.binary(max_size=80)
# What a program takes as an argument: anything but a zero byte.
VALUES = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40)
VARIABLES = st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,7}", fullmatch=True), VALUES)


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "block"


def listed(file: Path, raw: bytes) -> bytes | None:
    """What `grub-editenv FILE list` prints; None where it refuses the file."""
    file.write_bytes(raw)
    done = subprocess.run(["grub-editenv", file, "list"], capture_output=True, check=False)
    assert done.returncode == 0 or b"invalid environment block" in done.stderr
    return done.stdout if done.returncode == 0 else None


def ours(raw: bytes) -> bytes | None:
    """The same by our own reader."""
    lines = parse_lines(raw)
    if lines is None:
        return None
    assert parse_block(raw) == dict(lines)
    return "".join(f"{name}={value}\n" for name, value in lines).encode("latin-1")


@pytest.mark.row("S41")
@PROGRAM
@given(BODIES)
@example(b"")
@example(b"a=1\nb=2\n")
@example(b"a=x\\\\y\\\nz\nb=\n")
@example(b"# c=1\na=1\n\nb=2\n")
@example(b"no equals\na=1\n")
@example(b"a=1\nb=2")
@example(b"a=1\nb=2\\")
@example(b"a=1\nb=2\\\n")
@example(b"a==1\n=2\n")
@example(b"a=1\n#####b=2\nc=3\n")
@example(b"#\\\na=1\nb=2\n")
@example(b"a=1\nb=2\na=3\n")
@example(b"#" * 5000 + b"\na=1\n" + b"#" * 70000)
def test_every_block_is_read_like_grub_editenv(file: Path, body: bytes) -> None:
    """Escapes, comments, duplicates, no newline at the end, any length."""
    assert ours(SIGNATURE + body) == listed(file, SIGNATURE + body)


@PROGRAM
@given(st.integers(0, 1023), st.integers(0, 255))
def test_damaged_block_is_read_like_grub_editenv(file: Path, at: int, byte: int) -> None:
    """One byte changed, or the file cut there."""
    raw = block(NEW)
    for damaged in (raw[:at], raw[:at] + bytes([byte]) + raw[at + 1 :]):
        assert ours(damaged) == listed(file, damaged)


@PROGRAM
@given(VARIABLES)
@example({"a": "x" * 994, "b": ""})
@example({"a": "x" * 996})
@example({"a": "#", "b": "\\", "c": "\n", "d": "=", "e": ""})
def test_block_is_what_grub_editenv_writes(file: Path, values: dict[str, str]) -> None:
    raw = format_block(values)
    assert parse_block(raw) == values
    words = [f"{name}={value}".encode("latin-1") for name, value in values.items()]
    file.write_bytes(format_block({}))
    done = subprocess.run(["grub-editenv", file, "set", *words], check=False, capture_output=True)
    if len(raw) == 1024:
        assert file.read_bytes() == raw
    else:
        assert b"too small" in done.stderr


@settings(max_examples=12, deadline=None, suppress_health_check=PROGRAM.suppress_health_check)
@given(STATES)
def test_encode_adds_the_state_to_what_grub_editenv_creates(file: Path, state: BootState) -> None:
    """From 2.06 on it creates a block with a line of warning."""
    subprocess.run(["grub-editenv", file, "create"], check=True)
    lines = block(state).removeprefix(SIGNATURE).rstrip(b"#")
    assert encode(state) == (file.read_bytes().rstrip(b"#") + lines).ljust(1024, b"#")


@pytest.mark.parametrize("state", [OLD, NEW, replace(NEW, good="xB", once="R", seen="B")])
def test_encode(state: BootState) -> None:
    raw = encode(state)
    assert decode(raw) == state
    assert (len(raw), parse_block(raw)) == (1024, plain(state))
    # One sector holds it all, and no change of a value moves another byte.
    assert raw[512:] == b"#" * 512
    assert decode(raw[:512] + b"\0" * 512) == state
    where = [(m.start(), m.group()) for m in re.finditer(rb"\n[a-z]+=", raw)]
    assert where == [(m.start(), m.group()) for m in re.finditer(rb"\n[a-z]+=", encode(OLD))]


def test_the_last_line_of_a_name_counts() -> None:
    assert parse_block(SIGNATURE + b"a=1\nb=2\na=3\n") == {"a": "3", "b": "2"}
