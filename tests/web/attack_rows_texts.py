"""Attacks by texts: of a release, a device or a request, where a page or a log displays them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx

from tests.web.attack_rows_load import own
from tests.web.attacks import TOKEN, Attack, Group, Place, request
from tests.web.live_server import LiveServer, until

_EVIL = "<img src=x onerror=alert(1)>\"'&\x1b[2J\u202e"
# What is one of a few words, and no text: the page goes by it.
_WORDS = {"slot", "how", "state", "trial", "good", "rescue", "failed", "outcome", "event"}
_PAGES = ("/", "/update", "/trial", "/history", "/rescue", "/update/release/1.4.0")


def _shown(path: str, put: Callable[[LiveServer], object]) -> Callable[[Place], str]:
    """Whether a page shows a text as what it is."""

    def act(_: Place) -> str:
        with own() as place, closing(place.server.logged_in()) as client:
            put(place.server)
            return _seen(client, path.replace("{job}", _inspected(place)))

    return act


def _seen(client: httpx.Client, path: str) -> str:
    found = client.get(path)
    assert found.status_code == 200, found.text
    if any(odd in found.text for odd in (_EVIL[:10], "\x1b", "\u202e")):
        return "taken for a part of the page"
    return "shown as text" if "&lt;img src=x onerror" in found.text else "not shown"


def _inspected(place: Place) -> str:
    """A job that has looked into an upload."""
    with place.server.script() as client:
        upload = client.put("/api/v1/bundle", content=b"x").json()["id"]
        job = client.post("/api/v1/jobs", json={"kind": "inspect", "upload": upload}).json()["id"]
        until(lambda: client.get(f"/api/v1/jobs/{job}").json()["state"] == "done")
        return str(job)


def _spoilt(told: Any, key: str = "") -> Any:
    """The same with markup behind each text in it."""
    if isinstance(told, dict):
        return {name: _spoilt(one, name) for name, one in told.items()}
    if isinstance(told, list):
        return [_spoilt(one, key) for one in told]
    return told + _EVIL if isinstance(told, str) and key not in _WORDS else told


def _set_all(server: LiveServer) -> None:
    """All that the device tells, after a fallback; and an upload's name."""
    engine = server.engine

    def change() -> None:
        engine.set_scene("fallback")
        engine.change(
            report=_spoilt(engine.now.report), hostname=_EVIL, version=_EVIL,
            partitions=[one.model_copy(update={"label": _EVIL}) for one in engine.now.partitions],
        )  # fmt: skip
        engine.history_now = [
            one.model_copy(update={"release": _EVIL, "detail": _spoilt(one.detail)})
            for one in engine.history_now
        ]
        engine.why_now, engine.info = _spoilt(engine.why_now), _spoilt(engine.info)
        engine.health_now = engine.health_now.model_copy(
            update={"checks": _spoilt(engine.health_now.checks)}
        )
        engine.releases_now = [
            one.model_copy(update={"kept_by": [_EVIL]}) for one in engine.releases_now
        ]

    server.do(change)
    with server.script() as client:
        client.post("/api/v1/uploads", json={"size": 5, "name": _EVIL[:28]}).raise_for_status()


def _everywhere(_: Place) -> str:
    with own() as place, closing(place.server.logged_in()) as client:
        _set_all(place.server)
        found = {_seen(client, path) for path in _PAGES}
        place.server.do(lambda: _drop_all(place.server))
        found.add(_seen(client, f"/jobs/{_inspected(place)}"))
        assert len(found) == 1, found
        return found.pop()


def _drop_all(server: LiveServer) -> None:
    for one in server.context.uploads.all():
        server.context.uploads.drop(one.id)


def _forged(place: Place) -> str:
    """A path with a line's end and an escape, in what is written down of the attempt."""
    place.send(request('POST /what%0a{"who":"owner"}%1b[2J', TOKEN))
    audit = place.server.context.state / "audit.jsonl"
    *_, last = audit.read_text(encoding="ascii").splitlines()
    told = json.loads(last)
    assert told["who"] != "owner" and told["action"].startswith("POST /what\n")
    return "one line of JSON" if last.isprintable() else "steers a terminal"


def _set_info(key: str) -> Callable[[LiveServer], None]:
    return lambda server: server.engine.info.update({key: _EVIL})


def _set_history(server: LiveServer) -> None:
    first = server.engine.history_now[0]
    server.engine.history_now = [first.model_copy(update={"release": _EVIL})]


def _set_log(server: LiveServer) -> None:
    server.engine.log_now = [_EVIL]


TEXTS = Group(
    "Texts that others display",
    (
        *(
            Attack(f"HTML as the {name} of a signed bundle", "shown as text",
                   _shown("/jobs/{job}",
                          _set_info(key)))
            for name, key in (("version", "release"), ("product", "compatible"),
                              ("signer", "signer"), ("release that it needs", "min_from"))
        ),
        Attack("HTML as a release in the history", "shown as text",
               _shown("/history", _set_history)),
        Attack("HTML in the log", "shown as text", _shown("/log", _set_log)),
        Attack("HTML in all that a device tells, on each of its pages", "shown as text",
               _everywhere, "an escape and a turn of the writing too, as `\\x1b`, `\\u202e`"),
        Attack("a line break and an escape in a path", "one line of JSON", _forged,
               "in the audit log, under the name of who asked"),
    ),
)  # fmt: skip

GROUPS = (TEXTS,)
