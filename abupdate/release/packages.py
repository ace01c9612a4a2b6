"""Which packages a release holds: dpkg's, opkg's and rpm's own records in its root filesystem.

Formats: deb-control(5) for dpkg and opkg; for rpm its SQLite database, whose rows are
package headers (rpm.org, "RPM v4 format", header).
"""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator

from abupdate.store.content import CommitContent

LIMIT = 512 << 20  # bytes of a record
_DPKG = b"var/lib/dpkg/status"
_DPKG_PARTS = b"var/lib/dpkg/status.d/"  # one file a package: images without dpkg itself
_OPKG = (b"usr/lib/opkg/status", b"var/lib/opkg/status")
_RPM = (b"var/lib/rpm/rpmdb.sqlite", b"usr/lib/sysimage/rpm/rpmdb.sqlite")
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH = 1000, 1001, 1002, 1003, 1022
_INT32, _STRING = 4, 6
_MAX_ENTRIES = 65_536


def packages(content: CommitContent, limit: int = LIMIT) -> dict[str, str]:
    """Name → version of every installed package; `name:architecture` where a name is there twice.

    Empty where there is no record, or one that cannot be read. Raises `NotTrustedError` for one
    of more than `limit` bytes.
    """
    found: list[tuple[str, str, str]] = []
    texts = [_DPKG, *_OPKG, *_below(content, _DPKG_PARTS)]
    for path in texts:
        found += _each(content, path, _stanzas, limit)
    for path in _RPM:
        found += _each(content, path, _rpm, limit)
    names = [name for name, _, _ in found]
    return {
        f"{name}:{architecture}" if names.count(name) > 1 else name: version
        for name, architecture, version in sorted(found)
    }


def _below(content: CommitContent, folder: bytes) -> list[bytes]:
    if content.manifest.find(b"\n" + folder) < 0:
        return []
    return [
        entry.path
        for entry in content.entries()
        if entry.path.startswith(folder) and not entry.path.endswith(b".md5sums")
    ]


_Packages = Iterator[tuple[str, str, str]]


def _each(
    content: CommitContent, path: bytes, read: Callable[[bytes], _Packages], limit: int
) -> list[tuple[str, str, str]]:
    raw = content.file(path, limit)
    return list(read(raw)) if raw is not None else []


def _stanzas(raw: bytes) -> _Packages:
    """Name, architecture and version of each installed package of a status file."""
    for stanza in raw.decode("utf-8", "replace").split("\n\n"):
        fields = {}
        for line in stanza.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "\t")):
                fields[name] = value.strip()
        state = fields.get("Status", "installed").split()
        if "Package" in fields and "Version" in fields and state[-1:] == ["installed"]:
            yield fields["Package"], fields.get("Architecture", ""), fields["Version"]


def _rpm(raw: bytes) -> _Packages:
    with tempfile.NamedTemporaryFile(prefix="abupdate-") as file:
        file.write(raw)
        file.flush()
        try:
            database = sqlite3.connect(f"file:{file.name}?mode=ro&immutable=1", uri=True)
            try:
                for (blob,) in database.execute("SELECT blob FROM Packages"):
                    fields = _header(blob)
                    if _NAME in fields and _VERSION in fields:
                        yield _of_rpm(fields)
            finally:
                database.close()
        except sqlite3.Error:
            return


def _of_rpm(fields: dict[int, str]) -> tuple[str, str, str]:
    epoch = f"{fields[_EPOCH]}:" if _EPOCH in fields else ""
    release = f"-{fields[_RELEASE]}" if _RELEASE in fields else ""
    return fields[_NAME], fields.get(_ARCH, ""), f"{epoch}{fields[_VERSION]}{release}"


def _header(blob: bytes) -> dict[int, str]:
    """The tags of a header that matter here; none of one that is damaged."""
    found: dict[int, str] = {}
    try:
        count, size = struct.unpack_from(">II", blob)
        if count > _MAX_ENTRIES:
            return {}
        data = blob[8 + 16 * count :][:size]
        for number in range(count):
            tag, kind, offset, _ = struct.unpack_from(">IIII", blob, 8 + 16 * number)
            if tag not in (_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH):
                continue
            if kind == _STRING:
                found[tag] = data[offset : data.index(b"\0", offset)].decode("utf-8", "replace")
            elif kind == _INT32:
                found[tag] = str(struct.unpack_from(">I", data, offset)[0])
    except (struct.error, ValueError):
        return {}
    return found
