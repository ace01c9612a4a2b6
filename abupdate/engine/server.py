"""The engine's socket: one call a connection, checked before anything is done.

Whoever connects is root or the page's user. A call is bounded in size and time, and calls that
work are bounded in number; what waits for events costs a task and no thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import struct
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from abupdate.engine import device, support
from abupdate.engine.contract import MAX_CALL, EngineError, JobId, Told
from abupdate.engine.jobs import Jobs, Launch, wish_of
from abupdate.errors import AbupdateError, ExitCode, fault_of
from abupdate.update.slots import Machine

SOCKET = "engine.sock"
CALL_SECONDS = 10.0
MAX_CONNECTIONS = 512
MAX_WORKING = 16
LAST_SECONDS = 10.0  # for calls that were begun when the engine is stopped
_EVENTS_EVERY = 0.2  # seconds


class _Args(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _None(_Args):
    pass


class _Limit(_Args):
    limit: int = Field(default=100, ge=1, le=1000)


class _Lines(_Args):
    lines: int = Field(default=400, ge=1, le=10000)


class _Wish(_Args):
    wish: dict[str, Any]


class _JobOf(_Args):
    id: JobId


class _Events(_JobOf):
    after: int = Field(default=0, ge=0)


class _Reboot(_Args):
    into: Literal["", "rescue"] = ""


class Engine:
    """What each call does, in a thread of its own; all are safe beside each other."""

    def __init__(self, machine: Machine, launch: Launch) -> None:
        self._machine = machine
        self.jobs = Jobs(machine.paths.runtime, launch)
        self._checks = device.Checks(machine)
        self.calls: dict[str, tuple[type[_Args], Callable[[Any], object]]] = {
            "status": (_None, lambda _: device.status(machine)),
            "health": (_None, lambda _: self._checks.health()),
            "history": (_Limit, lambda args: device.history(machine, args.limit)),
            "why": (_None, lambda _: device.why(machine)),
            "releases": (_None, lambda _: device.releases(machine)),
            "log": (_Lines, lambda args: device.log(machine, args.lines)),
            "support": (_None, lambda _: support.make(machine, self.jobs, self._checks)),
            "start": (_Wish, lambda args: self.jobs.start(wish_of(args.wish))),
            "jobs": (_None, lambda _: self.jobs.all()),
            "job": (_JobOf, lambda args: self.jobs.get(args.id)),
            "cancel": (_JobOf, lambda args: self.jobs.cancel(args.id)),
            "confirm": (_None, lambda _: self._quick("confirm")),
            "reject": (_None, lambda _: self._quick("reject")),
            "acknowledge": (_None, lambda _: self._quick("acknowledge")),
            "arm": (_None, lambda _: self._quick("arm")),
            "reboot": (_Reboot, self._reboot),
        }

    def _quick(self, kind: str) -> Told:
        return Told(text=self.jobs.quick(kind).message or "")

    def _reboot(self, args: _Reboot) -> Told:
        if any(job.state == "running" for job in self.jobs.all()):
            raise EngineError(
                ExitCode.BUSY, "A job is running.", "Wait for it, or cancel it; then restart."
            )
        if args.into == "rescue":
            self._quick("rescue-boot")
        device.reboot(self._machine)
        return Told(text="The device restarts.")


async def serve(
    engine: Engine, listening: socket.socket, allowed: set[int], stop: asyncio.Event | None = None
) -> None:
    """Answer until `stop` (or cancelled), and then what was asked before it.

    `allowed`: the users who may call.

    A restart of the device stops the engine while it answers who asked for that.
    """
    slots = asyncio.Semaphore(MAX_WORKING)
    open_now = 0
    answering: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            if open_now <= MAX_CONNECTIONS and _user_of(writer) in allowed:
                await _answer(engine, reader, writer, slots, answering)
        except (ConnectionError, TimeoutError):
            pass
        finally:
            open_now -= 1
            writer.close()
            with suppress(ConnectionError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), CALL_SECONDS)

    server = await asyncio.start_unix_server(connected, sock=listening, limit=MAX_CALL)
    try:
        await (stop or asyncio.Event()).wait()
    finally:
        server.close()
    if answering:
        await asyncio.wait(answering, timeout=LAST_SECONDS)


def _user_of(writer: asyncio.StreamWriter) -> int:
    peer: socket.socket = writer.get_extra_info("socket")
    told = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", told)[1])


async def _answer(
    engine: Engine,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    slots: asyncio.Semaphore,
    answering: set[asyncio.Task[None]],
) -> None:
    task = asyncio.current_task()
    assert task is not None
    try:
        name, args = await _call(engine, reader)
        if name == "events":
            await _events(engine, writer, args)
            return
        answering.add(task)
        task.add_done_callback(answering.discard)
        async with slots:
            found = await asyncio.to_thread(engine.calls[name][1], args)
        reply: dict[str, Any] = {"ok": _plain(found)}
    except EngineError as error:
        reply = _refused(error.code, error.message, error.hint)
    except (AbupdateError, OSError, MemoryError) as error:
        fault = error if isinstance(error, AbupdateError) else fault_of(error)
        reply = _refused(fault.exit_code, fault.message, fault.hint)
    except Exception:
        traceback.print_exc()
        reply = _refused(ExitCode.BUG, "This is a bug in abupdate.", "The engine's log has more.")
    await _send(writer, reply)


async def _call(engine: Engine, reader: asyncio.StreamReader) -> tuple[str, Any]:
    try:
        line = await asyncio.wait_for(reader.readline(), CALL_SECONDS)
        told = json.loads(line)
        name, args = told["call"], told.get("args", {})
        model = _Events if name == "events" else engine.calls[name][0]
        if set(told) - {"call", "args"}:
            raise KeyError
        return name, model.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(word) for word in first["loc"]) or "args"
        raise EngineError(ExitCode.USAGE, f"{where}: {first['msg']}.") from None
    except TimeoutError:
        raise EngineError(
            ExitCode.USAGE, f"A call was expected within {CALL_SECONDS:g} seconds."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise EngineError(
            ExitCode.USAGE, f"A call of {MAX_CALL} bytes at most was expected: one line of JSON."
        ) from None


async def _events(engine: Engine, writer: asyncio.StreamWriter, args: _Events) -> None:
    """What a job has told, and goes on to tell, until it has ended or nobody listens."""
    after = args.after
    while True:
        job = await asyncio.to_thread(engine.jobs.get, args.id)  # before the events: none is lost
        for one in await asyncio.to_thread(engine.jobs.events, args.id, after):
            await _send(writer, {"ok": one.model_dump()})
            after = one.n
        if job.state != "running":
            return
        await asyncio.sleep(_EVENTS_EVERY)
        if writer.is_closing():
            return


async def _send(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    writer.write(json.dumps(value, default=str).encode() + b"\n")
    await asyncio.wait_for(writer.drain(), CALL_SECONDS)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _refused(code: int, message: str, hint: str | None) -> dict[str, Any]:
    return {"error": {"code": int(code), "message": message, "hint": hint}}


def listen(runtime: Path) -> socket.socket:
    """The socket that systemd gave, else one of our own that the page's user may use."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=3)
    path = runtime / SOCKET
    runtime.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o117)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    with suppress(LookupError):
        os.chown(path, -1, pwd.getpwnam(support.PAGE_USER).pw_gid)
    listening.listen(128)
    return listening


def callers() -> set[int]:
    """Root and the page's user."""
    found = {0}
    with suppress(KeyError):
        found.add(pwd.getpwnam(support.PAGE_USER).pw_uid)
    return found
