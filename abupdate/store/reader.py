"""Objects of a repository as git hands them out, each hashed before it is believed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress

from abupdate.errors import DeviceFaultError, NotTrustedError, ProgramError
from abupdate.run import Stream

_CHUNK = 256 * 1024
_SHA256_DIGITS = 64


class ObjectReader:
    """Objects of a repository, each hashed here before it is believed.

    Ask for many at once: git answers in order once all of them were said, so
    that neither side waits for the other in the middle. What was asked for must
    be read before the next `read`; `WINDOW` objects may be asked for before
    the answers to the last `WINDOW` were read.
    """

    # Two windows of `contents <oid>` fit into a pipe of 64 KiB.
    WINDOW = 400

    def __init__(self, git: Stream) -> None:
        self._git = git

    def read(self, oid: str, kind: str, limit: int) -> bytes:
        """A small object whole. Raises `NotTrustedError` when it is not what its id says."""
        ((_, content),) = self.read_all([oid], kind, limit)
        return content

    def read_all(self, oids: Sequence[str], kind: str, limit: int) -> Iterator[tuple[str, bytes]]:
        """Small objects, each whole and with its id, in order; see `read`."""
        for at in range(0, len(oids), self.WINDOW):
            window = oids[at : at + self.WINDOW]
            self.ask(window)
            for oid in window:
                yield oid, b"".join(self.checked(oid, kind, limit))

    def ask(self, oids: Sequence[str]) -> None:
        """Ask for objects; read their answers in this order."""
        words = [b"contents %s\n" % oid.encode() for oid in oids]
        with suppress(BrokenPipeError):  # the reader of the answers finds out why
            self._git.stdin.write(b"".join([*words, b"flush\n"]))
            self._git.stdin.flush()

    def checked(self, oid: str, kind: str, limit: int) -> Iterator[bytes]:
        """An object that was asked for, in pieces; believe them at the end, when the id is right.

        Raises `NotTrustedError`.
        """
        size = self._header(oid, kind)
        if size > limit:
            raise NotTrustedError(f"The {kind} {oid} has {size} bytes, {limit} at most are taken.")
        # git finds an object by an id of its own format only, so that the length tells the hash.
        name = "sha256" if len(oid) == _SHA256_DIGITS else "sha1"
        digest = hashlib.new(name, f"{kind} {size}\0".encode())
        for chunk in self._body(size):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != oid:
            raise NotTrustedError(
                f"The store hands out other content for {kind} {oid}: it hashes to "
                f"{digest.hexdigest()}.",
                "The store is damaged or was tampered with; install from a full bundle.",
            )

    def answer(self, oid: str) -> Iterator[bytes]:
        """A blob that was asked for, in pieces, NOT hashed: the caller knows its SHA-256."""
        return self._body(self._header(oid, "blob"))

    def _body(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self._exactly(min(size, _CHUNK))
            size -= len(chunk)
            yield chunk
        self._exactly(1)

    def _header(self, oid: str, kind: str) -> int:
        line = self._git.stdout.readline(256)
        if not line:
            raise self._stopped()
        header = line.decode("ascii", "replace").split()
        if len(header) != 3 or header[:2] != [oid, kind] or not header[2].isdigit():
            raise NotTrustedError(
                f"The store should hold the {kind} {oid}, found '{' '.join(header)}'.",
                "The store is damaged; install from a full bundle.",
            )
        return int(header[2])

    def _exactly(self, size: int) -> bytes:
        content = self._git.stdout.read(size)
        if len(content) != size:
            raise self._stopped()
        return content

    def _stopped(self) -> DeviceFaultError:
        try:
            said, hint = self._git.finish(ok=range(256)).stderr.strip(), None
        except ProgramError as error:
            said, hint = error.message, error.hint
        return DeviceFaultError(f"git stopped in the middle: {said}", hint)
