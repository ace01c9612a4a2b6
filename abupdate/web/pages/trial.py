"""The page of a trial, and what a person can say to the device with one button."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from abupdate.engine.contract import EngineError
from abupdate.errors import ExitCode
from abupdate.web.pages.render import error_page
from abupdate.web.pages.shell import engine_of, form_of, look, page, soon
from abupdate.web.pages.views.situation import Kind, next_boot
from abupdate.web.pages.views.story import story
from abupdate.web.pages.views.trial import Asked, trial_view


@page
async def trial(request: Request) -> Response:
    """From the restart to the end of a trial."""
    shell = await look(request, banner=False)
    engine = engine_of(request)
    asked = Asked.parse(request.query_params.get("boot"), request.query_params.get("slot"))
    health = None
    if shell.now.kind == Kind.TRIAL:
        health = await soon(request, "health", engine.health)
    view = trial_view(shell.status, health, asked)
    why = await engine.why() if view.phase == "over" else None
    return shell.render(
        "trial.html", view=view, story=story(why), says=view.title,
        refresh=2 if view.live else None,
    )  # fmt: skip


@page
async def act(request: Request) -> Response:
    """Confirm, reject, acknowledge, arm or restart; and to where that is told."""
    await form_of(request)
    engine = engine_of(request)
    what = request.path_params["what"]
    then = "/trial"
    match what:
        case "confirm":
            await engine.confirm()
        case "reject":
            await engine.reject()
        case "acknowledge":
            await engine.acknowledge()
            then = "/"
        case "arm":
            await engine.arm()
        case "reboot" | "rescue":
            pass
        case _:
            return error_page(request, 404, "There is no such button.")
    if what in ("reject", "reboot", "rescue"):
        return await _restart(request, what)
    return RedirectResponse(then, 303)


async def _restart(request: Request, what: str) -> Response:
    """Restart, and wait on the page that knows the boot before and the slot to come."""
    engine = engine_of(request)
    before = await engine.status()
    slot = "R" if what == "rescue" else next_boot(before.report)
    try:
        await engine.reboot("rescue" if what == "rescue" else "")
    except EngineError as error:
        # It may go down with the rest before it has answered: the page of the trial tells.
        if error.code != ExitCode.DEVICE_FAULT:
            raise
    return RedirectResponse(f"/trial?boot={before.boot_id}&slot={slot}", 303)
