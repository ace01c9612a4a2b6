"""The copies of the boot state: what counts as whole, and how they are read and written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abupdate.boot import grubenv, inplace
from abupdate.boot.envblock import format_block
from abupdate.boot.grubenv import BACKUP, PRIMARY, VALUES, Grubenv, LostError, decode
from abupdate.boot.state import BootState, Ustate, arm, backup_of, begin
from abupdate.errors import DeviceFaultError
from abupdate.failpoints import VARIABLE
from tests.unit.any_state import STATES
from tests.unit.boot_states import NEW, OLD, encode, plain


@given(STATES)
def test_decode_is_the_inverse(state: BootState) -> None:
    assert decode(format_block(plain(state))) == state


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


def test_other_bytes_on_the_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inplace, "read_from_disk", lambda path, limit: encode(OLD))
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
        assert inplace.read_from_disk(file, 1025) == encode(NEW)
        assert inplace.read_from_disk(file, 100) == encode(NEW)[:100]
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


def test_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A boot partition that is not mounted is a fault of the device, not a bug of ours."""
    with pytest.raises(DeviceFaultError, match="folder of the boot state"):
        Grubenv(tmp_path / "missing").write(NEW)


def test_scratch_folder_that_is_full_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = folder(tmp_path)
    monkeypatch.setattr(grubenv, "_scratch_parent", lambda: str(tmp_path / "missing"))
    with pytest.raises(DeviceFaultError, match="scratch folder"):
        copies.write(replace(NEW, countdown=9))
    assert copies.read().state == OLD


def test_link_is_replaced_by_a_file(tmp_path: Path) -> None:
    """Where it points to is not ours."""
    copies = folder(tmp_path)
    (tmp_path / PRIMARY).rename(tmp_path / "elsewhere")
    (tmp_path / PRIMARY).symlink_to("elsewhere")
    assert copies.read().source == "backup"
    copies.write(NEW)
    assert copies.read() == grubenv.Reading(NEW, "primary", ())
    assert decode((tmp_path / "elsewhere").read_bytes()) == OLD
