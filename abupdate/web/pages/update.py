"""The page of updates: a bundle is sent and looked into, or a release of the store is chosen."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from abupdate.engine.contract import EngineError, Inspect, Job, StoredRelease
from abupdate.errors import ExitCode
from abupdate.web.context import context_of
from abupdate.web.pages.multipart import MultipartError, one_file
from abupdate.web.pages.render import error_page
from abupdate.web.pages.shell import (
    RefusedError,
    Shell,
    check_csrf,
    engine_of,
    form_of,
    look,
    page,
)
from abupdate.web.pages.views.situation import Kind, job_title
from abupdate.web.pages.views.words import commit, place, when
from abupdate.web.uploads import Upload, UploadError

_MOVING = 15.0  # seconds since the last byte in which an upload counts as moving


@page
async def update(request: Request) -> Response:
    """Choose what to install."""
    shell = await look(request)
    releases = stored(await engine_of(request).releases(), shell)
    slot = "B" if shell.values["booted"] == "A" else "A"
    target = f"An update goes into slot {slot}." if shell.status.mode == "slot" else ""
    part = _part(request)
    return shell.render(
        "update.html", blocked=blocked(shell), releases=releases, target=target, part=part,
        ready=_ready(request, shell.jobs), max_upload=context_of(request).settings.max_upload,
        data_free=shell.status.data_free,
        refresh=shell.values["refresh"] or (2 if part and part["moving"] else None),
    )  # fmt: skip


def blocked(shell: Shell) -> dict[str, str] | None:
    """Why nothing can be installed now, if so."""
    if shell.running is not None:
        return {
            "title": "Another job runs", "text": f"{job_title(shell.running)}.",
            "href": f"/jobs/{shell.running.id}", "link": "Follow it",
        }  # fmt: skip
    if shell.now.kind == Kind.TRIAL:
        return {
            "title": "A release is on trial",
            "text": f"{shell.now.title}. Nothing is installed from inside a trial: it is "
            "confirmed or given up first.", "href": "/trial", "link": "Look at the trial",
        }  # fmt: skip
    if shell.now.kind in (Kind.FOREIGN, Kind.RESTARTING):
        text = " ".join(shell.now.text)
        return {"title": shell.now.title, "text": text, "href": "/", "link": "Overview"}
    return None


def stored(releases: list[StoredRelease], shell: Shell) -> list[dict[str, Any]]:
    """The store's releases. `ready`: the other slot holds it, good, so that nothing is written."""
    report = shell.report
    booted = report["booted"]
    ready = {
        slot["commit"]
        for name, slot in report["slots"].items()
        if slot["good"] and slot["state"] == "complete" and name != booted["slot"]
    }
    return [
        {
            **one.model_dump(), "runs": one.commit is not None and one.commit == booted["commit"],
            "ready": one.commit in ready and (report["boot"] or {}).get("ustate") != 1,
            "failed": one.release in report["failed"],
        }
        for one in releases
    ]  # fmt: skip


def _part(request: Request) -> dict[str, Any] | None:
    """The upload that is not whole yet, if there is one."""
    context = context_of(request)
    found: Upload | None = next((one for one in context.uploads.all() if not one.complete), None)
    if found is None:
        return None
    path = context.uploads.folder / f"{found.id}.part"
    try:
        # A time to come is that of another clock, before this one was set.
        moving = 0 <= context.clock() - path.stat().st_mtime < _MOVING
    except OSError:
        moving = False
    return {
        "id": found.id, "name": found.name, "size": found.size, "offset": found.offset,
        "moving": moving,
    }  # fmt: skip


