"""The calls of the engine, what they take and what they give: one contract for page and scripts.

A connection to /run/abupdate/engine.sock carries one call: a line of JSON, `{"call": "status",
"args": {}}`, and gets `{"ok": RESULT}` or `{"error": {"code", "message", "hint"}}`, code being an
exit code of the command (docs/exit-codes.md). `events` gives many lines and ends with its job.
Times are seconds since the epoch, sizes bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from abupdate.errors import ExitCode

MAX_CALL = 64 << 10  # bytes of one call

UploadId = Annotated[
    str, Field(pattern=r"^[a-z0-9]{16,40}$", description="A complete upload of this device's page.")
]
JobId = Annotated[str, Field(pattern=r"^[0-9a-z-]{8,60}$", description="A job's name.")]
Version = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}$",
        description="A release of the device's store.",
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Inspect(_Strict):
    """What is in an upload, and what an install of it would do; nothing is changed."""

    kind: Literal["inspect"]
    upload: UploadId
    allow_downgrade: bool = False
    retry_failed: bool = False


class Install(_Strict):
    """Install an upload, or a release of the store, into the other slot; and arm it."""

    kind: Literal["install"]
    upload: UploadId | None = None
    release: Version | None = None
    allow_downgrade: bool = False
    retry_failed: bool = False
    arm: bool = True


class Rollback(_Strict):
    """Go back to what the other slot holds, or to a release of the store."""

    kind: Literal["rollback"]
    release: Version | None = None


class Reflash(_Strict):
    """From rescue: put slots back. A factory reset loses the owner's data."""

    kind: Literal["reflash"]
    slots: Literal["A", "B", "both"]
    upload: UploadId | None = None
    release: Version | None = None
    factory_reset: bool = False
    retry_failed: bool = False


class RescueUpdate(_Strict):
    """Replace the rescue system by the one in an upload."""

    kind: Literal["rescue-update"]
    upload: UploadId
    allow_downgrade: bool = False


class Repair(_Strict):
    """Mend what is safe to mend."""

    kind: Literal["repair"]


Wish = Annotated[
    Inspect | Install | Rollback | Reflash | RescueUpdate | Repair, Field(discriminator="kind")
]
State = Literal["running", "done", "failed", "cancelled", "lost"]


class JobEvent(BaseModel):
    """One event of a job. `n` counts from 1; `event` is what `--progress-fd` tells."""

    n: int
    event: dict[str, Any]


class Job(BaseModel):
    """A job and what became of it; `message` and `hint` are the command's own words.

    `lost`: its process ended without a word, as after a power cut. `exit_code`: of the command.
    `result`: what it found, as `abupdate info --json` for `inspect`. `step` and `progress`: the
    step that runs, and the last that was told of it.
    """

    id: str
    kind: str
    wish: dict[str, Any]
    state: State
    started: float
    ended: float | None = None
    exit_code: int | None = None
    message: str | None = None
    hint: str | None = None
    release: str | None = None
    result: dict[str, Any] | None = None
    step: str | None = None
    progress: dict[str, Any] | None = None
    events: int = 0


class PartitionView(BaseModel):
    """A partition of the boot disk, for a picture of it. `used` is None where nobody knows."""

    name: str
    label: str | None
    role: Literal["A", "B", "rescue", "boot", "data", "bios", "other"]
    size: int
    used: int | None = None


class Status(BaseModel):
    """The device now. `report`: `abupdate status --json` (docs/status.schema.json).

    `deadline`: seconds until a trial that nobody judges is given up, None without a trial.
    `boot_id` is another one after each boot; `uptime` in seconds.
    """

    report: dict[str, Any]
    hostname: str
    boot_id: str
    uptime: float
    mode: Literal["slot", "rescue", "foreign"]
    confirm_mode: Literal["auto", "manual"]
    deadline: float | None
    rebooting: bool
    partitions: list[PartitionView]
    data_free: int | None
    version: str


class Health(BaseModel):
    """The health checks, as `abupdate check --json` tells them; `time`: when they were run."""

    time: float
    healthy: bool
    checks: list[dict[str, Any]]
    error: str | None = None


class HistoryItem(BaseModel):
    """One thing that happened."""

    event: str
    time: float
    release: str | None = None
    slot: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class StoredRelease(BaseModel):
    """A release that the device keeps. `kept_by`: what for; empty: the next tidying drops it."""

    release: str
    commit: str | None
    signed: float | None
    kept_by: list[str]


class SupportFile(BaseModel):
    """A file for those who help, without secrets; readable by the page's user."""

    path: str
    name: str
    size: int


class Told(BaseModel):
    """What was done, in words."""

    text: str


class EngineError(Exception):
    """A call that was refused. `code` is an exit code of the command."""

    def __init__(self, code: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = ExitCode(code)
        self.message = message
        self.hint = hint


class Engine(Protocol):
    """What the page asks of the device. Each call raises `EngineError`."""

    async def status(self) -> Status:
        """The device now."""

    async def health(self) -> Health:
        """The checks, at most a few seconds old."""

    async def history(self, limit: int = 100) -> list[HistoryItem]:
        """What happened, newest first."""

    async def why(self) -> dict[str, Any] | None:
        """The story of the last release that did not stay (`abupdate why --json`), if any."""

    async def releases(self) -> list[StoredRelease]:
        """What the store holds."""

    async def log(self, lines: int = 400) -> list[str]:
        """The last lines of the log of abupdate's units."""

    async def support(self) -> SupportFile:
        """Make the file for those who help."""

    async def start(self, wish: Wish) -> Job:
        """Begin a job. Code 5 (busy) while another one runs."""

    async def jobs(self) -> list[Job]:
        """The last jobs, newest first."""

    async def job(self, job_id: str) -> Job:
        """One of them. Code 3 (nothing) where there is none."""

    async def cancel(self, job_id: str) -> Job:
        """End it, and wait until it has ended."""

    def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        """Its events from number `after` + 1 on, as they come, until it has ended."""

    async def confirm(self) -> Told:
        """Keep the release on trial."""

    async def reject(self) -> Told:
        """Give it up."""

    async def acknowledge(self) -> Told:
        """The last fallback is known."""

    async def arm(self) -> Told:
        """Let GRUB try what an install without arming wrote."""

    async def reboot(self, into: Literal["", "rescue"] = "") -> Told:
        """Restart the device, into rescue when asked."""
