"""Kernel arguments, `/boot/abupdate.env` and `/boot/SHA256SUMS`."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abupdate.boot.cmdline import (
    BootArguments,
    SlotBoot,
    abupdate_env,
    parse,
    parse_abupdate_env,
    parse_sha256sums,
    sha256sums,
)
from abupdate.boot.envblock import format_block
from abupdate.errors import UsageError

UUID = "725fdfe1-4a57-4c87-82e3-1857a363bc31"


def test_what_grub_says() -> None:
    text = (
        f"BOOT_IMAGE=(hd0,gpt5)/boot/vmlinuz root=PARTUUID={UUID.upper()} ro panic=30 quiet "
        "abupdate.slot=B abupdate.boot=trial abupdate.etc=clean\n"
    )
    assert parse(text) == BootArguments("B", "trial", UUID, True)


@pytest.mark.parametrize(
    "text",
    ["", "quiet", "root=/dev/sda1", "abupdate.slot=C abupdate.boot=x root=UUID=1", "-- root="],
)
def test_nothing_known(text: str) -> None:
    assert parse(text) == BootArguments(None, None, None, False)


def test_last_word_counts_and_init_gets_the_rest() -> None:
    text = "abupdate.slot=A abupdate.slot=B root=PARTUUID=1 -- abupdate.slot=A"
    assert parse(text) == BootArguments("B", None, "1", False)


@given(st.text())
def test_parse_never_fails(text: str) -> None:
    parse(text)


WORD = st.text("abcz019._,:/=-+@%^~", min_size=1, max_size=12).filter(
    lambda word: word.partition("=")[0] not in ("root", "--")
)


@given(st.lists(WORD, max_size=30))
def test_env_round_trip(words: list[str]) -> None:
    raw = abupdate_env("/boot/vmlinuz-6.12+deb13", "/boot/initrd.img~1", " ".join(words))
    assert len(raw) % 1024 == 0 and raw.endswith(b"#")
    found = parse_abupdate_env(raw)
    assert found == SlotBoot("/boot/vmlinuz-6.12+deb13", "/boot/initrd.img~1", " ".join(words))


def test_long_command_line_grows_the_block() -> None:
    assert len(abupdate_env("/boot/k", "/boot/i", "x" * 1200)) == 2048


@pytest.mark.parametrize(
    ("kernel", "initrd", "cmdline"),
    [
        ("vmlinuz", "/boot/i", ""),
        ("/boot/../etc/shadow", "/boot/i", ""),
        ("/boot/sub/k", "/boot/i", ""),
        ("/boot/k $(x)", "/boot/i", ""),
        ("/boot/k", "", ""),
        ("/boot/k", "/boot/i", 'dyndbg="file a"'),
        ("/boot/k", "/boot/i", "a=*"),
        ("/boot/k", "/boot/i", "a\\b"),
        ("/boot/k", "/boot/i", "a=ä"),
        ("/boot/k", "/boot/i", "a=\x01"),
        ("/boot/k", "/boot/i", "root=/dev/sda1"),
        ("/boot/k", "/boot/i", "quiet abupdate.slot=A"),
        ("/boot/k", "/boot/i", "quiet -- abupdate"),
        ("/boot/k", "/boot/i", "x" * 1793),
    ],
)
def test_what_grub_would_not_hand_on_is_refused(kernel: str, initrd: str, cmdline: str) -> None:
    with pytest.raises(UsageError):
        abupdate_env(kernel, initrd, cmdline)
    raw = format_block({"kernel": kernel, "initrd": initrd, "cmdline": cmdline})
    with pytest.raises(UsageError):
        parse_abupdate_env(raw)


@pytest.mark.parametrize("raw", [b"", b"kernel=/boot/k\n", b"# GRUB Environment Block\n###"])
def test_bad_env_is_refused(raw: bytes) -> None:
    with pytest.raises(UsageError):
        parse_abupdate_env(raw)


def test_sums() -> None:
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("vmlinuz-1", "a.img")}
    raw = sha256sums(digests)
    assert raw.splitlines()[0] == f"{digests['a.img']}  a.img".encode()
    assert parse_sha256sums(raw) == digests


@pytest.mark.parametrize(
    "raw", [b"\n", b"abc  x\n", b"0" * 64 + b" x\n", b"0" * 64 + b"  ../x\n", b"\xff"]
)
def test_bad_sums_are_refused(raw: bytes) -> None:
    with pytest.raises(UsageError):
        parse_sha256sums(raw)


def test_sums_names_are_plain() -> None:
    with pytest.raises(UsageError):
        sha256sums({"../x": "0" * 64})
