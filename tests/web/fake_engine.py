"""An engine in memory, with scenes: what the page's tests run against instead of a device."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

from abupdate.engine.contract import (
    EngineError,
    Health,
    HistoryItem,
    Job,
    JobEvent,
    PartitionView,
    Status,
    StoredRelease,
    SupportFile,
    Told,
    Wish,
)
from abupdate.errors import ExitCode

NOW = 1_790_000_000.0  # seconds since the epoch
OLD, NEW = "1.4.0", "1.5.0"
COMMITS = {OLD: "4" * 40, NEW: "5" * 40}
Scene = Literal["ok", "armed", "on-trial", "manual", "fallback", "rescue", "busy", "failed", "gone"]
SCENES: tuple[Scene, ...] = (
    "ok", "armed", "on-trial", "manual", "fallback", "rescue", "busy", "failed", "gone",
)  # fmt: skip

# Steps of each kind of job: name, text, and bytes or None.
STEPS: dict[str, list[tuple[str, str, int | None]]] = {
    "inspect": [("open", "Read its beginning", None), ("trust", "Check its signature", None)],
    "install": [
        ("open", "Read its beginning", None),
        ("trust", "Check its signature", None),
        ("receive", "Receive the release", 90 << 20),
        ("check", "Look at all objects", 8000),
        ("store", "Take the release into the store", None),
        ("plan", "Find what differs", None),
        ("begin", "Take slot B out of use", None),
        ("write", f"Write release {NEW}", 240 << 20),
        ("verify", "Read it back from the disk", 240 << 20),
        ("etc", "Carry /etc changes over", None),
        ("mark", "Mark slot B complete", None),
        ("arm", "Arm slot B", None),
    ],
    "rollback": [("arm", "Arm slot B", None)],
    "reflash": [("write", f"Write release {OLD}", 900 << 20), ("verify", "Read it back", 1 << 20)],
    "rescue-update": [("write", "Write the rescue system", 200 << 20)],
    "repair": [("repair", "Mend what is safe to mend", None)],
}
INFO: dict[str, Any] = {
    "schema_version": 1, "release": NEW, "compatible": "acme-box", "commit": COMMITS[NEW],
    "manifest_sha256": "a" * 64, "tree_digest": "b" * 64, "signer": "release@acme.example",
    "signed": int(NOW) - 86400, "created": int(NOW) - 90000, "floor": None, "min_from": None,
    "needs": [OLD], "transferred": 94_371_840, "bytes": 1_503_238_553, "inodes": 41_873,
    "slot": "B", "write": 251_658_240, "write_files": 1874, "kept": 39_912, "removed": 87,
    "capacity": 3_221_225_472, "running": OLD, "changes": {
        "packages": [
            {"name": "acme-ui", "old": "2.8.1-1", "new": "2.9.0-1"},
            {"name": "libssl3t64", "old": "3.5.1-1", "new": "3.5.4-1"},
            {"name": "openssl", "old": "3.5.1-1", "new": "3.5.4-1"},
            {"name": "acme-legacy", "old": "1.0-4", "new": None},
            {"name": "acme-sensors", "old": None, "new": "0.3-1"},
        ],
        "files": {"added": 212, "removed": 87, "changed": 1649, "attributes": 13},
    }, "refused": None,
}  # fmt: skip


class FakeEngine:
    """Fulfils `Engine`. `calls` has what was asked for, in order.

    `pace`: seconds that a step of a job takes. `pause_at`: a step at which a job waits until
    `resume()`. `fail_at`: a step at which it fails. `info`: what `inspect` finds.
    """

    def __init__(self, scene: Scene = "ok", pace: float = 0.0, support: Path | None = None) -> None:
        self.pace, self.support_file = pace, support
        self.pause_at: str | None = None
        self.fail_at: str | None = None
        self.info = copy.deepcopy(INFO)
        self.calls: list[str] = []
        self.wishes: list[Wish] = []
        self.boots = 1
        self._go = asyncio.Event()
        self._news = asyncio.Condition()
        self._jobs: dict[str, Job] = {}
        self._events: dict[str, list[JobEvent]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)
        self.health_now = _health(True)
        self.releases_now = [
            StoredRelease(release=NEW, commit=COMMITS[NEW], signed=NOW - 86400, kept_by=["slot B"]),
            StoredRelease(release=OLD, commit=COMMITS[OLD], signed=NOW - 9e6, kept_by=["slot A"]),
        ]
        self.history_now = _history()
        self.why_now: dict[str, Any] | None = None
        self.log_now = [
            "2026-09-21T10:00:00+0000 box abupdate[411]: Slot A is confirmed.",
            '2026-09-21T10:00:01+0000 box abupdate[412]: <b>not bold</b> & "quoted"',
        ]
        self.set_scene(scene)

    # What tests do with the device

    def set_scene(self, scene: Scene) -> None:
        """Put the device into one of the `SCENES`."""
        self.scene: Scene = scene
        self.now = _status(f"{self.boots:08d}-0000-4000-8000-000000000000")
        _SCENES[scene](self)

    def boot_into(self, scene: Scene) -> None:
        """The device comes back from a reboot, like this."""
        self.boots += 1
        self.set_scene(scene)

    def change(self, **changed: Any) -> None:
        """Change fields of the status."""
        self.now = self.now.model_copy(update=changed)

    def resume(self) -> None:
        """Let the job go on that waits at `pause_at`."""
        self.pause_at = None
        self._go.set()

    # What the page asks for

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.scene == "gone":
            raise EngineError(
                ExitCode.DEVICE_FAULT,
                "The engine does not answer.",
                "`systemctl status abupdate-engine` says why.",
            )

    async def status(self) -> Status:
        self._called("status")
        report = dict(self.now.report)
        if (job := self._running()) is not None:
            report["job"] = {"job": job.kind, "pid": 4711, "started": job.started}
        return self.now.model_copy(update={"report": report})

    async def health(self) -> Health:
        self._called("health")
        return self.health_now

    async def history(self, limit: int = 100) -> list[HistoryItem]:
        self._called("history")
        return self.history_now[:limit]

    async def why(self) -> dict[str, Any] | None:
        self._called("why")
        return self.why_now

    async def releases(self) -> list[StoredRelease]:
        self._called("releases")
        return list(self.releases_now)

    async def log(self, lines: int = 400) -> list[str]:
        self._called("log")
        return self.log_now[-lines:]

    async def support(self) -> SupportFile:
        self._called("support")
        path = self.support_file
        if path is None:
            raise EngineError(ExitCode.DEVICE_FAULT, "There is no support file in this test.")
        return SupportFile(path=str(path), name="support-box.tar.gz", size=path.stat().st_size)

    async def start(self, wish: Wish) -> Job:
        self._called(f"start {wish.kind}")
        if self.scene == "busy" or self._running() is not None:
            raise EngineError(
                ExitCode.BUSY, "Another job is running: install.", "Wait until it has ended."
            )
        self.wishes.append(wish)
        job = Job(
            id=f"20260921-{next(self._numbers):06d}", kind=wish.kind, wish=wish.model_dump(),
            state="running", started=NOW, release=None if wish.kind == "inspect" else NEW,
        )  # fmt: skip
        self._jobs[job.id], self._events[job.id] = job, []
        self._go.clear()
        self._tasks[job.id] = asyncio.create_task(self._run(job.id))
        return job

    async def jobs(self) -> list[Job]:
        self._called("jobs")
        return sorted(self._jobs.values(), key=lambda job: job.id, reverse=True)

    async def job(self, job_id: str) -> Job:
        self._called("job")
        if job_id not in self._jobs:
            raise EngineError(ExitCode.NOTHING_TO_DO, f"There is no job {job_id}.")
        return self._jobs[job_id]

    async def cancel(self, job_id: str) -> Job:
        job = await self.job(job_id)
        self._called("cancel")
        if job.state == "running":
            await self._update(
                job_id, state="cancelled", ended=NOW + 9, exit_code=143, message="Stopped."
            )
            if (task := self._tasks.get(job_id)) is not None:
                task.cancel()
        return self._jobs[job_id]

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[JobEvent]:
        await self.job(job_id)
        while True:
            for event in self._events[job_id][after:]:
                yield event
                after = event.n
            async with self._news:
                if after < len(self._events[job_id]):
                    continue
                if self._jobs[job_id].state != "running":
                    return
                await self._news.wait()

    async def confirm(self) -> Told:
        self._called("confirm")
        if self.scene not in ("on-trial", "manual"):
            raise EngineError(ExitCode.NOTHING_TO_DO, "No release is on trial.")
        mode = self.now.confirm_mode
        self.set_scene("ok")
        report = copy.deepcopy(self.now.report)
        _swap(report)
        report["last_install"] = _install("confirmed")
        self.change(report=report, confirm_mode=mode)
        return Told(text=f"Release {NEW} is confirmed.")

    async def reject(self) -> Told:
        self._called("reject")
        if self.scene not in ("on-trial", "manual", "armed"):
            raise EngineError(ExitCode.NOTHING_TO_DO, "No release is armed or on trial.")
        return Told(text=f"Release {NEW} is given up; slot A boots next.")

    async def acknowledge(self) -> Told:
        self._called("acknowledge")
        if self.scene != "fallback":
            raise EngineError(ExitCode.NOTHING_TO_DO, "There is no fallback to acknowledge.")
        self.set_scene("ok")
        return Told(text="The fallback is acknowledged.")

    async def arm(self) -> Told:
        self._called("arm")
        self.set_scene("armed")
        return Told(text="Slot B is armed.")

    async def reboot(self, into: Literal["", "rescue"] = "") -> Told:
        self._called(f"reboot {into}".strip())
        self.change(rebooting=True)
        return Told(text="The device restarts.")

    # How a job goes

    def _running(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "running"), None)

    async def _run(self, job_id: str) -> None:
        kind = self._jobs[job_id].kind
        for step, text, size in STEPS[kind]:
            await self._tell(job_id, kind="step-begin", step=step, text=text)
            await asyncio.sleep(self.pace)
            if size is not None:
                unit = "objects" if step == "check" else "bytes"
                for part in (1, 2, 3, 4):
                    await self._tell(
                        job_id, kind="progress", step=step, text="", done=size * part // 4,
                        total=size, unit=unit, rate=size / 8, left=2.0 * (4 - part),
                    )  # fmt: skip
                    await asyncio.sleep(self.pace)
                    if part == 2 and self.pause_at == step:
                        await self._go.wait()
            elif self.pause_at == step:
                await self._go.wait()
            if self.fail_at == step:
                await self._tell(job_id, kind="step-failed", step=step, text=text, seconds=1.0)
                await self._update(
                    job_id, state="failed", ended=NOW + 60, exit_code=int(ExitCode.NOT_TRUSTED),
                    message="No trusted key has signed this release.",
                    hint="Ask who made it, or trust their key (docs/trust.md).",
                )  # fmt: skip
                return
            await self._tell(job_id, kind="step-end", step=step, text=text, seconds=1.5)
        result = {"schema_version": 1, "release": NEW, "slot": "B", "armed": True}
        if kind in ("install", "rollback"):
            self.set_scene("armed")
        await self._update(
            job_id, state="done", ended=NOW + 60, exit_code=0, step=None,
            message=f"Release {NEW} is installed, on trial from the next boot.",
            result=copy.deepcopy(self.info) if kind == "inspect" else result,
            release=self.info["release"],
        )  # fmt: skip

    async def _tell(self, job_id: str, **event: Any) -> None:
        events = self._events[job_id]
        number = len(events) + 1
        events.append(JobEvent(n=number, event={"time": NOW + number, **event}))
        changed: dict[str, Any] = {"events": number, "step": event["step"]}
        if event["kind"] == "progress":
            changed["progress"] = events[-1].event
        await self._update(job_id, **changed)

    async def _update(self, job_id: str, **changed: Any) -> None:
        async with self._news:
            self._jobs[job_id] = self._jobs[job_id].model_copy(update=changed)
            self._news.notify_all()


def _slot(release: str, **changed: Any) -> dict[str, Any]:
    return {
        "device": "/dev/sda3", "label": release, "state": "complete", "release": release,
        "commit": COMMITS[release], "signer": "release@acme.example", "good": True,
        "booted": False, "confirmed": NOW - 8e6, **changed,
    }  # fmt: skip


def _status(boot_id: str) -> Status:
    report = {
        "schema_version": 1,
        "booted": {
            "slot": "A", "how": "normal", "release": OLD, "commit": COMMITS[OLD],
            "text": "confirmed, and the slot that boots",
        },
        "slots": {
            "A": _slot(OLD, booted=True),
            "B": _slot(NEW, device="/dev/sda4", good=False, confirmed=None),
        },
        "boot": {
            "slot": "A", "good": "A", "trial": "", "ustate": 0, "ustate_text": "OK",
            "countdown": 8, "tries": 3, "limit": 8, "failed": "", "once": "", "source": "grubenv",
        },
        "rescue": "ready", "rescue_release": "1.4.0", "rules": None, "last_install": None,
        "etc": {"changed": 12, "conflicts": []}, "failed": [], "job": None, "problems": [],
    }  # fmt: skip
    gib = 1 << 30
    parts: list[tuple[str, str, Any, int, int | None]] = [
        ("sda1", "bios", "bios", 1 << 20, None), ("sda2", "esp", "boot", 256 << 20, 14 << 20),
        ("sda3", f"A-{OLD}", "A", 3 * gib, 1400 << 20), ("sda4", f"B-{NEW}", "B", 3 * gib, None),
        ("sda5", "rescue", "rescue", gib, 420 << 20), ("sda6", "data", "data", 20 * gib, 6 * gib),
    ]  # fmt: skip
    return Status(
        report=report, hostname="box", boot_id=boot_id, uptime=3600.0, mode="slot",
        confirm_mode="auto", deadline=None, rebooting=False, data_free=14 * gib, version="0.1.0",
        partitions=[
            PartitionView(name=name, label=label, role=role, size=size, used=used)
            for name, label, role, size, used in parts
        ],
    )  # fmt: skip


def _swap(report: dict[str, Any]) -> None:
    """Slot B is the one that runs and is good."""
    report["booted"] |= {"slot": "B", "release": NEW, "commit": COMMITS[NEW]}
    report["slots"]["A"] |= {"booted": False}
    report["slots"]["B"] |= {"booted": True, "good": True, "confirmed": NOW}
    report["boot"] |= {"slot": "B", "good": "B"}


def _install(outcome: str, cause: str | None = None) -> dict[str, Any]:
    return {
        "release": NEW, "slot": "B", "outcome": outcome, "cause": cause, "started": NOW - 600,
        "rearmed": False,
    }  # fmt: skip


def _ok(_engine: FakeEngine) -> None:
    """Slot A runs and is confirmed."""


def _armed(engine: FakeEngine) -> None:
    report = engine.now.report
    report["boot"] |= {"trial": "B", "ustate": 1, "ustate_text": "INSTALLED", "countdown": 3}
    report["last_install"] = _install("installed, on trial")


def _on_trial(engine: FakeEngine) -> None:
    _armed(engine)
    report = engine.now.report
    _swap(report)
    report["booted"] |= {"how": "trial", "text": "on trial, not yet confirmed"}
    report["slots"]["B"] |= {"good": False, "confirmed": None}
    report["boot"] |= {"good": "A", "countdown": 2}
    engine.change(deadline=720.0, uptime=30.0)


def _manual(engine: FakeEngine) -> None:
    _on_trial(engine)
    engine.change(confirm_mode="manual", deadline=86_000.0)


def _fallback(engine: FakeEngine) -> None:
    report = engine.now.report
    cause = "The required check 'network' failed: no default route."
    report["booted"] |= {"how": "fallback", "text": "GRUB returned to it after a failed trial"}
    report["boot"] |= {"ustate": 3, "ustate_text": "FAILED", "failed": "B"}
    report["last_install"] = _install("fallback", cause)
    report["failed"] = [NEW]
    engine.why_now = {
        "schema_version": 1, "event": "fallback", "time": NOW - 60, "release": NEW,
        "commit": COMMITS[NEW], "slot": "B", "cause": cause, "installed": NOW - 600,
        "boots": [
            {"time": NOW - 300, "boot_id": "2" * 32, "verdict": "unhealthy", "log": ["no route"]}
        ],
        "booted": "A", "running": OLD, "failed": True, "rearmed": False, "open": True,
    }  # fmt: skip


def _rescue(engine: FakeEngine) -> None:
    report = engine.now.report
    report["booted"] |= {"slot": "R", "how": "rescue", "text": "neither slot could be booted"}
    report["slots"]["A"] |= {"booted": False, "good": False, "state": "unfinished"}
    report["boot"] |= {"good": "", "failed": "B"}
    report["problems"] = ["Neither slot is fit to boot."]
    engine.change(mode="rescue")


def _busy(engine: FakeEngine) -> None:
    job = Job(
        id="20260921-000000", kind="install", wish={"kind": "install"}, state="running",
        started=NOW - 20, step="write", events=0, release=NEW,
    )  # fmt: skip
    engine._jobs[job.id], engine._events[job.id] = job, []


def _failed(engine: FakeEngine) -> None:
    engine.health_now = _health(False)
    engine.now.report["last_install"] = _install("unfinished", "There was no space left.")
    engine.now.report["slots"]["B"] |= {"state": "unfinished"}
    engine.now.report["problems"] = [
        "A copy of the boot state is damaged; `abupdate doctor --repair` mends it."
    ]


_SCENES: dict[Scene, Callable[[FakeEngine], None]] = {
    "ok": _ok, "armed": _armed, "on-trial": _on_trial, "manual": _manual, "fallback": _fallback,
    "rescue": _rescue, "busy": _busy, "failed": _failed, "gone": _ok,
}  # fmt: skip


def _health(healthy: bool) -> Health:
    checks = [
        {"name": name, "required": name != "clock", "passed": passed, "reason": reason,
         "seconds": 0.1, "output": ""}
        for name, passed, reason in (
            ("failed-units", True, "ok"),
            ("network", healthy, "ok" if healthy else "no default route"),
            ("clock", True, "ok"),
        )
    ]  # fmt: skip
    return Health(time=NOW, healthy=healthy, checks=checks)


def _history() -> list[HistoryItem]:
    return [
        HistoryItem(event="confirmed", time=NOW - 8e6, release=OLD, slot="A"),
        HistoryItem(
            event="installed", time=NOW - 8.001e6, release=OLD, slot="A",
            detail={"seconds": 74.2, "written": 251_658_240, "files": 1874},
        ),
    ]  # fmt: skip
