"""How fast the page takes an upload, beside `dd`; what it costs meanwhile; who all may watch.

`python -m bench.web_upload`. All rounds are interleaved, so that what else the disk has to do
meets all of them alike.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import web_report
from bench.web_device import Page, page

_PIECE = 1 << 20
_ENOUGH = 100  # pages asked for during uploads
_SHM = Path("/dev/shm")  # noqa: S108 - where memory is


@dataclass
class Figures:
    """What was found: seconds, bytes, and numbers of them."""

    size: int
    source: str
    filesystem: str
    dd: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    hashed: list[float] = field(default_factory=list)
    tls: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    started: float = 0.0
    idle_rss: int = 0
    idle_pss: int = 0
    highest: int = 0
    highest_login: int = 0
    highest_pss: int = 0
    highest_tls: int = 0
    idle_page: list[float] = field(default_factory=list)
    busy_page: list[float] = field(default_factory=list)
    listeners: int = 0
    told: int = 0
    told_after: float = 0.0
    listening_rss: int = 0
    beside: float = 0.0
    load: tuple[float, float] = (0.0, 0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.web_upload", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    folder = Path("/var/tmp")  # noqa: S108 - on a disk, which /tmp may not be
    parser.add_argument("--folder", type=Path, default=folder, help="on the disk to use")
    parser.add_argument("--out", type=Path, help="file for the page with the figures")
    parser.add_argument("--quick", action="store_true", help="little of all, to see that it works")
    told = parser.parse_args(arguments)
    found = measure(told.folder, 32 << 20 if told.quick else 1 << 30,
                    1 if told.quick else told.rounds, 20 if told.quick else 200)  # fmt: skip
    text = web_report.text(found)
    print(text)
    if told.out is not None:
        told.out.write_text(text)
    return 0


def measure(folder: Path, size: int, rounds: int, listeners: int) -> Figures:
    """All figures."""
    filesystem = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", folder], check=True,
                                capture_output=True, text=True).stdout.strip()  # fmt: skip
    if filesystem == "tmpfs":
        raise SystemExit(f"{folder} is in memory; --folder should be on a disk.")
    with ExitStack() as stack:
        in_memory = _SHM.is_dir() and _free(_SHM) > 2 * size
        where = stack.enter_context(tempfile.TemporaryDirectory(dir=_SHM if in_memory else folder))
        source = Path(where) / "source"
        with source.open("wb") as file:  # random, for disks that compress; and it is cached now
            for _ in range(size // _PIECE):
                file.write(os.urandom(_PIECE))
        found = Figures(size, "tmpfs" if in_memory else "the page cache", filesystem)
        before = os.getloadavg()[0]
        plain = stack.enter_context(page(folder, secure=False))
        secure = stack.enter_context(page(folder, secure=True))
        found.started = plain.started
        found.idle_rss, found.idle_pss = plain.resident(), plain.proportional()
        _uploads(found, plain, secure, source, rounds)
        before_login = plain.highest()
        cookie = plain.log_in()
        found.highest_login = plain.highest()
        plain.forget_highest()
        found.idle_page = _pages(plain, cookie, None)
        while len(found.busy_page) < (_ENOUGH if rounds > 1 else 1):
            found.busy_page += _pages(plain, cookie, source)
            found.highest_pss = max(found.highest_pss, plain.proportional())
            plain.drop_all()
        _listen(found, plain, listeners, source)
        found.highest = max(before_login, plain.highest())
        found.highest_tls = secure.highest()
        found.load = before, os.getloadavg()[0]
    return found


def _uploads(found: Figures, plain: Page, secure: Page, source: Path, rounds: int) -> None:
    copy = plain.folder / "copy"
    dd = ["dd", f"if={source}", f"of={copy}", "bs=1M", "conv=fsync"]
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for number in range(-1, rounds):  # the first one is for nothing: all is loaded then
        times = {}
        in_turn = [
            ("dd", dd), ("plain", plain.upload(source)), ("hashed", plain.upload(source, digest)),
            ("tls", secure.upload(source)),
        ]  # fmt: skip
        for name, words in in_turn[number % 4 :] + in_turn[: number % 4]:
            worked, sent = plain.worked(), _children_worked()
            times[name] = _timed(words)
            if name == "plain" and number >= 0:
                found.worked.append(plain.worked() - worked)
                found.sent.append(_children_worked() - sent)
            copy.unlink(missing_ok=True)
            plain.drop_all()
            secure.drop_all()
        if number >= 0:
            found.dd.append(times["dd"])
            found.plain.append(times["plain"])
            found.hashed.append(times["hashed"])
            found.tls.append(times["tls"])
            _say(f"round {number + 1}: " + ", ".join(f"{k} {v:.2f} s" for k, v in times.items()))


def _timed(words: Sequence[str]) -> float:
    os.sync()
    start = time.monotonic()
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr}")
    return seconds


def _children_worked() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # those that have ended, as curl has
    return used.ru_utime + used.ru_stime


def _pages(asked: Page, cookie: str, source: Path | None) -> list[float]:
    """Seconds for each overview, during an upload of `source`, or 50 while nothing goes on."""
    connection = asked.connect()
    found: list[float] = []
    uploading = source and subprocess.Popen(asked.upload(source), stdout=subprocess.DEVNULL)
    while uploading.poll() is None if uploading else len(found) < 50:
        start = time.monotonic()
        connection.request("GET", "/", headers={"Cookie": cookie})
        told = connection.getresponse()
        text = told.read()
        if told.status != 200 or b"</html>" not in text:
            raise RuntimeError(f"The overview was answered with {told.status}.")
        found.append(time.monotonic() - start)
        time.sleep(0.01)
    connection.close()
    if uploading and uploading.returncode:
        raise RuntimeError(f"curl ended with {uploading.returncode}.")
    return found


def _listen(found: Figures, heard: Page, count: int, source: Path) -> None:
    """Many who watch, how long it takes until all know what is new; and an upload beside them."""
    request = (
        f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{heard.port}\r\n"
        f"Authorization: Bearer {heard.token}\r\n\r\n"
    ).encode()
    with ExitStack() as stack:
        watching = stack.enter_context(selectors.DefaultSelector())
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", heard.port)))
            one.sendall(request)
            watching.register(one, selectors.EVENT_READ)
        _events(watching, count, b"event: status")
        found.listeners, found.listening_rss = count, heard.resident()
        start = time.monotonic()
        heard.news()
        found.told = _events(watching, count, b'"hostname":"box-')
        found.told_after = time.monotonic() - start
        found.beside = _timed(heard.upload(source))
        heard.drop_all()


def _events(watching: selectors.BaseSelector, count: int, words: bytes) -> int:
    """How many were told these words, within half a minute."""
    came: dict[object, bytes] = {}
    told: set[object] = set()
    end = time.monotonic() + 30
    while len(told) < count and time.monotonic() < end:
        for key, _ in watching.select(1):
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(1 << 16)
            if not data:
                watching.unregister(key.fileobj)
            came[key.fileobj] = came.get(key.fileobj, b"") + data
            if words in came[key.fileobj]:
                told.add(key.fileobj)
    return len(told)


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
