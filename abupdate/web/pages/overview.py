"""The first page: how things stand."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from abupdate.engine.contract import Status
from abupdate.web.pages.shell import engine_of, look, page, soon
from abupdate.web.pages.views.disk import picture, places
from abupdate.web.pages.views.situation import next_boot
from abupdate.web.pages.views.words import duration, place


@page
async def overview(request: Request) -> Response:
    """How things stand: headline, disk, slots, health, boot state."""
    shell = await look(request, banner=False)
    engine = engine_of(request)
    health = await soon(request, "health", engine.health)
    checks = sorted(health.checks, key=lambda one: bool(one.get("passed"))) if health else []
    report = shell.report
    return shell.render(
        "overview.html", parts_of_disk=picture(shell.status), places=places(report),
        problems=report["problems"], health=health, checks=checks, etc=report["etc"],
        boot_facts=boot_facts(shell.status), rescue_ready=report["rescue"] == "ready",
        refresh=shell.values["refresh"] or (2 if health is None else 10),
    )  # fmt: skip


def boot_facts(status: Status) -> list[tuple[str, str]]:
    """The boot state in rows."""
    report = status.report
    boot = report["boot"]
    facts: list[tuple[str, str]] = [("Up for", duration(status.uptime))]
    after = next_boot(report)
    facts.append(("Next boot", place(after) if after else "nobody knows"))
    if boot is None:
        return [*facts, ("State", "cannot be read")]
    full = boot["tries"] if boot["ustate"] == 1 else boot["limit"]
    facts += [
        ("State", f"{boot['ustate_text']} (ustate {boot['ustate']})"),
        ("Countdown", f"{boot['countdown']} of {full} boots left"),
    ]
    facts += _rules(report.get("rules"))
    if report["failed"]:
        facts.append(("Given up", f"{', '.join(report['failed'])}: not tried again by itself"))
    return facts


def _rules(rules: dict[str, Any] | None) -> list[tuple[str, str]]:
    if rules is None:
        return []
    text = str(rules["number"])
    if rules["next"] is not None:
        text += "; GRUB tries newer ones at the next boot"
    if rules["failed"] is not None:
        text += f"; the release's own ({rules['failed']}) failed"
    return [("Boot rules", text)]
