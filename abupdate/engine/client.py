"""The engine as the page calls it: the contract over the unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from abupdate.engine.contract import (
    EngineError,
    Health,
    HistoryItem,
    Job,
    JobEvent,
    Status,
    StoredRelease,
    SupportFile,
    Told,
    Wish,
)
from abupdate.errors import ExitCode

# A line of an answer: what a support file is made of is not among them.
MAX_ANSWER = 16 << 20
# Health checks have time limits of their own, and an end waits for an unmount.
ANSWER_SECONDS = 180.0


class EngineClient:
    """Calls the engine at `path`; each method raises `EngineError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def status(self) -> Status:
        return Status.model_validate(await self._ask("status"))

    async def health(self) -> Health:
        return Health.model_validate(await self._ask("health"))

    async def history(self, limit: int = 100) -> list[HistoryItem]:
        return [HistoryItem.model_validate(one) for one in await self._ask("history", limit=limit)]

    async def why(self) -> dict[str, Any] | None:
        story: dict[str, Any] | None = await self._ask("why")
        return story

    async def releases(self) -> list[StoredRelease]:
        return [StoredRelease.model_validate(one) for one in await self._ask("releases")]

    async def log(self, lines: int = 400) -> list[str]:
        return [str(line) for line in await self._ask("log", lines=lines)]

    async def support(self) -> SupportFile:
        return SupportFile.model_validate(await self._ask("support"))

    async def start(self, wish: Wish) -> Job:
        return Job.model_validate(await self._ask("start", wish=wish.model_dump()))

    async def jobs(self) -> list[Job]:
        return [Job.model_validate(one) for one in await self._ask("jobs")]

    async def job(self, job_id: str) -> Job:
        return Job.model_validate(await self._ask("job", id=job_id))

    async def cancel(self, job_id: str) -> Job:
        return Job.model_validate(await self._ask("cancel", id=job_id))

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        async with self._called("events", id=job_id, after=after) as reader:
            while line := await reader.readline():
                yield JobEvent.model_validate(_ok(line))

    async def confirm(self) -> Told:
        return Told.model_validate(await self._ask("confirm"))

    async def reject(self) -> Told:
        return Told.model_validate(await self._ask("reject"))

    async def acknowledge(self) -> Told:
        return Told.model_validate(await self._ask("acknowledge"))

    async def arm(self) -> Told:
        return Told.model_validate(await self._ask("arm"))

    async def reboot(self, into: Literal["", "rescue"] = "") -> Told:
        return Told.model_validate(await self._ask("reboot", into=into))

    async def _ask(self, call: str, **args: object) -> Any:
        async with self._called(call, **args) as reader:
            try:
                line = await asyncio.wait_for(reader.readline(), ANSWER_SECONDS)
            except (OSError, ValueError, TimeoutError) as error:
                raise _gone(str(error) or "no answer") from error
        if not line:
            raise _gone("it ended the connection")
        return _ok(line)

    @asynccontextmanager
    async def _called(self, call: str, **args: object) -> AsyncIterator[asyncio.StreamReader]:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_ANSWER)
        except OSError as error:
            raise _gone(error.strerror or str(error)) from error
        try:
            with suppress(ConnectionError):  # what it said before it closed is read below
                writer.write(json.dumps({"call": call, "args": args}).encode() + b"\n")
                await writer.drain()
            yield reader
        finally:
            writer.close()


def _ok(line: bytes) -> Any:
    try:
        answer = json.loads(line)
        if b"\\ud" in line:  # names of files that are no text, which no answer of ours can hold
            text = json.dumps(answer, ensure_ascii=False)
            answer = json.loads(text.encode("utf-8", "replace"))
        if "ok" in answer:
            return answer["ok"]
        error = answer["error"]
        refused = EngineError(error["code"], error["message"], error["hint"])
    except (ValueError, KeyError, TypeError):
        raise _gone("its answer is not understood") from None
    raise refused


def _gone(why: str) -> EngineError:
    return EngineError(
        ExitCode.DEVICE_FAULT, f"The engine of abupdate does not answer: {why}.",
        "systemctl status abupdate-engine.socket abupdate-engine.service",
    )  # fmt: skip
