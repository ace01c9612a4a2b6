"""A bundle from a web server: the first kilobytes, then the rest, and from where it broke off.

curl talks to the server, as the user of the store and never as root. The first request is
for a few kilobytes: they have the signature, and nothing more is asked for where it is not
believed. A connection that breaks or stalls is followed by a request for what is missing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from typing import cast
from urllib.parse import urlsplit

from abupdate.bundle.read import Incoming
from abupdate.config import SourceSection
from abupdate.errors import SourceError, UsageError
from abupdate.events import Events
from abupdate.run import Sandbox, Stream, stream
from abupdate.source.source import LEAST_RATE, Arriving, Into, is_graphic

_FIRST = 16 * 1024
_CONNECT_SECONDS = 30
_LONGEST_WAIT = 60.0
_MAX_HEADERS = 256 * 1024
_MAX_LINE = 16 * 1024
_REDIRECTS = 5
_OK, _PARTIAL, _BEYOND, _TOO_MANY, _SERVER_FAULT = 200, 206, 416, 429, 500
_STATUS = re.compile(rb"HTTP/[0-9.]+ ([0-9]{3})(?: .*)?\r?\n")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:([0-9]{1,18})|\*)")
_LENGTH = re.compile(r"bytes \*/([0-9]{1,18})")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,200}"')
# curl(1), EXIT CODES: what another try does not mend (no such scheme, address, certificate …).
_LASTING = {1, 2, 3, 4, 27, 35, 47, 51, 53, 54, 58, 59, 60, 66, 77, 80, 82, 83, 90, 91}
# And these, as long as nothing ever came: a name that nobody knows, nobody at home.
_AT_FIRST = {5, 6, 7}


@dataclass(frozen=True)
class HttpSource:
    """A bundle at an http or https address."""

    url: str

    def __post_init__(self) -> None:
        if not is_graphic(self.url) or _split(self.url) is None:
            raise UsageError(
                "An address such as https://host/name.bundle was expected, "
                f"found {self.url[:200]!r}."
            )

    @property
    def name(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @contextmanager
    def opened(self, into: Into) -> Iterator[Arriving]:
        """Ask for its beginning. Raises `SourceError`."""
        download = Download(self, into.settings, into.store.sandbox, into.events)
        with download:
            yield Incoming(
                download, into.store, into.max_bytes, into.events, download.total, into.room
            )


def _split(url: str) -> object | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


class Download:
    """The bytes of an address in their order; `total` of them, where the server tells."""

    def __init__(
        self, source: HttpSource, settings: SourceSection, sandbox: Sandbox | None, events: Events
    ) -> None:
        self._source = source
        self._settings = settings
        self._sandbox = sandbox
        self._events = events
        self._stack = ExitStack()
        self._curl: Stream | None = None
        self._at = 0
        self._tag: str | None = None
        self._failures = 0
        self._since_failure = 0
        self._is_part = False
        self.total: int | None = None

    def __enter__(self) -> Download:
        try:
            self._reopen()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, `b""` at the end. Raises `SourceError`."""
        while self._at != self.total:
            if self._curl is None:
                self._reopen()
                continue
            chunk = cast(BufferedReader, self._curl.stdout).read1(size)
            if chunk:
                self._count(len(chunk))
                return chunk
            if self._ended():
                break
        return b""

    def _count(self, size: int) -> None:
        self._at += size
        self._since_failure += size
        if self._since_failure > LEAST_RATE * self._settings.stall:
            self._failures = 0

    def _ended(self) -> bool:
        """The server has no more: whether that was all of it."""
        assert self._curl is not None
        result = self._curl.finish(ok=range(256))
        self._close()
        if result.code == 0 and self._is_part and self._at == _FIRST:
            return False  # the first kilobytes, as asked for
        if result.code == 0 and self.total is None:
            self.total = self._at
            return True
        self._pause(result.code, result.stderr)
        return False

    def _reopen(self) -> None:
        """Ask for what is missing, again and again while that may help."""
        while self._curl is None:
            try:
                self._request()
            except _UnansweredError as error:
                self._close()
                self._pause(error.code, error.said)

    def _request(self) -> None:
        self._curl = self._stack.enter_context(
            stream(self._argv(), stdin=True, stdout=True, sandbox=self._sandbox)
        )
        # On its command line everybody could read the password of an address, or of a proxy.
        told = {"url": self._source.url, "proxy": self._settings.proxy}
        lines = [f'{name} = "{_quoted(value)}"\n' for name, value in told.items() if value]
        self._curl.stdin.write("".join(lines).encode())
        self._curl.stdin.close()
        status, headers = self._head(self._curl)
        self._is_part = status == _PARTIAL and self._at < _FIRST
        if status == _PARTIAL:
            self._check_range(headers)
        elif status == _OK:
            self._from_the_start(headers)
        elif status == _BEYOND and self._is_whole(headers):
            self.total = self._at
        elif status == _TOO_MANY or status >= _SERVER_FAULT:
            raise _UnansweredError(None, f"the server answers with {status}")
        else:
            raise SourceError(
                f"{self._source.name} should be a bundle, and the server answers with {status}.",
                "Is the address right?",
            )

    def _check_range(self, headers: dict[str, str]) -> None:
        found = _RANGE.fullmatch(headers.get("content-range", ""))
        total = int(found[2]) if found and found[2] else None
        if found is None or int(found[1]) != self._at or self.total not in (None, total):
            raise SourceError(
                f"{self._source.name}: bytes from {self._at} were asked for, and the server sends "
                f"{headers.get('content-range', 'others')[:80]!r}.",
                "Has the file been replaced meanwhile? Run it again.",
            )
        self.total = total
        self._remember(headers)

    def _is_whole(self, headers: dict[str, str]) -> bool:
        """More was asked for than there is, of a file of which nobody had said how long it is."""
        found = _LENGTH.fullmatch(headers.get("content-range", ""))
        return self.total is None and found is not None and int(found[1]) == self._at

    def _from_the_start(self, headers: dict[str, str]) -> None:
        """All of it, though a part was asked for: the server cannot, or the file is another."""
        assert self._curl is not None
        length = headers.get("content-length", "")
        total = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
        same = self._tag is None or headers.get("etag") == self._tag
        if self._at and (not same or self.total not in (None, total)):
            raise SourceError(
                f"{self._source.name} has changed while it was fetched.", "Run it again."
            )
        self.total = total
        self._remember(headers)
        left = self._at
        while left:
            chunk = self._curl.stdout.read(min(left, _MAX_HEADERS))
            if not chunk:
                done = self._curl.finish(ok=range(256))
                raise _UnansweredError(done.code, done.stderr)
            left -= len(chunk)

    def _remember(self, headers: dict[str, str]) -> None:
        tag = headers.get("etag", "")
        self._tag = tag if _STRONG_ETAG.fullmatch(tag) else None

    def _head(self, curl: Stream) -> tuple[int, dict[str, str]]:
        """Status and header of the last answer: those of redirects and 1xx come before it."""
        room = _MAX_HEADERS
        while True:
            line = curl.stdout.readline(_MAX_LINE)
            status = _STATUS.fullmatch(line)
            if status is None and line:
                raise _UnansweredError(None, "its answer is none of HTTP's")
            if status is None:
                done = curl.finish(ok=range(256))
                raise _UnansweredError(done.code, done.stderr)
            headers: dict[str, str] = {}
            while (line := curl.stdout.readline(_MAX_LINE)) not in (b"\r\n", b"\n"):
                room -= len(line)
                if not line.endswith(b"\n") or room < 0:
                    raise _UnansweredError(None, "its answer does not end")
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            code = int(status[1])
            if code >= _OK and not (300 <= code < 400 and "location" in headers):
                return code, headers

    def _pause(self, code: int | None, said: str) -> None:
        """Wait before the next try, or raise `SourceError` where none would help."""
        self._failures += 1
        self._since_failure = 0
        reason = said.strip() or "the connection ended early"
        lasting = code in _LASTING or (code in _AT_FIRST and self._at == 0)
        if lasting or self._failures > self._settings.retries:
            raise SourceError(
                f"{self._source.name} cannot be fetched: {reason}",
                None if lasting else f"It was tried {self._failures} times; run it again later.",
            )
        wait = min(_LONGEST_WAIT, 2.0 ** (self._failures - 1))
        self._events.note(
            f"{reason}; {self._at} bytes are here, the rest is asked for in {wait:g} s"
        )
        time.sleep(wait)

    def _argv(self) -> list[str]:
        settings = self._settings
        # The first option keeps curl from files that steer it.
        argv = [
            "curl", "--disable", "--silent", "--show-error", "--no-buffer", "--globoff",
            "--location", "--max-redirs", str(_REDIRECTS),
        ]  # fmt: skip
        argv += ["--proto", "=http,https", "--proto-redir", "=http,https"]
        argv += ["--connect-timeout", str(_CONNECT_SECONDS)]
        least = min(LEAST_RATE, settings.rate_limit // 2 or LEAST_RATE)
        argv += ["--speed-limit", str(least), "--speed-time", f"{settings.stall:.0f}"]
        argv += ["--suppress-connect-headers", "--dump-header", "-", "--user-agent", "abupdate"]
        first = self._at < _FIRST
        argv += ["--range", f"{self._at}-{_FIRST - 1 if first else ''}"]
        if self._at and self._tag is not None:
            argv += ["--header", f"If-Range: {self._tag}"]
        if settings.rate_limit:
            argv += ["--limit-rate", str(settings.rate_limit)]
        return [*argv, "--config", "-"]

    def _close(self) -> None:
        self._stack.close()
        self._curl = None


class _UnansweredError(Exception):
    """A request that got no answer of use; `code` is curl's, where it ended by itself."""

    def __init__(self, code: int | None, said: str) -> None:
        super().__init__(said)
        self.code = code
        self.said = said


def _quoted(text: str) -> str:
    """For a value in a configuration file of curl's."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
