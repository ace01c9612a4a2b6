"""The fixups of a release, and which paths it lets them write.

Fixups are the executables in `.git-fixups` of the root filesystem: ordinary paths
of the release, in its manifest and so under its signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from abupdate.errors import SourceError
from abupdate.globs import glob
from abupdate.release.metadata import NEVER_WRITTEN
from abupdate.store.manifest import Entry, Kind, escape, line_at, parse_line

FOLDER = b".git-fixups"


def fixups(manifest: bytes) -> list[Entry]:
    """The fixups of a release in the order in which they run: by name, as raw bytes.

    What is in folders of `.git-fixups` is theirs to use. Raises `SourceError` for
    one that nothing can run.
    """
    for folder in _lines(manifest, FOLDER + b" "):
        if folder.kind is not Kind.DIR:
            raise _unfit(folder, "a folder, found something else")
    inside = _lines(manifest, FOLDER + b"/")
    found = [entry for entry in inside if entry.path.count(b"/") == 1]
    for entry in found:
        if entry.kind not in (Kind.FILE, Kind.HARDLINK, Kind.LINK, Kind.DIR):
            raise _unfit(entry, "a file that can be run, found something else")
        if entry.kind in (Kind.FILE, Kind.HARDLINK) and not entry.mode & 0o111:
            raise _unfit(entry, f"executable, found mode {entry.mode:04o}")
    return [entry for entry in found if entry.kind is not Kind.DIR]


def _lines(manifest: bytes, begin: bytes) -> Iterator[Entry]:
    """The lines that begin with something are beside each other: the rest need not be read."""
    offset = manifest.find(b"\n" + begin) + 1
    while offset > 0:
        line = line_at(manifest, offset)
        if not line.startswith(begin):
            return
        try:
            yield parse_line(line)
        except ValueError as error:
            raise SourceError(f"The manifest's lines of {FOLDER.decode()}: {error}.") from error
        offset += len(line)


def _unfit(entry: Entry, what: str) -> SourceError:
    return SourceError(
        f"{escape(entry.path).decode()} should be {what}.",
        "Make the release again: a folder of files that can be run (chmod +x) is expected there.",
    )


def declared(patterns: Sequence[str]) -> Callable[[bytes], bool]:
    """Whether a path is among those that `fixups_write` of a release.toml allows."""
    allowed = [glob(pattern) for pattern in patterns]

    def asked(path: bytes) -> bool:
        if path.partition(b"/")[0].decode("latin-1") in NEVER_WRITTEN:
            return False
        return any(meant(path) for meant in allowed)

    return asked
