"""The copies of the boot state: what counts as whole, and writes that are cut anywhere."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abupdate.boot import grubenv
from abupdate.boot.envblock import format_block, parse_block
from abupdate.boot.grubenv import BACKUP, PRIMARY, VALUES, Grubenv, LostError, decode
from abupdate.boot.state import BootState, Ustate, arm, backup_of, begin, confirm, provision
from abupdate.errors import DeviceFaultError
from abupdate.failpoints import VARIABLE

OLD = provision(3, 8)
NEW = arm(begin(OLD, "B", "A"), "B")

# grub-editenv runs once for each state.
encode = functools.cache(grubenv.encode)

STATES = st.builds(
    BootState,
    slot=st.sampled_from("AB"),
    good=st.sampled_from(["AB", "Ax", "xB", "xx"]),
    trial=st.sampled_from("ABx"),
    ustate=st.sampled_from(Ustate),
    countdown=st.integers(0, 9),
    tries=st.integers(1, 9),
    limit=st.integers(0, 9),
    failed=st.sampled_from("ABx"),
    once=st.sampled_from("Rx"),
    seen=st.sampled_from("ABRx"),
)


def plain(state: BootState) -> dict[str, str]:
    """All variables of the file, by our own hand."""
    values = {name: str(getattr(state, name)) for name in state.__dataclass_fields__}
    values["ustate"] = str(int(state.ustate))
    return {"fmt": "1", **values, "end": "1"}


@given(STATES)
def test_decode_is_the_inverse(state: BootState) -> None:
    assert decode(format_block(plain(state))) == state


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


@given(STATES, st.sampled_from(list(VALUES)), st.text("ABRx0123456789 -#", max_size=3))
def test_every_value_is_checked(state: BootState, name: str, value: str) -> None:
    raw = format_block({**plain(state), name: value})
    if re.fullmatch(VALUES[name], value):
        assert plain(decode(raw))[name] == value
    else:
        with pytest.raises(LostError, match=name):
            decode(raw)


@given(STATES, st.sampled_from(list(VALUES)))
def test_no_variable_may_be_missing(state: BootState, name: str) -> None:
    values = plain(state)
    del values[name]
    with pytest.raises(LostError, match=name):
        decode(format_block(values))


@given(st.integers(0, 1023))
def test_cut_file_is_lost_or_whole(length: int) -> None:
    raw = encode(NEW)
    if length > raw.index(b"end=1"):
        length = max(length, raw.index(b"end=1") + len(b"end=1\n"))
        assert decode(raw[:length]) == NEW
    else:
        with pytest.raises(LostError):
            decode(raw[:length])


@given(st.binary(max_size=2000))
def test_anything_else_is_lost(raw: bytes) -> None:
    for content in (raw, encode(OLD)[:25] + raw):
        with pytest.raises(LostError):
            decode(content)


@given(STATES, STATES, st.tuples(st.booleans(), st.booleans()))
def test_torn_write_is_old_or_new(
    old: BootState, new: BootState, arrived: tuple[bool, ...]
) -> None:
    """Whichever of the two sectors reaches the disk."""
    before, after = format_block(plain(old)), format_block(plain(new))
    torn = b"".join(
        (after if done else before)[512 * number : 512 * (number + 1)]
        for number, done in enumerate(arrived)
    )
    assert decode(torn) in (old, new)


@given(st.dictionaries(st.text("abc_", min_size=1), st.text("ab=#\\\n ", max_size=8), max_size=6))
def test_block_is_what_grub_editenv_reads(values: dict[str, str]) -> None:
    assert parse_block(format_block(values)) == values


@pytest.mark.parametrize(
    "body",
    [
        b"a=1\nb=2\n",
        b"a=x\\\\y\\\nz\nb=\n",
        b"# c=1\na=1\n\nb=2\n",
        b"no equals\na=1\n",
        b"a=1\nb=2",
        b"a=1\nb=2\\",
        b"a==1\n=2\n",
        b"a=1\n#####b=2\nc=3\n",
    ],
)
def test_block_agrees_with_grub_editenv(tmp_path: Path, body: bytes) -> None:
    """GRUB's own program on blocks with oddities: escapes, comments, no end."""
    raw = b"# GRUB Environment Block\n" + body
    (tmp_path / "block").write_bytes(raw)
    listed = subprocess.run(
        ["grub-editenv", tmp_path / "block", "list"], capture_output=True, check=True
    )
    found = parse_block(raw)
    assert found is not None
    assert listed.stdout.decode() == "".join(f"{key}={found[key]}\n" for key in found)


def test_the_last_line_of_a_name_counts() -> None:
    assert parse_block(b"# GRUB Environment Block\na=1\nb=2\na=3\n") == {"a": "3", "b": "2"}


def folder(path: Path, state: BootState | None = OLD) -> Grubenv:
    if state is not None:
        (path / PRIMARY).write_bytes(encode(state))
        (path / BACKUP).write_bytes(encode(backup_of(state, Ustate.OK)))
    return Grubenv(path)