def _ready(request: Request, jobs: list[Job]) -> list[Job]:
    """Bundles that were looked into, would be taken, and are still here; one job for each."""
    here = {one.id for one in context_of(request).uploads.all() if one.complete}
    tried = {job.wish.get("upload") for job in jobs if job.kind == "install"}
    found: dict[str, Job] = {}
    for job in jobs:
        upload = job.wish.get("upload")
        if (
            job.kind == "inspect" and job.state == "done" and job.result
            and upload in here - tried and not job.result.get("refused")
        ):  # fmt: skip
            found.setdefault(str(upload), job)
    return list(found.values())


@page
async def release(request: Request) -> Response:
    """What installing a release of the store would do, before it is done."""
    shell = await look(request)
    name = request.path_params["version"]
    one = next(
        (one for one in stored(await engine_of(request).releases(), shell)
         if one["release"] == name), None,
    )  # fmt: skip
    if one is None:
        return error_page(request, 404, f"Release {name} is not in this device's store.")
    booted = shell.values["booted"]
    slot = "B" if booted == "A" else "A"
    there = shell.report["slots"].get(slot, {})
    warnings = []
    if there.get("commit") == one["commit"] and not one["ready"]:
        warnings.append(f"Slot {slot} holds it already, and is not confirmed.")
    elif not one["ready"] and there.get("release") and there["state"] == "complete":
        warnings.append(f"Release {there['release']} in slot {slot} is replaced.")
    if blocking := blocked(shell):
        warnings.append(f"{blocking['title']}: {blocking['text']}")
    tries = (shell.report["boot"] or {}).get("tries", 3)
    first = (
        f"Slot {slot} holds it, complete: nothing is written."
        if one["ready"]
        else f"It is written into slot {slot} and read back; {place(booted)} is not touched."
    )
    plan = [
        first, f"At the restart GRUB tries it, {tries} times at most.",
        "It stays when you confirm it." if shell.status.confirm_mode == "manual"
        else "It stays when its health checks pass.",
        f"Otherwise the device goes back to {place(booted)} by itself.",
    ]  # fmt: skip
    facts = [
        ("Commit", commit(one["commit"])),
        ("Signed", when(one["signed"]) if one["signed"] else "unknown"),
        ("Kept for", ", ".join(one["kept_by"]) or "nothing"),
    ]
    return shell.render(
        "release.html", one=one, slot=slot, facts=facts, plan=plan, warnings=warnings,
        may=shell.status.mode != "foreign" and not (blocking and shell.running is None)
        and not request.state.read_only,
    )  # fmt: skip


@page
async def upload(request: Request) -> Response:
    """Take a bundle from a form, and look into it."""
    uploads = context_of(request).uploads
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise RefusedError(411, "The form should say its length (Content-Length).")
    try:
        form = await one_file(
            request.headers.get("content-type", ""), int(length), request.stream()
        )
        check_csrf(request, form.fields.get("csrf"))
        if not form.name or not form.size:
            raise RefusedError(400, "No file was chosen, or it is empty.")
        made = uploads.create(form.size, None, form.name)
        try:
            made = await uploads.write(made.id, 0, form.body)
        finally:
            if not made.complete:  # a form cannot be gone on with
                uploads.drop(made.id)
    except MultipartError as error:
        raise RefusedError(400, str(error)) from error
    except UploadError as error:
        raise RefusedError(error.status, error.message, error.hint) from error
    if not made.complete:
        raise RefusedError(400, "The file came in part only.", "Send it again.")
    try:
        job = await engine_of(request).start(Inspect(kind="inspect", upload=made.id))
    except EngineError as error:
        if error.code != ExitCode.BUSY:
            raise
        raise RefusedError(409, error.message, "The bundle is kept: look into it later.") from error
    return RedirectResponse(f"/jobs/{job.id}", 303)


@page
async def drop(request: Request) -> Response:
    """Remove an upload, whole or not."""
    form = await form_of(request)
    try:
        context_of(request).uploads.drop(str(form.get("upload", "")))
    except UploadError as error:
        if error.status != 404:
            raise RefusedError(error.status, error.message, error.hint) from error
    return RedirectResponse("/update", 303)
