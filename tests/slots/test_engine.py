"""The engine on a real device of loop devices: its socket, its jobs, and what callers try.

Each job is a process of its own, as on a device.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

from abupdate import failpoints
from abupdate.engine import device as facts
from abupdate.engine import server
from abupdate.engine.client import EngineClient
from abupdate.engine.contract import (
    MAX_CALL,
    EngineError,
    HistoryItem,
    Inspect,
    Install,
    Job,
    Repair,
    Rollback,
)
from abupdate.engine.jobs import KEPT, Jobs, Quick
from abupdate.engine.support import without_secrets
from abupdate.engine.work import uploads
from abupdate.errors import ExitCode, ProgramError
from abupdate.run import Result, run
from tests.slots.apart import TOP, command
from tests.slots.boot_device import BootDevice

T = TypeVar("T")
UPLOAD = "a" * 20
_SECONDS = 60.0


class Served:
    """The engine in a thread, and a client of it."""

    def __init__(self, device: BootDevice) -> None:
        self.device = device
        self.failpoint = ""
        self.started: list[subprocess.Popen[bytes]] = []
        device.paths.runtime.mkdir(exist_ok=True)
        self.client = EngineClient(device.paths.runtime / server.SOCKET)
        self.start()

    def start(self) -> None:
        """Start the engine (again)."""
        self.engine = server.Engine(self.device.machine, self.launch)
        listening = server.listen(self.device.paths.runtime)
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(server.serve(self.engine, listening, {os.getuid()}))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    def stop(self) -> None:
        """End it, and leave its jobs alone."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive()

    def launch(self, name: str, held: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
        words = command(self.device, "engine", "job", name, "--held", str(held))
        env = {**os.environ, **({failpoints.VARIABLE: self.failpoint} if self.failpoint else {})}
        process = subprocess.Popen(
            words, env=env, stdout=log, stderr=log, pass_fds=[held], cwd=TOP, start_new_session=True
        )
        self.started.append(process)
        return process

    def call(self, made: Callable[[EngineClient], Awaitable[T]]) -> T:
        """One call by the client."""

        async def wait() -> T:
            return await asyncio.wait_for(made(self.client), _SECONDS)

        return asyncio.run(wait())

    def ended(self, job: Job) -> Job:
        """The job once it is over."""
        until = time.monotonic() + _SECONDS
        while (found := self.call(lambda it: it.job(job.id))).state == "running":
            assert time.monotonic() < until, found
            time.sleep(0.05)
        return found

    def until(self, job: Job, text: str) -> None:
        """Wait until its process says something."""
        log = self.device.paths.runtime / "jobs" / job.id / "log"
        until = time.monotonic() + _SECONDS
        while text not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)

    def upload(self, bundle: Path) -> str:
        folder = uploads(self.device.machine)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(bundle, folder / f"{UPLOAD}.bundle")
        return UPLOAD


def no_restart(words: list[str], timeout: float) -> Result | None:
    """All that is run, but for a restart of this machine."""
    return None if words == ["systemctl", "reboot"] else run(words, timeout=timeout)


