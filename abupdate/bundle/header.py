"""The text at the start of a bundle, read strictly: it is the first byte of hostile input.

Format: gitformat-bundle(5), of which a release uses a part: version 2 for SHA-1
or version 3 with `@object-format` alone, any number of prerequisites, the ref
`refs/tags/release/VERSION`, and `refs/tags/release/VERSION+SIGNER` for each further
signer. git itself takes more (a bundle that is cut off in its header fetches without
an error), so git is not asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from abupdate.errors import AbupdateError, SourceError
from abupdate.events import Events
from abupdate.release.tag import MAX_COSIGNERS, is_cosigner
from abupdate.release.version import Version
from abupdate.store.readable import Readable

MAX_PREREQUISITES = 64

_MAX_LINE = 4096
_SIGNATURES = {b"# v2 git bundle\n": 2, b"# v3 git bundle\n": 3}
_DIGITS = {"sha1": 40, "sha256": 64}
_CHUNK = 1024 * 1024
_TAG_REF = "refs/tags/release/"


class CountedSource:
    """A source that counts what is read, tells it, and never gives more than allowed.

    `total` is the size in bytes where the caller knows it, for progress only.
    """

    def __init__(
        self,
        source: Readable,
        max_bytes: int,
        events: Events | None = None,
        total: int | None = None,
    ) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._events = events or Events()
        self._total = total
        self._buffer = b""
        self.transferred = 0

    def read(self, size: int = _CHUNK, /) -> bytes:
        """At most `size` bytes; `b""` at the end. Raises `SourceError`."""
        if not self._buffer:
            self._fill(size)
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def readline(self, size: int = _MAX_LINE, /) -> bytes:
        """Bytes up to and with a newline, at most `size`, fewer at the end of the source."""
        while b"\n" not in self._buffer and len(self._buffer) < size and self._fill(_MAX_LINE):
            pass
        end = self._buffer.find(b"\n") + 1 or size
        return self.read(min(end, size)) if self._buffer else b""

    def peek(self, size: int) -> bytes:
        """The next `size` bytes (fewer at the end of the source), to be read again."""
        while len(self._buffer) < size and self._fill(size - len(self._buffer)):
            pass
        return self._buffer[:size]

    def _fill(self, size: int) -> bool:
        try:
            chunk = self._source.read(max(1, size))
        except OSError as error:
            raise SourceError(
                f"The source cannot be read: {error.strerror or error}.",
                "Get the bundle again, on another medium if it lies on one.",
            ) from error
        self.transferred += len(chunk)
        if self.transferred > self._max_bytes:
            raise SourceError(
                f"The bundle is larger than {self._max_bytes} bytes, which is the limit.",
                "The limit is store.max_bundle of config.toml.",
            )
        if chunk:
            self._events.progress(self.transferred, self._total)
        self._buffer += chunk
        return bool(chunk)


@dataclass(frozen=True)
class BundleHeader:
    """What a bundle says that it holds.

    `prerequisites` are commits that the receiver must have: id and comment
    (the name of the release, where our own publisher wrote it). `cosigned`: further
    signers and the objects of their tags.
    """

    object_format: str
    version: Version
    tag_oid: str
    prerequisites: tuple[tuple[str, str], ...] = ()
    cosigned: tuple[tuple[str, str], ...] = ()


def format_header(header: BundleHeader) -> bytes:
    """The header as git writes it, the empty line at its end included."""
    sha1 = header.object_format == "sha1"
    lines = ["# v2 git bundle"] if sha1 else ["# v3 git bundle", "@object-format=sha256"]
    lines += [f"-{oid} {comment}" for oid, comment in header.prerequisites]
    lines += [f"{header.tag_oid} {header.version.ref}"]
    lines += [f"{oid} {header.version.ref}+{signer}" for signer, oid in header.cosigned]
    lines += ["", ""]
    return "\n".join(lines).encode("utf-8")


def parse_header(source: CountedSource) -> BundleHeader:
    """Read the header and not a byte more. Raises `SourceError`."""
    object_format, line = _opening(source)
    oid = rf"[0-9a-f]{{{_DIGITS[object_format]}}}"
    prerequisites: list[tuple[str, str]] = []
    refs: list[tuple[str, str]] = []
    while line != "":
        if found := re.fullmatch(rf"-({oid})(?: (.*))?", line):
            prerequisites.append((found[1], _printable(found[2] or "")))
        elif found := re.fullmatch(rf"({oid}) (\S+)", line):
            refs.append((found[1], found[2]))
        else:
            raise _broken(f"found {_printable(line)!r} where an object id was expected")
        if len(prerequisites) > MAX_PREREQUISITES or len(refs) > 1 + MAX_COSIGNERS:
            raise _broken(
                f"a release has one ref, at most {MAX_COSIGNERS} for further signers and "
                f"{MAX_PREREQUISITES} prerequisites, found {_printable(line)!r} as well"
            )
        line = _line(source)
    if not refs:
        raise _broken("it names no release")
    tag_oid, ref = refs[0]
    version = _version(ref)
    cosigned = {_cosigner(name, version): oid for oid, name in refs[1:]}
    if len(cosigned) != len(refs) - 1:
        raise _broken("it names a signer twice")
    return BundleHeader(
        object_format, version, tag_oid, tuple(prerequisites), tuple(cosigned.items())
    )


def _opening(source: CountedSource) -> tuple[str, str]:
    """The object format, and the first line after those that tell it."""
    first = source.readline()
    if not first:
        raise SourceError("The bundle is empty.", "Was the download complete?")
    version = _SIGNATURES.get(first)
    if version is None:
        raise SourceError(
            f"Not a bundle: it begins with {_printable(first[:24].decode('latin-1'))!r}, "
            "not with '# v3 git bundle'.",
            "Bundles are made with `abupdate publish bundle`.",
        )
    object_format = "sha1"
    line = _line(source)
    seen = False
    while line.startswith("@"):
        name, _, value = line[1:].partition("=")
        if version != 3 or seen or name != "object-format" or value not in _DIGITS:
            raise _broken(f"it needs {_printable(line)!r}, which is not known here")
        object_format, seen = value, True
        line = _line(source)
    return object_format, line


def _line(source: CountedSource) -> str:
    raw = source.readline()
    if not raw.endswith(b"\n"):
        what = "a line is too long" if len(raw) >= _MAX_LINE else "it ends too early"
        raise _broken(what)
    return raw[:-1].decode("utf-8", errors="replace")


def _version(ref: str) -> Version:
    try:
        if not ref.startswith(_TAG_REF):
            raise _broken(f"it holds {_printable(ref)!r}, not a release")
        return Version(ref[len(_TAG_REF) :])
    except SourceError:
        raise
    except AbupdateError as error:
        raise _broken(f"{_printable(ref)!r} is not a release's name") from error


def _cosigner(ref: str, version: Version) -> str:
    signer = ref.removeprefix(f"{version.ref}+")
    if signer == ref or not is_cosigner(signer):
        raise _broken(
            f"a release has one ref, and its further signers one each; found {_printable(ref)!r} "
            "as well"
        )
    return signer


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:120])


def _broken(what: str) -> SourceError:
    return SourceError(
        f"The bundle's header is not as expected: {what}.", "Get the bundle again from its source."
    )
