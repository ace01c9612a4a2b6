"""Every page in each of its main states: named, so that pictures and tests look at the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from abupdate.engine.contract import Inspect, Install, Job, Wish
from tests.browser import memories
from tests.web.fake_engine import NOW, Scene
from tests.web.live_server import LiveServer

Prepare = Callable[[LiveServer], str]
UPLOAD = "a1b2c3d4e5f6a7b8"


@dataclass(frozen=True)
class State:
    """A page in a state. `prepare` brings a server there, and gives the path to look at.

    `says`: what a person reads in a sentence. `waits`: a selector that is there once it is whole.
    `dark`: its pictures are of a screen at night.
    """

    name: str
    says: str
    prepare: Prepare
    login: bool = True
    waits: str = "h1"
    dark: bool = False


def scene(name: Scene, path: str) -> Prepare:
    """A page of a device that stands like this."""

    def prepare(server: LiveServer) -> str:
        def change() -> None:
            server.engine.set_scene(name)
            memories.remember(server.engine)

        server.do(change)
        return path

    return prepare


def wait_job(server: LiveServer, job_id: str, ready: Callable[[Job], bool]) -> Job:
    """Wait until a job is as wanted."""
    with server.script() as client:
        while True:
            job = Job.model_validate(client.get(f"/api/v1/jobs/{job_id}").raise_for_status().json())
            if ready(job):
                return job


def whole_upload(server: LiveServer, name: str = "acme-box-1.5.0.bundle") -> str:
    """A bundle that came whole."""
    with server.script() as client:
        told = client.put("/api/v1/bundle", params={"name": name}, content=b"x" * 5000)
        return str(told.raise_for_status().json()["id"])


def part_upload(server: LiveServer, name: str = "acme-box-1.5.0.bundle") -> str:
    """A bundle of which a part is here, since a while."""
    with server.script() as client:
        wanted = {"size": 48 << 20, "name": name, "sha256": None}
        made = client.post("/api/v1/uploads", json=wanted).raise_for_status().json()
        # The request is cut, like a cable.
        server.talk(
            f"PUT /api/v1/uploads/{made['id']} HTTP/1.1\r\nHost: {server.host}\r\n"
            f"Authorization: Bearer {server.token}\r\nUpload-Offset: 0\r\n"
            f"Content-Length: {48 << 20}\r\n\r\n".encode() + bytes(3 << 20),
            wait=False,
        )  # fmt: skip
        while client.get(f"/api/v1/uploads/{made['id']}").json()["offset"] < 3 << 20:
            pass
    path = server.context.uploads.folder / f"{made['id']}.part"
    os.utime(path, (NOW - 3600, NOW - 3600))
    return str(made["id"])


def begin(server: LiveServer, wish: Wish) -> str:
    """Start a job."""
    with server.script() as client:
        told = client.post("/api/v1/jobs", json=wish.model_dump(mode="json"))
        return str(told.raise_for_status().json()["id"])


def proposal(refused: str | None = None, code: int = 0) -> Prepare:
    """What a bundle would do."""

    def prepare(server: LiveServer) -> str:
        scene("ok", "/")(server)
        server.engine.info |= {"refused": refused, "exit_code": code}
        if refused:
            server.engine.info |= dict.fromkeys(("write", "write_files", "kept", "removed"))
        job = begin(server, Inspect(kind="inspect", upload=whole_upload(server)))
        wait_job(server, job, lambda one: one.state == "done")
        return f"/jobs/{job}"

    return prepare


def _half(job: Job) -> bool:
    """Whether it is in the middle of a step, as one that was told to pause comes to be."""
    progress = job.progress or {}
    return bool(progress.get("done")) and progress["done"] * 2 == progress["total"]


def install(*, pause_at: str | None = None, fail_at: str | None = None) -> Prepare:
    """An install that runs, ended, or failed."""

    def prepare(server: LiveServer) -> str:
        scene("ok", "/")(server)
        server.engine.pause_at, server.engine.fail_at = pause_at, fail_at
        job = begin(server, Install(kind="install", upload=whole_upload(server)))
        wait_job(server, job, lambda one: _half(one) if pause_at else one.state != "running")
        return f"/jobs/{job}"

    return prepare


def sent_in_part(server: LiveServer) -> str:
    """An upload waits to go on."""
    scene("ok", "/")(server)
    part_upload(server)
    return "/update"


def restarting(server: LiveServer) -> str:
    """The restart was asked for."""
    scene("armed", "/")(server)
    server.do(lambda: server.engine.change(rebooting=True))
    return f"/trial?boot={server.engine.now.boot_id}&slot=B"


def trial(name: Scene) -> Prepare:
    """The page that came back in the trial."""

    def prepare(server: LiveServer) -> str:
        before = server.engine.now.boot_id
        server.do(lambda: server.engine.boot_into(name))
        server.do(lambda: memories.remember(server.engine))
        return f"/trial?boot={before}&slot=B"

    return prepare


def confirmed(server: LiveServer) -> str:
    """The trial is over, and its release stays."""
    path = trial("on-trial")(server)
    with server.script() as client:
        client.post("/api/v1/confirm").raise_for_status()
    return path


STATES = (
    State("setup", "The first password, with the code that the device shows.",
          lambda _: "/setup?code=K7WQ-3MHT-9PXC", login=False),
    State("login", "One password, kept on the device.", lambda _: "/login", login=False),
    State("overview", "How things stand, and the disk as it is.", scene("ok", "/")),
    State("overview-armed", "What is installed waits for a restart.", scene("armed", "/")),
    State("update", "Choose or drop a bundle, or go back to a release that is stored.",
          scene("ok", "/update")),
    State("update-cut", "An upload that was cut waits to go on where it stopped.", sent_in_part),
    State("proposal", "What a bundle is and would do, before anything is written.", proposal()),
    State("proposal-refused", "Why this device does not take a bundle.",
          proposal("Release 1.3.9 is older than 1.4.0, which runs.", 7)),
    State("update-busy", "One job at a time: where another one is.", scene("busy", "/update")),
    State("installing", "The steps of an install, with progress.", install(pause_at="write"),
          dark=True),
    State("install-failed", "An install that was refused: the running system is as before.",
          install(fail_at="trust")),
    State("installed", "Installed, and not called a success: it waits for a restart.", install()),
    State("stored", "What going back to a stored release would do.",
          scene("ok", "/update/release/1.5.0")),
    State("restarting", "The page waits for the device, and comes back by itself.", restarting),
    State("trial", "The trial: attempts left, and checks as they pass.", trial("on-trial")),
    State("trial-manual", "In manual mode a person confirms, or goes back.", trial("manual")),
    State("confirmed", "Success is said only now.", confirmed),
    State("fallback", "A fallback is told first, with its cause.", scene("fallback", "/")),
    State("trial-fallback", "Who waited for the trial reads why it was given up.",
          trial("fallback")),
    State("history", "Every update with its figures.", scene("ok", "/history")),
    State("history-fallback", "The post-mortem: each boot, and what it said last.",
          scene("fallback", "/history")),
    State("log", "The log, and one file for those who help.", scene("ok", "/log")),
    State("attention", "What is not as it should be.", scene("failed", "/")),
    State("rescue", "In rescue: put slots back.", scene("rescue", "/rescue")),
    State("rescue-overview", "The overview of a device that is in rescue.", scene("rescue", "/")),
    State("gone", "The update service does not answer.", scene("gone", "/")),
    State("password", "Change the password.", scene("ok", "/password")),
)  # fmt: skip