@pytest.fixture
def served(device: BootDevice, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    shutil.rmtree(device.paths.runtime / "jobs", ignore_errors=True)
    monkeypatch.setattr(facts, "run", no_restart)  # kept by a restart that is to come, too
    found = Served(device)
    yield found
    found.stop()
    for process in found.started:
        if process.poll() is None:
            process.kill()
        process.wait()
    (device.paths.runtime / facts.REBOOTING).unlink(missing_ok=True)


def events_of(served: Served, job: Job, after: int = 0) -> list[tuple[int, dict[str, Any]]]:
    async def read(client: EngineClient) -> list[tuple[int, dict[str, Any]]]:
        return [(one.n, one.event) async for one in client.events(job.id, after)]

    return served.call(read)


@pytest.mark.row("S45", "U11", "U17")
def test_an_update_by_calls(served: Served) -> None:
    """Looked at, installed, tried, confirmed; each event once, and from any number on."""
    device = served.device
    name = served.upload(device.top / "2.bundle")
    before = device.copies()
    looked = served.ended(served.call(lambda it: it.start(Inspect(kind="inspect", upload=name))))
    assert looked.state == "done" and looked.result is not None, looked
    assert (looked.release, looked.result["refused"], looked.result["slot"]) == ("2", None, "B")
    assert device.copies() == before

    job = served.call(lambda it: it.start(Install(kind="install", upload=name)))
    told = events_of(served, job)  # from the first on, while it works, to its end
    assert [n for n, _ in told] == list(range(1, len(told) + 1))
    steps = [one["step"] for _, one in told if one["kind"] == "step-end"]
    assert steps[0] == "open" and steps[-1] == "arm" and "trust" in steps
    assert events_of(served, job, after=len(told) - 3) == told[-3:]
    done = served.ended(job)
    assert (done.state, done.release, done.exit_code) == ("done", "2", 0)
    assert done.message == "Release 2 is installed in slot B, on trial from the next boot."
    assert [one.id for one in served.call(lambda it: it.jobs())] == [job.id, looked.id]

    status = served.call(lambda it: it.status())
    assert status.report["last_install"]["outcome"] == "installed, on trial"
    assert (status.mode, status.deadline) == ("slot", None)
    assert {one.role for one in status.partitions} >= {"A", "B"}
    assert served.call(lambda it: it.reboot()).text == "The device restarts."
    assert served.call(lambda it: it.status()).rebooting

    device.power_on()
    status = served.call(lambda it: it.status())
    assert status.report["booted"]["how"] == "trial" and status.deadline is not None
    assert "2" in served.call(lambda it: it.confirm()).text
    assert served.call(lambda it: it.status()).deadline is None
    with pytest.raises(EngineError) as refused:
        served.call(lambda it: it.confirm())
    assert refused.value.code == ExitCode.NOTHING_TO_DO
    confirmed, installed = served.call(lambda it: it.history(2))
    assert (confirmed.event, installed.detail["source"]) == ("confirmed", f"the page, {name}")
    assert [one.release for one in served.call(lambda it: it.releases())] == ["2", "1"]
    back = served.ended(served.call(lambda it: it.start(Rollback(kind="rollback"))))
    assert back.state == "done" and device.state().trial == "A"
    assert "slot" in served.call(lambda it: it.reject()).text


@pytest.mark.row("S45")
def test_the_engine_restarts_under_a_job(served: Served) -> None:
    """It goes on; its events are numbered on; and one whose process is gone is lost."""
    device = served.device
    name = served.upload(device.top / "2.bundle")
    served.failpoint = "materialised:hang"
    job = served.call(lambda it: it.start(Install(kind="install", upload=name)))
    served.until(job, "materialised")
    served.stop()
    served.start()
    found = served.call(lambda it: it.job(job.id))
    assert found.state == "running" and found.step is not None
    for wish in (Install(kind="install", upload=name), Repair(kind="repair")):
        with pytest.raises(EngineError) as busy:
            served.call(lambda it, wish=wish: it.start(wish))  # type: ignore[misc]
        assert busy.value.code == ExitCode.BUSY and "install" in busy.value.message
    with pytest.raises(EngineError) as busy:
        served.call(lambda it: it.reboot())
    assert busy.value.code == ExitCode.BUSY
    os.kill(served.started[-1].pid, signal.SIGKILL)
    served.started[-1].wait()
    lost = served.call(lambda it: it.job(job.id))
    assert (lost.state, lost.message) == ("lost", "Its process ended without a word.")
    assert events_of(served, job)

    served.failpoint = ""
    job = served.call(lambda it: it.start(Install(kind="install", upload=name)))
    served.stop()
    served.start()
    assert served.ended(job).state == "done"


def test_a_job_is_cancelled(served: Served) -> None:
    device = served.device
    name = served.upload(device.top / "2.bundle")
    served.failpoint = "materialised:hang"
    job = served.call(lambda it: it.start(Install(kind="install", upload=name)))
    served.until(job, "materialised")
    ended = served.call(lambda it: it.cancel(job.id))
    assert (ended.state, ended.exit_code) == ("cancelled", ExitCode.TERMINATED)
    assert not os.path.ismount(device.machine.mountpoint)
    assert served.call(lambda it: it.cancel(job.id)) == ended  # it was over
    assert device.power_on().boots == "A"


@pytest.mark.row("S45")
def test_what_the_page_may_not_reach(served: Served, tmp_path: Path) -> None:
    """Its folder is not trusted: what is no plain file of it is not read."""
    folder = uploads(served.device.machine)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{UPLOAD}.bundle"
    secret = tmp_path / "shadow"
    secret.write_text("root:secret\n")
    for put, said in (
        (lambda: place.symlink_to(secret), "should be there, and is not"),
        (lambda: os.mkfifo(place), "should be a file, and is none"),
        (place.mkdir, "should be a file, and is none"),
        (lambda: None, "should be there, and is not"),
        (lambda: place.write_text("no bundle\n"), "bundle"),
    ):
        put()
        wish = Inspect(kind="inspect", upload=UPLOAD)
        job = served.ended(served.call(lambda it: it.start(wish)))  # noqa: B023 - called at once
        assert (job.state, job.exit_code) == ("failed", ExitCode.SOURCE), job
        assert job.message is not None and said in job.message
        if place.is_dir() and not place.is_symlink():
            place.rmdir()
        else:
            place.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null\n",
        b"[]\n",
        b"\xff\xfe\n",
        b'{"call": "status"',
        b'{"call": "delete"}\n',
        b'{"call": "__init__"}\n',
        b'{"call": ["status"]}\n',
        b'{"call": "status", "args": {"x": 1}}\n',
        b'{"call": "status", "args": {}, "as": "root"}\n',
        b'{"call": "history", "args": {"limit": 1000000}}\n',
        b'{"call": "job", "args": {"id": "../../etc/passwd"}}\n',
        b'{"call": "events", "args": {"id": "00000000", "after": -1}}\n',
        b'{"call": "start", "args": {"wish": {"kind": "confirm"}}}\n',
        b'{"call": "start", "args": {"wish": {"kind": "inspect", "upload": "../x/../../../b"}}}\n',
        b'{"call": "start", "args": {"wish": {"kind": "install"}}}\n',
        b'{"call": "start", "args": {"wish": {"kind": "install", "release": "-x", "hook": 1}}}\n',
        b'{"call": "reboot", "args": {"into": "firmware"}}\n',
        b"[" * (MAX_CALL - 1) + b"\n",
        b'{"call": "' + b"x" * (2 * MAX_CALL) + b'"}\n',
    ],
)
def test_a_call_that_is_none(served: Served, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(_SECONDS)
        asked.connect(str(served.device.paths.runtime / server.SOCKET))
        asked.sendall(line)
        asked.shutdown(socket.SHUT_WR)
        reply = json.loads(asked.makefile("rb").read())
    assert reply["error"]["code"] == ExitCode.USAGE and reply["error"]["message"]
    assert served.call(lambda it: it.jobs()) == []


def test_who_is_silent_is_left(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CALL_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(_SECONDS)
        asked.connect(str(served.device.paths.runtime / server.SOCKET))
        asked.sendall(b'{"call": ')
        reply = json.loads(asked.makefile("rb").read())
    assert "within 0.2 seconds" in reply["error"]["message"]


def test_others_may_not_call(device: BootDevice) -> None:
    async def refused() -> None:
        listening = server.listen(device.paths.runtime)
        engine = server.Engine(device.machine, lambda *_: pytest.fail("no job"))
        serving = asyncio.create_task(server.serve(engine, listening, {os.getuid() + 1}))
        with pytest.raises(EngineError, match="does not answer"):
            await EngineClient(device.paths.runtime / server.SOCKET).status()
        serving.cancel()

    asyncio.run(refused())
    assert (device.paths.runtime / server.SOCKET).stat().st_mode & 0o007 == 0


@pytest.mark.row("S45")
def test_who_asks_for_a_restart_is_answered_before(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd ends the page and the engine as soon as it is asked to restart the device."""
    asked, answered = threading.Event(), threading.Event()

    def restart(words: list[str], timeout: float) -> Result | None:
        if words != ["systemctl", "reboot"]:
            return run(words, timeout=timeout)
        assert answered.wait(_SECONDS)
        asked.set()
        return None

    monkeypatch.setattr(facts, "run", restart)
    monkeypatch.setattr(facts, "ANSWERED", 0.01)
    assert served.call(lambda it: it.reboot()).text == "The device restarts."
    assert served.call(lambda it: it.status()).rebooting
    answered.set()
    assert asked.wait(_SECONDS)


def test_a_restart_that_does_not_come_is_not_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refusing(words: list[str], timeout: float) -> Result:
        if words == ["systemctl", "reboot"]:
            raise ProgramError(("systemctl", "reboot"), 1, "Access denied", None)
        return run(words, timeout=timeout)

    monkeypatch.setattr(facts, "run", refusing)
    monkeypatch.setattr(facts, "ANSWERED", 0.01)
    served.call(lambda it: it.reboot())
    until = time.monotonic() + _SECONDS
    while served.call(lambda it: it.status()).rebooting:
        assert time.monotonic() < until
    assert "Access denied" in caplog.text


def test_what_was_asked_before_the_engine_ends_is_answered(
    device: BootDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(*_: object) -> list[HistoryItem]:
        begun.set()
        go.wait(_SECONDS)
        return []

    monkeypatch.setattr(facts, "history", slow)

    async def stopped() -> list[HistoryItem]:
        listening, stop = server.listen(device.paths.runtime), asyncio.Event()
        engine = server.Engine(device.machine, lambda *_: pytest.fail("no job"))
        serving = asyncio.create_task(server.serve(engine, listening, {os.getuid()}, stop))
        client = EngineClient(device.paths.runtime / server.SOCKET)
        asked = asyncio.create_task(client.history())
        await asyncio.to_thread(begun.wait, _SECONDS)
        stop.set()
        await asyncio.sleep(0)
        go.set()
        told = await asyncio.wait_for(asked, _SECONDS)
        await asyncio.wait_for(serving, _SECONDS)
        return told

    assert asyncio.run(stopped()) == []


def test_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not answer") as gone:
        asyncio.run(EngineClient(tmp_path / "none").status())
    assert gone.value.code == ExitCode.DEVICE_FAULT


def test_old_jobs_go(device: BootDevice) -> None:
    """And none that runs."""
    shutil.rmtree(device.paths.runtime / "jobs", ignore_errors=True)

    def launch(name: str, held: int, _log: IO[bytes]) -> subprocess.Popen[bytes]:
        (device.paths.runtime / "jobs" / name / "end.json").write_text('{"state": "done"}')
        return subprocess.Popen(["true"], pass_fds=[held])

    jobs = Jobs(device.paths.runtime, launch)
    for number in range(KEPT + 3):
        jobs.start(Repair(kind="repair"))
        while jobs.all()[0].state == "running" or jobs._living(jobs._folder / jobs.all()[0].id):
            time.sleep(0.01)
        assert len(jobs.all()) == min(number + 1, KEPT)
    with pytest.raises(EngineError, match="no job"):
        jobs.get("0000000000-00000000")
    assert Quick(kind="confirm").kind == "confirm"


@pytest.mark.row("U16")
def test_the_support_file(served: Served) -> None:
    """All of it is there, and what opens a door is not."""
    device = served.device
    secrets = "https://me:hunter2@updates.example/"
    device.configure(f'source.proxy="{secrets}"', "hawkbit.token=abc")
    found = served.call(lambda it: it.support())
    with tarfile.open(found.path) as archive:
        texts = {
            Path(one.name).name: archive.extractfile(one).read().decode()  # type: ignore[union-attr]
            for one in archive.getmembers()
        }
    assert {"status.json", "history.json", "grubenv.txt", "cmdline.txt", "log.txt"} <= set(texts)
    assert json.loads(texts["status.json"])["report"]["booted"]["slot"] == "A"
    assert "slot=A" in texts["grubenv.txt"]
    everything = "".join(texts.values())
    assert "hunter2" not in everything and "hawkbit.token=abc" not in everything
    assert Path(found.path).stat().st_mode & 0o007 == 0
    assert served.call(lambda it: it.support()).path == found.path or not Path(found.path).exists()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("psk=swordfish ssid=home", "psk=*** ssid=home"),
        ('"token": "abc def", "url": 1', '"token": ***, "url": 1'),
        ("git https://me:pw@host/x", "git https://***@host/x"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ("a\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\nb",
         "a\n(a private key was here)\nb"),
        ("release 2 in slot B", "release 2 in slot B"),
    ],
)  # fmt: skip
def test_secrets_are_left_out(text: str, left: str) -> None:
    assert without_secrets(text) == left
