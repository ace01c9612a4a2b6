"""The page on a folder, started as on a device, with clients for it and looks at its memory."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from abupdate.web.auth import Passwords, Tokens
from bench.web_process import NOBODY

_PASSWORD = "correct horse battery"  # noqa: S105 - of a server for the benchmark alone
_START = 30.0  # seconds
_KILO = 1024


@dataclass
class Page:
    """A server that runs. `started`: seconds from its start to its first answer."""

    folder: Path
    port: int
    secure: bool
    process: subprocess.Popen[bytes]
    engine: subprocess.Popen[bytes]
    token: str
    started: float = 0.0

    @property
    def origin(self) -> str:
        """Where it is."""
        return f"http{'s' if self.secure else ''}://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is kept."""
        if not self.secure:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=trust)

    def log_in(self) -> str:
        """The cookie of a session, got with the password as by a browser."""
        connection = self.connect()
        connection.request(
            "POST", "/login", f"password={_PASSWORD.replace(' ', '+')}",
            {"Origin": self.origin, "Content-Type": "application/x-www-form-urlencoded"},
        )  # fmt: skip
        told = connection.getresponse()
        told.read()
        connection.close()
        if told.status != 303:
            raise RuntimeError(f"The login was answered with {told.status}.")
        return str(told.headers["Set-Cookie"]).split(";", 1)[0]

    def upload(self, file: Path, sha256: str | None = None) -> list[str]:
        """curl's words for an upload of a file, with its digest announced or not."""
        url = f"{self.origin}/api/v1/bundle" + (f"?sha256={sha256}" if sha256 else "")
        return [
            "curl", "--silent", "--show-error", "--fail-with-body", "--insecure",
            "--output", str(self.folder / "answer"), "--upload-file", str(file),
            "--header", f"Authorization: Bearer {self.token}", url,
        ]  # fmt: skip

    def drop_all(self) -> None:
        """Remove what was uploaded."""
        for path in (self.folder / "data/abupdate/web/uploads").glob("*.bundle"):
            connection = self.connect()
            headers = {"Authorization": f"Bearer {self.token}"}
            connection.request("DELETE", f"/api/v1/uploads/{path.stem}", headers=headers)
            connection.getresponse().read()
            connection.close()

    def news(self) -> None:
        """Something about the device changes."""
        self.engine.send_signal(signal.SIGUSR1)

    def highest(self) -> int:
        """The most memory (RSS) that the server ever had, in bytes."""
        return _kilobytes(self.process.pid, "status", "VmHWM") * _KILO

    def forget_highest(self) -> None:
        """The highest one is counted from now on."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def resident(self) -> int:
        """Its resident memory now, in bytes."""
        return _kilobytes(self.process.pid, "status", "VmRSS") * _KILO

    def proportional(self) -> int:
        """Its share of memory now (PSS), in bytes."""
        return _kilobytes(self.process.pid, "smaps_rollup", "Pss") * _KILO

    def worked(self) -> float:
        """The processor's seconds that it has used."""
        told = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def _kilobytes(pid: int, file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/PID/{file} should tell {name}, and does not.")
    return int(found[1])


@contextmanager
def page(where: Path, secure: bool) -> Iterator[Page]:
    """A device in a new folder in `where`, its page, and a token for it."""
    folder = Path(tempfile.mkdtemp(prefix="abupdate-bench-", dir=where))
    folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running: list[subprocess.Popen[bytes]] = []
    try:
        token = _prepare(folder, port, secure)
        engine = _start("engine", folder, running)
        while not (folder / "run/engine.sock").exists():
            _wait(engine, folder / "engine.log")
        start = time.monotonic()
        found = Page(folder, port, secure, _start("web", folder, running), engine, token)
        while not _answers(found):
            _wait(found.process, folder / "web.log")
        found.started = time.monotonic() - start
        yield found
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)
        shutil.rmtree(folder)


def _prepare(folder: Path, port: int, secure: bool) -> str:
    etc, state = folder / "root/etc/abupdate", folder / "data/abupdate/web"
    for path in (etc, state, folder / "run"):
        path.mkdir(parents=True)
    tls = "self" if secure else "off"
    (etc / "config.toml").write_text(f'[web]\nlisten = "127.0.0.1:{port}"\ntls = "{tls}"\n')
    (folder / "cmdline").write_text("")
    if os.geteuid() == 0:
        os.chown(state, NOBODY, NOBODY)
    Passwords(state).set(_PASSWORD)
    return Tokens(state / "tokens.json").add("bench", False)


def _start(
    kind: str, folder: Path, running: list[subprocess.Popen[bytes]]
) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "bench.web_process", kind, str(folder)]
    log = (folder / f"{kind}.log").open("wb")
    running.append(subprocess.Popen(words, stdout=log, stderr=log))
    log.close()
    return running[-1]


def _answers(found: Page) -> bool:
    try:
        connection = found.connect()
        connection.request("GET", "/login")
        status = connection.getresponse().status
    except OSError:
        return False
    if status != 200:
        log = (found.folder / "web.log").read_text()
        raise RuntimeError(f"The login's page was answered with {status}: {log}")
    return True


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    time.sleep(0.005)
    if process.poll() is not None:
        raise RuntimeError(f"A server ended with {process.returncode}: {log.read_text()}")
