"""A job: begun by a form, followed on its own page, found again by everybody."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from abupdate.engine.contract import EngineError, Wish
from abupdate.errors import ExitCode
from abupdate.web.context import context_of
from abupdate.web.pages.render import error_page
from abupdate.web.pages.shell import RefusedError, engine_of, form_of, look, memory_of, page
from abupdate.web.pages.views.job import WRITERS, job_view
from abupdate.web.pages.views.proposal import proposal
from abupdate.web.pages.views.situation import Kind
from abupdate.web.pages.views.steps import overall
from abupdate.web.pages.views.story import figures

RESET_WORDS = "erase what is mine"
_WISH: TypeAdapter[Any] = TypeAdapter(Wish)
_TICKS = ("allow_downgrade", "retry_failed")


@page
async def jobs(request: Request) -> Response:
    """The job that runs, or where one begins."""
    shell = await look(request)
    found = shell.running or next(iter(shell.jobs), None)
    return RedirectResponse(f"/jobs/{found.id}" if found else "/update", 303)


@page
async def start(request: Request) -> Response:
    """Begin a job from a form."""
    wish = wish_of(await form_of(request))
    try:
        job = await engine_of(request).start(wish)
    except EngineError as error:
        if error.code != ExitCode.BUSY:
            raise
        more = {"back": "/jobs", "link": "Follow it"}
        return error_page(request, 409, error.message, error.hint, **more)
    return RedirectResponse(f"/jobs/{job.id}", 303)


def wish_of(form: FormData) -> Any:
    """What a form asks for. Raises `RefusedError` where it makes no sense."""
    text = {name: str(value) for name, value in form.items() if isinstance(value, str)}
    kind = text.get("kind", "")
    wish: dict[str, Any] = {"kind": kind}
    source, _, name = text.get("source", "").partition(":")
    if source in ("release", "upload"):
        text[source] = name
    wish |= {key: text[key] for key in ("upload", "release", "slots") if text.get(key)}
    allowed = {
        "inspect": _TICKS, "install": _TICKS, "reflash": ("retry_failed",),
        "rescue-update": ("allow_downgrade",),
    }.get(kind, ())  # fmt: skip
    wish |= {tick: True for tick in allowed if text.get(tick) == "1"}
    if kind == "reflash" and text.get("words", "").strip():
        if " ".join(text["words"].lower().split()) != RESET_WORDS:
            raise RefusedError(
                400, f"For a factory reset the words '{RESET_WORDS}' are expected.",
                "Nothing was begun. Type them, or leave the field empty.",
            )  # fmt: skip
        wish["factory_reset"] = True
    try:
        return _WISH.validate_python(wish)
    except ValidationError as error:
        where = ", ".join(str(part) for part in error.errors()[0]["loc"])
        raise RefusedError(400, f"The form is not complete: {where or 'kind'}.") from error


@page
async def job(request: Request) -> Response:
    """One job."""
    shell = await look(request)
    engine = engine_of(request)
    one = await engine.job(request.path_params["job"])
    folded = await memory_of(request).folding.of(engine, one)
    plan = None
    if one.kind == "inspect" and one.state == "done" and one.result:
        plan = proposal(one.result, shell.status)
    writers = [other.id for other in shell.jobs if other.kind in WRITERS]
    latest = not writers or writers[0] == one.id
    view = job_view(one, shell.status, shell.now, plan, latest=latest)
    runs = one.state == "running"
    # Its headline tells the state already.
    told = view.title == shell.now.title or runs
    return shell.render(
        "job.html", job=one, title=view.title, tone=view.tone, text=view.text, next=view.next,
        plan=plan, steps=(steps := folded.shown(one)), lines=folded.lines,
        percent=overall(steps) if runs else None, on_job=True, result=_result(one.result, plan),
        upload_here=_here(request, one.wish.get("upload")),
        installable=shell.running is None and shell.now.kind not in (Kind.TRIAL, Kind.FOREIGN),
        banner=None if told else shell.values["banner"], says=_says(view.title, steps),
        stream=f"/api/v1/jobs/{one.id}/events?after={folded.n}" if runs else "/api/v1/events",
        refresh=2 if runs else shell.values["refresh"],
    )  # fmt: skip


def _result(result: dict[str, Any] | None, plan: object) -> list[tuple[str, str]]:
    told = figures(result) if result and plan is None else []
    return [("It took", ", ".join(told))] if told else []


def _says(title: str, steps: list[Any]) -> str:
    """What a screen reader is told when it changes: steps, not figures."""
    step = next((step for step in steps if step.state == "running"), None)
    return f"{title} {step.text}" if step is not None else title


def _here(request: Request, upload: str | None) -> bool:
    return any(one.id == upload and one.complete for one in context_of(request).uploads.all())


@page
async def cancel(request: Request) -> Response:
    """Stop a job."""
    await form_of(request)
    stopped = await engine_of(request).cancel(request.path_params["job"])
    return RedirectResponse(f"/jobs/{stopped.id}", 303)
