"""Uploads: a file that grows by offset until it is whole, and is then a bundle for the engine.

`ID.part` grows, `ID.json` tells what it shall become, `ID.bundle` is whole. What a client calls
its file is shown and never used as a path. One upload at a time is received; what lies unused for
a day goes. What comes is hashed on its way where a digest was announced, and only there: a bundle's
own signature covers every byte of it, and a processor without instructions for SHA-256 needs longer
for that than a network does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from abupdate.web.files import read_json, write_json

KEPT = 24 * 3600.0  # seconds for which nobody need use an upload
WHOLE = 2  # whole uploads that are kept, newest first
RESERVE = 64 << 20  # bytes that an upload leaves free on its disk
_EVERY = 8 << 20  # bytes after which the disk is set to work: the last fsync is short then
_PIECE = 1 << 20  # bytes that are written at once


class UploadError(Exception):
    """An upload that cannot be. `status` is HTTP's; `upload`: the one that is in the way."""

    def __init__(
        self, status: int, message: str, hint: str | None = None, upload: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.hint, self.upload = status, message, hint, upload


@dataclass
class Upload:
    """An upload: `offset` of `size` bytes are here. Times are seconds since the epoch.

    `sha256`: the digest that the client announced; with another one it does not become complete.
    """

    id: str
    name: str
    size: int
    sha256: str | None
    created: float
    offset: int = 0
    complete: bool = False


class _Writing:
    """Bytes on their way to the disk."""

    def __init__(self, upload: Upload, digest: hashlib._Hash | None) -> None:
        self.upload, self.digest = upload, digest
        self.begun = upload.offset  # up to here the disk was set to work
        self.stopped = False  # another connection goes on with it, or it was ended
        self.ended = asyncio.Event()
        self._wait: asyncio.Timeout | None = None

    def stop(self) -> None:
        """Await no more of it."""
        self.stopped = True
        if self._wait is not None:
            self._wait.reschedule(asyncio.get_running_loop().time())

    async def next(self, body: AsyncIterator[bytes]) -> bytes | None:
        """The next piece of a body; None at its end, or when this is stopped."""
        if self.stopped:
            return None
        try:
            async with asyncio.timeout(None) as self._wait:
                return await anext(body, None)
        except TimeoutError:
            if not self.stopped:
                raise
            return None
        finally:
            self._wait = None


class Uploads:
    """The uploads in `folder`. Bytes are written by a thread, in order."""

    def __init__(self, folder: Path, max_size: int, clock: Callable[[], float]) -> None:
        self.folder, self.max_size = folder, max_size
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "upload")
        self._writing: dict[str, _Writing] = {}
        self._digests: dict[str, hashlib._Hash] = {}
        folder.mkdir(mode=0o700, exist_ok=True)
        self._all = _read(folder)
        self.tidy()

    def tidy(self) -> None:
        """Drop what lies unused for too long."""
        now = self._clock()
        for upload in list(self._all.values()):
            if now - self._touched(upload) > KEPT and upload.id not in self._writing:
                self.drop(upload.id)

    def all(self) -> list[Upload]:
        """Those that there are, newest first."""
        return sorted(self._all.values(), key=lambda one: one.created, reverse=True)

    def get(self, upload_id: str) -> Upload:
        """One of them. Raises `UploadError` (404)."""
        upload = self._all.get(upload_id)
        if upload is None:
            raise UploadError(404, "There is no such upload.", "Begin another one.")
        return upload

    def create(self, size: int, sha256: str | None = None, name: str = "") -> Upload:
        """Begin an upload of `size` bytes. Raises `UploadError` (409, 413, 507)."""
        self.tidy()
        for other in self._all.values():
            if not other.complete:
                raise UploadError(
                    409,
                    f"Another upload is under way: {other.name or other.id}, {other.offset} of "
                    f"{other.size} bytes.",
                    "Wait for it, go on with it, or end it (DELETE).",
                    other.id,
                )
        if size > self.max_size:
            raise UploadError(
                413,
                f"An upload has {self.max_size} bytes at most here, this one has {size}.",
                "[web] max_upload is the limit.",
            )
        whole = [one for one in self.all() if one.complete]
        for old in whole[WHOLE - 1 :]:
            self.drop(old.id)
        for old in reversed(whole[: WHOLE - 1]):
            if self._free() < size + RESERVE:
                self.drop(old.id)
        if (free := self._free()) < size + RESERVE:
            raise UploadError(
                507,
                f"{size + RESERVE} bytes must be free on data for this upload, {free} are.",
                "Free some: `abupdate store prune`, or remove files of yours.",
            )
        upload = Upload(secrets.token_hex(16), name, size, sha256, self._clock())
        self._path(upload, "part").open("xb").close()
        self._all[upload.id] = upload
        self._digests = {} if sha256 is None else {upload.id: hashlib.sha256()}
        self._save(upload)
        return upload

    def drop(self, upload_id: str) -> None:
        """Remove one, whole or not; who sends it is told so. Raises `UploadError` (404)."""
        upload = self.get(upload_id)
        del self._all[upload_id]
        self._digests.pop(upload_id, None)
        if (writing := self._writing.get(upload_id)) is not None:
            writing.stop()
        for kind in ("part", "bundle", "json"):
            self._path(upload, kind).unlink(missing_ok=True)

    async def write(
        self, upload_id: str, offset: int, body: AsyncIterator[bytes], last: bool = False
    ) -> Upload:
        """Add what comes to an upload; with its last byte it is whole.

        `last`: so it is at the end of `body`, whatever size was told (of a form, that of all
        its fields is known beforehand).

        Who goes on with an upload that another connection still seems to send takes it over: that
        one is lost, and does not know yet. Raises `UploadError`: 409 with another offset than what
        is here, 413 with more than was said, 422 with another digest; and what `body` raises.
        """
        upload = self.get(upload_id)
        while (other := self._writing.get(upload_id)) is not None:
            other.stop()
            await other.ended.wait()
        if upload.complete or offset != upload.offset:
            raise UploadError(
                409,
                f"Byte {upload.offset} is next of {upload.size}, these begin at {offset}.",
                "Ask for the offset (HEAD), and go on from there.",
                upload_id,
            )
        writing = self._writing[upload_id] = _Writing(upload, self._digests.get(upload_id))
        try:
            if upload.sha256 is not None and writing.digest is None:  # begun by an earlier server
                writing.digest = await self._digest_again(upload)
            await self._receive(writing, body)
            if last:
                upload.size = upload.offset
            if upload.offset == upload.size:
                await self._finish(upload, writing.digest)
        except OSError as error:
            if upload_id not in self._all:
                raise UploadError(404, "This upload was ended.") from error
            raise UploadError(507, f"It cannot be written: {error.strerror}.") from error
        finally:
            del self._writing[upload_id]
            writing.ended.set()
        return upload

    async def _receive(self, writing: _Writing, body: AsyncIterator[bytes]) -> None:
        upload, came = writing.upload, writing.upload.offset
        output = _Output(self._path(upload, "part"), writing, self._thread)
        pieces: list[bytes] = []
        held = 0
        try:
            while (piece := await writing.next(body)) is not None:
                came += len(piece)
                if came > upload.size:
                    raise UploadError(
                        413, f"{upload.size} bytes were announced, and more than those came."
                    )
                pieces.append(piece)
                held += len(piece)
                # A view (of rawbody.py) is void when two more have been asked for.
                if held >= _PIECE or isinstance(piece, memoryview):
                    lot, pieces, held = pieces, [], 0
                    await output.add(lot)
        finally:
            await output.end(pieces)
        if upload.id not in self._all:
            raise UploadError(404, "This upload was ended.")
        if writing.stopped:
            raise UploadError(409, "Another connection goes on with this upload.", None, upload.id)

    async def _digest_again(self, upload: Upload) -> hashlib._Hash:
        digest, path = hashlib.sha256(), self._path(upload, "part")
        await asyncio.get_running_loop().run_in_executor(self._thread, _add_file, digest, path)
        self._digests[upload.id] = digest
        return digest

    async def _finish(self, upload: Upload, digest: hashlib._Hash | None) -> None:
        if digest is not None and digest.hexdigest() != upload.sha256:
            self.drop(upload.id)
            raise UploadError(
                422,
                f"The digest {upload.sha256} was announced, what came has {digest.hexdigest()}.",
                "It was damaged on its way, or it is another file: upload it again.",
            )
        part, whole = self._path(upload, "part"), self._path(upload, "bundle")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, _make_durable, part, whole)
        upload.complete = True
        self._digests.pop(upload.id, None)
        self._save(upload)

    def _free(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def _path(self, upload: Upload, kind: str) -> Path:
        return self.folder / f"{upload.id}.{kind}"

    def _touched(self, upload: Upload) -> float:
        try:
            path = self._path(upload, "bundle" if upload.complete else "part")
            return max(upload.created, path.stat().st_mtime)
        except OSError:
            return float("-inf")

    def _save(self, upload: Upload) -> None:
        write_json(self._path(upload, "json"), asdict(upload))


class _Output:
    """A file that a thread writes, in order: one lot of pieces while the next one waits for it."""

    def __init__(self, path: Path, writing: _Writing, thread: ThreadPoolExecutor) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._writing, self._thread = writing, thread
        self._last: Future[None] | None = None
        self._failed: OSError | None = None

    async def add(self, pieces: list[bytes]) -> None:
        """Write these; when it returns, those that were added before are written."""
        before, self._last = self._last, self._thread.submit(self._write, pieces)
        if before is not None:
            # Whoever is no longer waiting must not take a lot out of the middle.
            await asyncio.shield(asyncio.wrap_future(before))

    def end(self, pieces: list[bytes]) -> asyncio.Future[None]:
        """Write these, the last ones, and close it; to be awaited."""
        last = self._thread.submit(self._write, pieces)
        self._thread.submit(os.close, self._file)
        return asyncio.shield(asyncio.wrap_future(last))

    def _write(self, pieces: list[bytes]) -> None:
        if self._failed is not None:
            raise self._failed  # what comes behind a gap is not written
        try:
            _write(self._file, pieces, self._writing)
        except OSError as error:
            self._failed = error
            raise


def _write(file: int, pieces: list[bytes], writing: _Writing) -> None:
    for piece in pieces:
        view, offset = memoryview(piece), writing.upload.offset
        while view:
            done = os.pwrite(file, view, offset)
            view, offset = view[done:], offset + done
        if writing.digest is not None:
            writing.digest.update(piece)
        writing.upload.offset = offset  # both tell the same, however this ends
        if (size := offset - writing.begun) >= _EVERY:
            # On Linux this begins to write what is not on the disk yet, and does not wait for it.
            os.posix_fadvise(file, writing.begun, size, os.POSIX_FADV_DONTNEED)
            writing.begun = offset


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            digest.update(data)


def _make_durable(part: Path, whole: Path) -> None:
    for path, then in ((part, True), (part.parent, False)):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        if then:
            part.rename(whole)


def _read(folder: Path) -> dict[str, Upload]:
    """What an earlier server left; files that belong to none go."""
    found: dict[str, Upload] = {}
    for path in folder.glob("*.json"):
        try:
            upload = Upload(**read_json(path))
            if f"{upload.id}.json" != path.name:
                continue
            if (folder / f"{upload.id}.bundle").is_file():
                upload.complete, upload.offset = True, upload.size
            else:
                upload.complete = False
                upload.offset = (folder / f"{upload.id}.part").stat().st_size
                if upload.offset >= upload.size:  # a whole one that was not yet called so
                    continue
        except (OSError, TypeError, json.JSONDecodeError):
            continue
        found[upload.id] = upload
    for path in folder.iterdir():
        if path.name.split(".", 1)[0] not in found:
            path.unlink(missing_ok=True)
    return found
