"""Every page in each of its main states, named: what is tested, looked at and pictured."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from abupdate.engine.contract import Inspect, Install, Job, Wish
from tests.web import stories
from tests.web.fake_engine import NOW, Scene
from tests.web.live_server import LiveServer, until

Prepare = Callable[[LiveServer], str]
BUNDLE = "acme-box-1.5.0.bundle"


@dataclass(frozen=True)
class State:
    """A page in a state. `prepare` brings a server there, and gives the path to look at.

    `says`: its caption. `reads`: a pattern of its first heading. `status`: HTTP's. `by_hand`: a
    person does more at the page, by tests/browser/scenes.py.
    """

    name: str
    says: str
    prepare: Prepare
    reads: str
    login: bool = True
    status: int = 200
    by_hand: bool = False


def scene(name: Scene, path: str) -> Prepare:
    """A page of a device that stands like this."""

    def prepare(server: LiveServer) -> str:
        def change() -> None:
            server.engine.set_scene(name)
            stories.remember(server.engine)

        server.do(change)
        return path

    return prepare


def job_of(server: LiveServer, job_id: str) -> Job:
    """A job, as the API tells it."""
    with server.script() as client:
        return Job.model_validate(client.get(f"/api/v1/jobs/{job_id}").raise_for_status().json())


def whole_upload(server: LiveServer, name: str = BUNDLE) -> str:
    """The id of a bundle that came whole."""
    with server.script() as client:
        told = client.put("/api/v1/bundle", params={"name": name}, content=b"x" * 5000)
        return str(told.raise_for_status().json()["id"])


def part_upload(server: LiveServer, size: int = 48 << 20, here: int = 3 << 20) -> str:
    """The id of a bundle of which `here` of `size` bytes came, an hour ago."""
    with server.script() as client:
        wanted = {"size": size, "name": BUNDLE, "sha256": None}
        made = client.post("/api/v1/uploads", json=wanted).raise_for_status().json()["id"]
        # The request is cut, as by a cable.
        server.talk(
            f"PUT /api/v1/uploads/{made} HTTP/1.1\r\nHost: {server.host}\r\n"
            f"Authorization: Bearer {server.token}\r\nUpload-Offset: 0\r\n"
            f"Content-Length: {size}\r\n\r\n".encode() + bytes(here),
            wait=False,
        )  # fmt: skip
        until(lambda: client.get(f"/api/v1/uploads/{made}").json()["offset"] == here)
    path = server.context.uploads.folder / f"{made}.part"
    os.utime(path, (NOW - 3600, NOW - 3600))
    return str(made)


def begin(server: LiveServer, wish: Wish) -> str:
    """Start a job, and give its id."""
    with server.script() as client:
        told = client.post("/api/v1/jobs", json=wish.model_dump(mode="json"))
        return str(told.raise_for_status().json()["id"])


def _proposal(**found: Any) -> Prepare:
    """What a bundle would do; `found` differs from what `info --json` says otherwise."""

    def prepare(server: LiveServer) -> str:
        scene("ok", "/")(server)
        server.engine.info |= found
        job = begin(server, Inspect(kind="inspect", upload=whole_upload(server)))
        until(lambda: job_of(server, job).state == "done")
        return f"/jobs/{job}"

    return prepare


def _refused(text: str) -> Prepare:
    unknown = dict.fromkeys(("write", "write_files", "kept", "removed"))
    return _proposal(release="1.3.9", refused=text, exit_code=7, **unknown)


def _install(
    path: str | None = None, *, pause_at: str | None = None, fail_at: str | None = None,
    cancel: bool = False,
) -> Prepare:  # fmt: skip
    """An install that runs, ended or failed; the page is its own, or `path`."""

    def prepare(server: LiveServer) -> str:
        scene("ok", "/")(server)
        server.engine.pause_at, server.engine.fail_at = pause_at, fail_at
        job = begin(server, Install(kind="install", upload=whole_upload(server)))

        def there() -> bool:
            now = job_of(server, job)
            if pause_at is None:
                return now.state != "running"
            told = now.progress or {}
            return told.get("step") == pause_at and told["done"] * 2 == told["total"]

        until(there)
        if cancel:
            with server.script() as client:
                client.delete(f"/api/v1/jobs/{job}").raise_for_status()
        return path or f"/jobs/{job}"

    return prepare


def _lost(server: LiveServer) -> str:
    path = _install(pause_at="write", cancel=True)(server)
    told = "Its process ended without a word, as by a power cut."
    name = path.rpartition("/")[2]
    changed = {"state": "lost", "message": told, "exit_code": None}
    jobs = server.engine._jobs
    server.do(lambda: jobs.update({name: jobs[name].model_copy(update=changed)}))
    return path


def _sent_in_part(server: LiveServer) -> str:
    scene("ok", "/")(server)
    part_upload(server)
    return "/update"


def _looked_into(server: LiveServer) -> str:
    _proposal()(server)
    return "/update"


def _restarting(server: LiveServer) -> str:
    scene("armed", "/")(server)
    server.do(lambda: server.engine.change(rebooting=True))
    return f"/trial?boot={server.engine.now.boot_id}&slot=B"


def trial(name: Scene) -> Prepare:
    """The page that waited for a restart, after it."""

    def prepare(server: LiveServer) -> str:
        before = server.engine.now.boot_id
        server.do(lambda: server.engine.boot_into(name))
        server.do(lambda: stories.remember(server.engine))
        return f"/trial?boot={before}&slot=B"

    return prepare


def _confirmed(server: LiveServer) -> str:
    path = trial("on-trial")(server)
    with server.script() as client:
        client.post("/api/v1/confirm").raise_for_status()
    return path


STATES = (
    State("login", "One password, kept on the device.", lambda _: "/login", "Log in", login=False),
    State("login-wrong", "A wrong one is answered in words.", lambda _: "/login", "Log in",
          login=False, by_hand=True),
    State("setup", "The first password is set with the code that the console shows.",
          lambda _: "/setup", "Set a password", login=False),
    State("overview", "How things stand, and the disk as it is.", scene("ok", "/"),
          "Release 1.4.0 runs in slot A"),
    State("overview-armed", "Installed: GRUB tries it at the next boot.", scene("armed", "/"),
          "waits for a restart"),
    State("attention", "What is not as it should be.", scene("failed", "/"), "did not finish"),
    State("update", "Choose or drop a bundle, or take a release that is stored.",
          scene("ok", "/update"), "Update"),
    State("sending", "The network was lost in the middle; it goes on by itself.",
          scene("ok", "/update"), "Update", by_hand=True),
    State("update-cut", "A computer that was closed in the middle: the same file goes on there.",
          _sent_in_part, "Update"),
    State("proposal", "What a bundle is and would do, before anything is written.", _proposal(),
          "Release 1.5.0"),
    State("proposal-refused", "Why this device does not take a bundle.",
          _refused("Release 1.3.9 is older than 1.4.0, which runs."), "is refused here"),
    State("update-ready", "A bundle that was looked into is not forgotten.", _looked_into,
          "Update"),
    State("installing", "The steps of an install, with what is still to come.",
          _install(pause_at="write"), "Installing release 1.5.0"),
    State("update-busy", "One job at a time, and everybody sees which.",
          _install("/update", pause_at="verify"), "Update"),
    State("install-failed", "An install that was refused: the running system is as before.",
          _install(fail_at="trust"), "failed"),
    State("install-stopped", "A person stopped it.", _install(pause_at="write", cancel=True),
          "was stopped"),
    State("install-lost", "It ended without a word.", _lost, "without a word"),
    State("installed", "Installed, and not called a success: it waits for a restart.", _install(),
          "waits for a restart"),
    State("stored", "What installing a stored release would do.",
          scene("ok", "/update/release/1.5.0"), "release 1.5.0"),
    State("restarting", "The page waits for the device, and comes back by itself.", _restarting,
          "is restarting"),
    State("trial", "The trial: attempts left, and checks as they pass.", trial("on-trial"),
          "on trial"),
    State("trial-manual", "In manual mode a person confirms, or goes back.", trial("manual"),
          "on trial"),
    State("confirmed", "Success is said only now.", _confirmed, "is confirmed"),
    State("fallback", "A fallback is told first, with its cause.", scene("fallback", "/"),
          "was given up"),
    State("trial-fallback", "Who waited for the trial reads why it was given up.",
          trial("fallback"), "was given up"),
    State("history", "Every update with its figures.", scene("ok", "/history"), "History"),
    State("history-fallback", "The post-mortem: each boot, and what it said last.",
          scene("fallback", "/history"), "History"),
    State("log", "The log, and one file for those who help.", scene("ok", "/log"), "Log"),
    State("rescue", "In rescue: put slots back.", scene("rescue", "/rescue"), "Put slots back"),
    State("rescue-reset", "A factory reset names what is lost, and wants it typed.",
          scene("rescue", "/rescue"), "Put slots back", by_hand=True),
    State("rescue-overview", "The overview of a device that is in rescue.", scene("rescue", "/"),
          "in rescue"),
    State("rescue-from-slot", "From a slot: what rescue is for.", scene("ok", "/rescue"),
          "Rescue"),
    State("gone", "The update service does not answer.", scene("gone", "/"), "does not answer",
          status=503),
    State("nowhere", "There is no such page.", scene("ok", "/update/release/9.9"),
          "no such page", status=404),
    State("password", "Change the password.", scene("ok", "/password"), "Change the password"),
)  # fmt: skip