def test_write_and_read(tmp_path: Path) -> None:
    copies = folder(tmp_path)
    inodes = [(tmp_path / name).stat().st_ino for name in (PRIMARY, BACKUP)]
    copies.write(NEW)
    assert copies.read() == grubenv.Reading(NEW, "primary", ())
    assert decode((tmp_path / BACKUP).read_bytes()) == backup_of(NEW, Ustate.OK)
    assert inodes == [(tmp_path / name).stat().st_ino for name in (PRIMARY, BACKUP)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [PRIMARY, BACKUP]


def test_backup_keeps_the_ustate_from_before_the_trial(tmp_path: Path) -> None:
    failed = replace(OLD, ustate=Ustate.FAILED)
    copies = folder(tmp_path, failed)
    copies.write(arm(begin(failed, "B", "A"), "B"))
    copies.write(replace(NEW, countdown=1))
    assert decode((tmp_path / BACKUP).read_bytes()).ustate == Ustate.FAILED


@pytest.mark.parametrize("broken", [None, b"", encode(OLD)[:43], encode(OLD) + b"#", bytes(1024)])
def test_lost_primary(tmp_path: Path, broken: bytes | None) -> None:
    copies = folder(tmp_path)
    if broken is None:
        (tmp_path / PRIMARY).unlink()
    else:
        (tmp_path / PRIMARY).write_bytes(broken)
    reading = copies.read()
    # GRUB does read 1025 bytes, and so do we; each case is told.
    usable = broken is not None and len(broken) == 1025
    assert (reading.state, reading.source) == (OLD, "primary" if usable else "backup")
    assert len(reading.problems) == 1 and PRIMARY in reading.problems[0]
    copies.write(NEW)
    assert copies.read() == grubenv.Reading(NEW, "primary", ())


def test_both_lost(tmp_path: Path) -> None:
    reading = folder(tmp_path, None).read()
    assert (reading.state, reading.source, len(reading.problems)) == (None, None, 2)


@pytest.mark.parametrize(
    ("point", "backup_first", "left"),
    [
        ("state-primary-written", False, (NEW, OLD)),
        ("begin-backup-written", True, (OLD, backup_of(NEW, Ustate.OK))),
    ],
)
def test_cut_between_the_copies(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    backup_first: bool,
    left: tuple[BootState, BootState],
) -> None:
    copies = folder(tmp_path)
    monkeypatch.setenv(VARIABLE, f"{point}:error")
    with pytest.raises(DeviceFaultError, match=point):
        copies.write(NEW, backup_first=backup_first)
    assert tuple(decode((tmp_path / name).read_bytes()) for name in (PRIMARY, BACKUP)) == left


class PowerCut(BaseException):
    """Nothing of the writer runs after it."""


def cut_before(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """End the writer at its system call of this number, before it does anything."""
    counter = iter(range(number, -1, -1))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **keywords: Any) -> Any:
            if next(counter) == 0:
                raise PowerCut
            return call(*arguments, **keywords)

        return made

    for name in ("pwrite", "fsync", "preadv"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("missing", [(), (PRIMARY,), (PRIMARY, BACKUP)])
def test_cut_at_every_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    """Afterwards GRUB finds the old state or the new one; and another write ends well."""
    monkeypatch.setattr(grubenv, "encode", encode)
    possible = {OLD, backup_of(OLD, Ustate.OK), NEW, backup_of(NEW, Ustate.OK)}
    for number in range(30):
        directory = tmp_path / str(number)
        directory.mkdir()
        copies = folder(directory)
        for name in missing:
            (directory / name).unlink()
        with monkeypatch.context() as patch:
            cut_before(patch, number)
            try:
                copies.write(NEW)
                break
            except PowerCut:
                pass
        found = copies.read().state
        assert found in possible or (found is None and len(missing) == 2)
        copies.write(NEW)
        assert copies.read() == grubenv.Reading(NEW, "primary", ())
    assert number >= 6, "two writes, two fsyncs and two reads should have been cut"
    assert copies.read().problems == ()


def test_other_bytes_on_the_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grubenv, "read_from_disk", lambda path, limit: encode(OLD))
    with pytest.raises(DeviceFaultError, match="other bytes"):
        folder(tmp_path).write(NEW)


def test_a_full_or_failing_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = folder(tmp_path)
    monkeypatch.setattr(os, "pwrite", lambda fd, raw, offset: 100)
    with pytest.raises(DeviceFaultError, match="100 of 1024"):
        copies.write(NEW)


@pytest.mark.parametrize("where", ["/dev/shm", None])
def test_read_from_disk(tmp_path: Path, where: str | None) -> None:
    """With O_DIRECT, and on a tmpfs, which has none."""
    directory = tmp_path if where is None else Path(where)
    file = directory / f"abupdate-test-{os.getpid()}"
    try:
        file.write_bytes(encode(NEW))
        assert grubenv.read_from_disk(file, 1025) == encode(NEW)
        assert grubenv.read_from_disk(file, 100) == encode(NEW)[:100]
    finally:
        file.unlink()


def test_writable_is_entered_for_the_write_alone(tmp_path: Path) -> None:
    events: list[str] = []

    @contextmanager
    def writable() -> Iterator[None]:
        events.append("rw")
        yield
        events.append(f"ro {decode((tmp_path / PRIMARY).read_bytes()).trial}")

    folder(tmp_path)
    copies = Grubenv(tmp_path, writable)
    copies.read()
    assert events == []
    copies.write(NEW)
    assert events == ["rw", "ro B"]


def _write_often(path: Path, state: BootState) -> None:
    for _ in range(6):
        Grubenv(path).write(state)


def test_concurrent_writers(tmp_path: Path) -> None:
    """Both copies always come from one writer: the copies of two states never mix."""
    folder(tmp_path)
    states = [confirm(NEW, "B", 3, 8), replace(OLD, countdown=2), replace(OLD, failed="B")]
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(tmp_path, state)) for state in states]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    primary, backup = (decode((tmp_path / name).read_bytes()) for name in (PRIMARY, BACKUP))
    assert primary in states and backup == primary
