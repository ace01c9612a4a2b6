"""Paths and bytes of a tar, as a stream and as any user.

pax (`tar --format=pax --xattrs`, mmdebstrap) says everything: nanoseconds, any
name, xattrs, ACLs, capabilities. GNU's own format silently has neither xattrs
nor nanoseconds, which is warned about. ACLs that a tar has only as text with
names of the machine that made it are refused.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import IO, Protocol, Self

from abupdate.errors import SourceError
from abupdate.store.compressed import unpacked
from abupdate.store.manifest import Entry, Kind, escape
from abupdate.store.paths import CHUNK, OF_THE_FILESYSTEM, without_overlay

_XATTR = "SCHILY.xattr."
_ACL_AS_TEXT = ("SCHILY.acl.access", "SCHILY.acl.default")

_RIGHT_WAY = "tar --format=pax --xattrs --xattrs-include='*' --numeric-owner -C ROOTFS -cf FILE ."

_KINDS = {
    tarfile.DIRTYPE: Kind.DIR,
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.GNUTYPE_SPARSE: Kind.FILE,
    tarfile.SYMTYPE: Kind.LINK,
    tarfile.LNKTYPE: Kind.HARDLINK,
    tarfile.CHRTYPE: Kind.CHAR,
    tarfile.BLKTYPE: Kind.BLOCK,
    tarfile.FIFOTYPE: Kind.FIFO,
}


class _Member(tarfile.TarInfo):
    """A header that must be whole: `tarfile` takes a damaged one for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """The next header. Raises `ReadError` for all but a real end, a block of zeros."""
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            raise
        except HeaderError as error:
            raise ReadError(f"cut off or damaged: {error}") from error


class Taker(Protocol):
    """Who takes what a tar holds."""

    def blob(self, path: bytes, size: int, chunks: Iterable[bytes]) -> str:
        """The content of a path; gives its SHA-256."""

    def take(self, entry: Entry) -> None:
        """A path."""


def read_tar(stream: IO[bytes], taker: Taker) -> list[str]:
    """Give all members of a tar (plain, or gzip, bzip2, xz) to `taker`; warnings for a person.

    Raises `SourceError` for what is no tar and for what a tar cannot say faithfully.
    """
    seen: set[bytes] = set()
    plain = 0
    try:
        with tarfile.open(
            fileobj=(content := unpacked(stream)),
            mode="r|",
            encoding="utf-8",
            errors="surrogateescape",
            tarinfo=_Member,
        ) as tar:
            for member in tar:
                path = _path(member.name)
                if path.split(b"/")[0] == OF_THE_FILESYSTEM:
                    continue
                plain += not member.pax_headers
                taker.take(_entry(tar, member, path, taker))
                seen.add(path)
            _require_end(content)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _unreadable(error) from error
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's, not what gzip and bz2 say of content that is damaged
        raise _unreadable(error) from error
    _require_folders(seen)
    if plain == len(seen):
        return [
            "the tar has no pax headers: if it is in GNU's format, extended attributes, ACLs, "
            "capabilities and parts of a second are already lost"
        ]
    return []


def _unreadable(error: Exception) -> SourceError:
    return SourceError(
        f"A directory or a tar was expected, but the tar cannot be read: {error}.",
        f"Make it with: {_RIGHT_WAY}",
    )


def _require_end(content: IO[bytes]) -> None:
    """Read on to the end: only there a compressed file says whether it is whole."""
    while chunk := content.read(CHUNK):
        if chunk.strip(b"\0"):
            raise SourceError(
                "The tar goes on after its end, as joined tars do.", "Give one tar with everything."
            )


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, path: bytes, taker: Taker) -> Entry:
    kind = _KINDS.get(member.type)
    if kind is None:
        raise SourceError(f"{_shown(path)}: the tar has it as type {member.type!r}, not known.")
    size: int | None = None
    sha256: str | None = None
    if kind is Kind.FILE:
        size = member.size
        sha256 = taker.blob(path, size, _chunks(tar, member))
    elif kind is Kind.LINK:
        target = _bytes(member.linkname)
        size, sha256 = len(target), hashlib.sha256(target).hexdigest()
        taker.blob(path, size, [target])
    return Entry(
        path=path,
        kind=kind,
        mode=0o777 if kind is Kind.LINK else member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=_mtime(member),
        size=size,
        sha256=sha256,
        device=(member.devmajor, member.devminor) if kind in (Kind.CHAR, Kind.BLOCK) else None,
        target=_path(member.linkname) if kind is Kind.HARDLINK else None,
        xattrs=_xattrs(member, path),
    )


def _chunks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(member)
    assert file is not None
    while chunk := file.read(CHUNK):
        yield chunk


def _path(name: str) -> bytes:
    raw = _bytes(name).rstrip(b"/")
    if raw.startswith(b"/"):
        raise SourceError(
            f"The tar has the absolute path {_shown(raw)}.", "Make it with -C ROOTFS and '.'."
        )
    parts = [part for part in raw.split(b"/") if part != b"."]
    return b"/".join(parts)


def _require_folders(seen: set[bytes]) -> None:
    """Every path's folder must be there too, or its owner and mode would be a guess."""
    if b"" not in seen:
        raise SourceError(
            "The tar has no entry for the root folder '.', so its owner and mode are not known.",
            f"Make it with: {_RIGHT_WAY}",
        )
    for path in seen:
        parent = path.rpartition(b"/")[0]
        if parent not in seen:
            raise SourceError(
                f"The tar has {_shown(path)} but no entry for its folder '{_shown(parent)}', so "
                "the folder's owner and mode are not known.",
                f"Make it with: {_RIGHT_WAY}",
            )


def _mtime(member: tarfile.TarInfo) -> int:
    """Nanoseconds; from the header's text, because a float loses the last of them."""
    text = member.pax_headers.get("mtime")
    if text is None:
        return int(member.mtime) * 1_000_000_000
    if not re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]*)?", text):
        raise SourceError(f"{_shown(_path(member.name))}: the tar has the time {text!r}.")
    whole, _, part = text.partition(".")
    sign = -1 if whole.startswith("-") else 1
    return int(whole) * 1_000_000_000 + sign * int((part + "0" * 9)[:9])


def _xattrs(member: tarfile.TarInfo, path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found = {
        _bytes(_xattr_name(key.removeprefix(_XATTR))): _bytes(value)
        for key, value in member.pax_headers.items()
        if key.startswith(_XATTR)
    }
    for key, name in zip(_ACL_AS_TEXT, ("access", "default"), strict=True):
        if key in member.pax_headers and b"system.posix_acl_" + name.encode() not in found:
            raise SourceError(
                f"{_shown(path)} has an ACL that the tar holds as text, with names of the machine "
                "that made it.",
                "Make the tar with --xattrs --xattrs-include='*' beside --acls, or without ACLs.",
            )
    return without_overlay(found.items())


def _xattr_name(keyword: str) -> str:
    """As GNU tar and libarchive write it: `=` would end a keyword, so it is escaped."""
    return keyword.replace("%3D", "=").replace("%25", "%")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shown(path: bytes) -> str:
    return escape(path).decode() or "."
