"""The text at the start of a bundle."""

from __future__ import annotations

import errno
import io
import os

import pytest

from abupdate.bundle.header import BundleHeader, CountedSource, format_header, parse_header
from abupdate.errors import (
    ExitCode,
    SourceError,
)
from tests.unit.bundles import (
    LIMIT,
    TWO,
    Device,
    Publisher,
    refused,
)

OID = "ab" * 32


def _header(*lines: str, end: str = "\n\n") -> bytes:
    return ("\n".join(lines) + end).encode()


V3 = ("# v3 git bundle", "@object-format=sha256")
HEADERS = {
    "empty": b"",
    "text": b"Hello, this is a text file.\nIt has lines.\n",
    "binary": bytes(range(256)) * 100,
    "one long line": b"# v3 git bundle" + b" " * 100_000,
    "version 9": _header("# v9 git bundle", f"{OID} refs/tags/release/1"),
    "no ref": _header(*V3),
    "only prerequisites": _header(*V3, f"-{OID} x"),
    "two refs": _header(*V3, f"{OID} refs/tags/release/1", f"{OID} refs/tags/release/2"),
    "a branch": _header(*V3, f"{OID} refs/heads/main"),
    "HEAD": _header(*V3, f"{OID} HEAD"),
    "ref renamed": _header(*V3, f"{OID} refs/tags/reldase/1"),
    "ref goes up": _header(*V3, f"{OID} refs/tags/release/../../heads/x"),
    "ref with a space": _header(*V3, f"{OID} refs/tags/release/1 x"),
    "ref with a terminal code": _header(*V3, f"{OID} refs/tags/release/\x1b[31m"),
    "sha1 id": _header(*V3, f"{'ab' * 20} refs/tags/release/1"),
    "upper case id": _header(*V3, f"{OID.upper()} refs/tags/release/1"),
    "filter": _header(*V3, "@filter=blob:none", f"{OID} refs/tags/release/1"),
    "format twice": _header(*V3, V3[1], f"{OID} refs/tags/release/1"),
    "unknown format": _header(V3[0], "@object-format=md5", f"{OID} refs/tags/release/1"),
    "capability in version 2": _header("# v2 git bundle", V3[1], f"{OID} refs/tags/release/1"),
    "capability late": _header(V3[0], f"-{OID} x", V3[1], f"{OID} refs/tags/release/1"),
    "no end": _header(*V3, f"{OID} refs/tags/release/1", end="\n"),
    "cut line": _header(*V3, f"{OID} refs/tags/rel", end=""),
    "many prerequisites": _header(*V3, *[f"-{OID} x"] * 65, f"{OID} refs/tags/release/1"),
    "endless prerequisites": _header(*V3, *[f"-{OID} x"] * 50_000),
}


class TestHeader:
    @pytest.mark.parametrize("name", HEADERS)
    def test_a_wrong_header_is_refused(self, name: str, device256: Device) -> None:
        error = refused(device256, HEADERS[name])
        assert error.exit_code == ExitCode.SOURCE
        # By its header, and not because no pack follows it.
        with pytest.raises(SourceError) as caught:
            parse_header(CountedSource(io.BytesIO(HEADERS[name]), LIMIT))
        assert str(caught.value) == str(error)
        assert str(error).isprintable()
        assert len(str(error)) < 500

    def test_the_sentence_for_a_text_file(self, device256: Device) -> None:
        error = refused(device256, HEADERS["text"])
        assert error.message.startswith("Not a bundle: it begins with 'Hello, this is a text fi'")

    def test_round_trip_reads_not_a_byte_more(self) -> None:
        header = BundleHeader("sha256", TWO, OID, ((OID, "release/1"), ("cd" * 32, "")))
        source = CountedSource(io.BytesIO(format_header(header) + b"PACK\0rest"), 1000)
        assert parse_header(source) == header
        assert source.read() + source.read() == b"PACK\0rest"

    def test_a_source_that_cannot_be_read_is_no_fault_of_ours(self) -> None:
        class Failing(io.BytesIO):
            def read(self, _size: int | None = -1, /) -> bytes:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        with pytest.raises(SourceError, match="cannot be read: Input/output error") as caught:
            parse_header(CountedSource(Failing(), 1000))
        assert "Get the bundle again" in (caught.value.hint or "")

    def test_every_cut_of_a_header_is_refused(self, sha256: Publisher, device256: Device) -> None:
        end = sha256.delta.index(b"\n\n") + 2
        for size in range(end):
            with pytest.raises(SourceError):
                parse_header(CountedSource(io.BytesIO(sha256.delta[:size]), LIMIT))
