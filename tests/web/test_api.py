"""Each call of the API, against the real server over the engine in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from abupdate.engine.contract import EngineError, HistoryItem
from abupdate.errors import ExitCode
from abupdate.web.limits import Limits
from tests.web.fake_engine import COMMITS, NEW, NOW, OLD, STEPS, FakeEngine
from tests.web.live_server import LiveServer, until

UPLOAD = "0123456789abcdef"
INSTALL = {"kind": "install", "upload": UPLOAD}


class Events:
    """A stream of events that is read one by one; `close` leaves it."""

    def __init__(self, client: httpx.Client, url: str, **headers: str) -> None:
        self._context = client.stream("GET", url, headers=headers)
        self.answer = self._context.__enter__()
        assert self.answer.status_code == 200, self.answer.read()
        self._lines = self.answer.iter_lines()

    def next(self) -> tuple[str, Any, int | None] | None:
        """Kind, content and number of the next event; None at the end."""
        kind, data, number = "", None, None
        for line in self._lines:
            name, _, text = line.partition(": ")
            if name == "event":
                kind = text
            elif name == "data":
                data = json.loads(text)
            elif name == "id":
                number = int(text)
            elif not line and kind:
                return kind, data, number
        return None

    def all(self) -> list[tuple[str, Any, int | None]]:
        """All until it ends."""
        return list(iter(self.next, None))

    def close(self) -> None:
        self._context.__exit__(None, None, None)


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.script() as client:
        yield client


@pytest.fixture
def asking(lasting: LiveServer) -> Iterator[httpx.Client]:
    lasting.engine.calls.clear()
    with lasting.script() as client:
        yield client


def start(client: httpx.Client, **wish: Any) -> str:
    answer = client.post("/api/v1/jobs", json=wish or INSTALL)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/api/v1/jobs/{answer.json()['id']}"
    return str(answer.json()["id"])


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    found: dict[str, Any] = answer.json()
    assert found["status"] == answer.status_code
    return found


# What the device is


def test_what_the_device_is(server: LiveServer, client: httpx.Client) -> None:
    status = client.get("/api/v1/status").json()
    assert status["report"]["booted"]["release"] == OLD
    assert status["hostname"] == "box"
    health = client.get("/api/v1/health").json()
    assert (health["healthy"], len(health["checks"])) == (True, 3)
    history = client.get("/api/v1/history").json()
    assert [one["event"] for one in history] == ["confirmed", "installed"]
    assert len(client.get("/api/v1/history?limit=1").json()) == 1
    releases = client.get("/api/v1/releases").json()
    assert {one["release"]: one["commit"] for one in releases} == COMMITS
    assert client.get("/api/v1/why").json() == {"story": None}
    assert client.get("/api/v1/log?lines=1").json() == {"lines": server.engine.log_now[-1:]}
    server.do(lambda: server.engine.set_scene("fallback"))
    assert "no default route" in client.get("/api/v1/why").json()["story"]["cause"]


@pytest.mark.parametrize("path", ["history?limit=0", "history?limit=x", "history?limit=1001",
                                  "log?lines=-1", "log?lines=1e3", "log?lines=٣"])  # fmt: skip
def test_how_many_is_a_number_in_bounds(asking: httpx.Client, path: str) -> None:
    assert "should be a number from 1" in problem(asking.get(f"/api/v1/{path}"))["detail"]


def test_the_support_file(tmp_path: Path) -> None:
    file = tmp_path / "made.tar.gz"
    file.write_bytes(b"content")
    engine = FakeEngine(support=file)
    with LiveServer(tmp_path / "web", engine) as server, server.script() as client:
        answer = client.get("/api/v1/support")
        assert (answer.content, answer.headers["Content-Type"]) == (b"content", "application/gzip")
        assert 'filename="support-box.tar.gz"' in answer.headers["Content-Disposition"]
        assert "attachment" in answer.headers["Content-Disposition"]
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_support_file_that_is_gone_is_no_bug_of_ours(tmp_path: Path) -> None:
    engine = FakeEngine(support=tmp_path / "made.tar.gz")
    (tmp_path / "made.tar.gz").write_bytes(b"x")
    found = engine.support

    async def gone() -> Any:
        told = await found()
        (tmp_path / "made.tar.gz").unlink()
        return told

    engine.support = gone  # type: ignore[method-assign]
    with LiveServer(tmp_path / "web", engine) as server, server.script() as client:
        assert problem(client.get("/api/v1/support"))["status"] == 503


# Jobs


@pytest.mark.row("S45", "U11")
def test_a_job_from_its_wish_to_its_end(server: LiveServer, client: httpx.Client) -> None:
    name = start(client)
    told = Events(client, f"/api/v1/jobs/{name}/events").all()
    *steps, end = told
    assert [number for _, _, number in steps] == list(range(1, len(steps) + 1))
    assert {kind for kind, _, _ in steps} == {"job"}
    begun = [one["step"] for _, one, _ in steps if one["kind"] == "step-begin"]
    assert begun == [step for step, _, _ in STEPS["install"]]
    assert (end[0], end[1]["state"], end[1]["release"]) == ("end", "done", NEW)
    job = client.get(f"/api/v1/jobs/{name}").json()
    assert (job["state"], job["exit_code"], job["wish"]["upload"]) == ("done", 0, UPLOAD)
    # Not "installed" alone: success is said after the confirm.
    assert "on trial" in job["message"]
    assert [one["id"] for one in client.get("/api/v1/jobs").json()] == [name]
    assert server.engine.wishes[0].kind == "install"


@pytest.mark.row("U11")
def test_events_go_on_after_the_last_that_was_seen(
    server: LiveServer, client: httpx.Client
) -> None:
    server.engine.pause_at = "write"
    name = start(client)
    url = f"/api/v1/jobs/{name}/events"
    first = Events(client, url)
    seen = [first.next() for _ in range(5)]
    first.close()
    # A browser's way, a script's way, and who asks both is told by the header.
    by_header = Events(client, url, **{"Last-Event-ID": "5"})
    by_query = Events(client, f"{url}?after=5")
    both = Events(client, f"{url}?after=1", **{"Last-Event-ID": "5"})
    sixth = by_header.next()
    assert sixth is not None and sixth[2] == 6
    assert by_query.next() == both.next() == sixth
    server.do(server.engine.resume)
    rest = by_header.all()
    assert [one[2] for one in [*seen, sixth, *rest[:-1]] if one] == list(range(1, len(rest) + 6))
    assert by_query.all() == both.all() == rest
    assert Events(client, f"{url}?after={rest[-2][2]}").all() == rest[-1:]
    for told in ("x", "-1", "1" * 13, "٣"):
        assert problem(client.get(url, params={"after": told}))["status"] == 400


@pytest.mark.row("S45")
def test_one_job_at_a_time_and_its_end(server: LiveServer, client: httpx.Client) -> None:
    server.engine.pause_at = "write"
    name = start(client)
    busy = problem(client.post("/api/v1/jobs", json={"kind": "repair"}))
    assert (busy["status"], busy["code"]) == (409, "busy")
    answer = client.delete(f"/api/v1/jobs/{name}")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert client.delete(f"/api/v1/jobs/{name}").json()["state"] == "cancelled"
    server.engine.pause_at = None
    start(client, kind="repair")


def test_a_job_that_fails_says_why(server: LiveServer, client: httpx.Client) -> None:
    server.engine.fail_at = "trust"
    name = start(client)
    kind, job, _ = Events(client, f"/api/v1/jobs/{name}/events").all()[-1]
    assert (kind, job["state"], job["exit_code"]) == ("end", "failed", ExitCode.NOT_TRUSTED)
    assert "No trusted key" in job["message"]


@pytest.mark.parametrize("path", ["20990101-000001", "x", "A" * 30, "0" * 61, "..;", "a.b-cdefgh"])
def test_a_job_that_there_is_not(asking: httpx.Client, path: str) -> None:
    for answer in (asking.get(f"/api/v1/jobs/{path}"), asking.delete(f"/api/v1/jobs/{path}"),
                   asking.get(f"/api/v1/jobs/{path}/events")):  # fmt: skip
        assert problem(answer)["status"] == 404


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({}, 422),
        ([], 422),
        ({"kind": "format"}, 422),
        ({"kind": "inspect"}, 422),
        ({"kind": "install", "upload": "../../etc/passwd"}, 422),
        ({"kind": "install", "upload": UPLOAD, "path": "/x"}, 422),
        ({"kind": "install", "release": "-rf"}, 422),
        ({"kind": "install", "arm": "yes"}, 422),
        ({"kind": "reflash", "slots": "rescue"}, 422),
    ],
)
def test_a_wish_that_makes_no_sense_reaches_no_engine(
    lasting: LiveServer, asking: httpx.Client, wish: Any, status: int
) -> None:
    told = problem(asking.post("/api/v1/jobs", json=wish))
    assert (told["status"], bool(told["errors"])) == (status, True)
    assert lasting.engine.calls == []


# Orders


@pytest.mark.parametrize(
    ("scene", "order", "status", "text"),
    [
        ("manual", "confirm", 200, f"Release {NEW} is confirmed."),
        ("ok", "confirm", 409, "No release is on trial."),
        ("armed", "reject", 200, f"Release {NEW} is given up; slot A boots next."),
        ("fallback", "acknowledge", 200, "The fallback is acknowledged."),
        ("ok", "acknowledge", 409, "There is no fallback to acknowledge."),
        ("ok", "arm", 200, "Slot B is armed."),
        ("armed", "reboot", 202, "The device restarts."),
    ],
)
def test_orders(
    lasting: LiveServer, asking: httpx.Client, scene: Any, order: str, status: int, text: str
) -> None:
    lasting.do(lambda: lasting.engine.set_scene(scene))
    answer = asking.post(f"/api/v1/{order}")
    assert answer.status_code == status, answer.text
    assert (answer.json()["text"] if status < 400 else problem(answer)["detail"]) == text
    assert lasting.engine.calls[-1] == order


def test_a_restart_into_rescue(server: LiveServer, client: httpx.Client) -> None:
    assert client.post("/api/v1/reboot", json={"into": "rescue"}).status_code == 202
    assert server.engine.calls == ["reboot rescue"]
    assert client.post("/api/v1/reboot", json={"into": "A"}).status_code == 422
    assert client.post("/api/v1/reboot", content=b"x").status_code == 415
    assert client.get("/api/v1/status").json()["rebooting"] is True


def test_an_order_is_no_get(server: LiveServer, client: httpx.Client) -> None:
    for order in ("confirm", "reject", "acknowledge", "arm", "reboot"):
        answer = client.get(f"/api/v1/{order}")
        assert (problem(answer)["status"], answer.headers["Allow"]) == (405, "POST")
    assert server.engine.calls == []


# What the engine refuses


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ExitCode.USAGE, 400), (ExitCode.NOTHING_TO_DO, 409), (ExitCode.BUSY, 409),
        (ExitCode.NOT_TRUSTED, 422), (ExitCode.REFUSED, 409), (ExitCode.NO_SPACE, 507),
        (ExitCode.SOURCE, 422), (ExitCode.CONTENT_DIFFERS, 422), (ExitCode.DEVICE_FAULT, 503),
        (ExitCode.BUG, 500),
    ],
)  # fmt: skip
def test_each_refusal_of_the_engine_has_its_status(
    lasting: LiveServer,
    asking: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    code: ExitCode,
    status: int,
) -> None:
    async def refuse() -> Any:
        raise EngineError(code, "It is so.", "Do that.")

    monkeypatch.setattr(lasting.engine, "arm", refuse)
    told = problem(asking.post("/api/v1/arm"))
    name = code.name.lower().replace("_", "-")
    assert told == {
        "type": f"urn:abupdate:problem:{name}", "title": told["title"], "status": status,
        "detail": "It is so.", "hint": "Do that.", "code": name,
    }  # fmt: skip


def test_without_its_engine_the_page_says_so(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "web", FakeEngine("gone")) as server, server.script() as client:
        server.context.watch._every = 0.01
        for path in ("status", "health", "history", "why", "releases", "log", "support", "jobs",
                     "jobs/20260921-000001", "jobs/20260921-000001/events"):  # fmt: skip
            told = problem(client.get(f"/api/v1/{path}"))
            assert (told["status"], told["code"]) == (503, "device-fault"), path
        for order in ("confirm", "reject", "acknowledge", "arm", "reboot"):
            assert problem(client.post(f"/api/v1/{order}"))["status"] == 503
        assert problem(client.post("/api/v1/jobs", json=INSTALL))["status"] == 503
        # It takes uploads, and tells those who watch when the engine is back.
        assert client.get("/api/v1/uploads").json() == []
        events = Events(client, "/api/v1/events")
        told_event = events.next()
        assert told_event is not None
        assert (told_event[0], told_event[1]["detail"]) == ("gone", "The engine does not answer.")
        server.do(lambda: server.engine.set_scene("ok"))
        again = events.next()
        assert again is not None and again[0] == "status"
        events.close()


def test_a_bug_is_told_as_one(server: LiveServer, client: httpx.Client) -> None:
    async def bug() -> Any:
        raise KeyError("secret of the server")

    server.engine.health = bug  # type: ignore[method-assign]
    answer = client.get("/api/v1/health")
    assert problem(answer)["status"] == 500
    assert "secret" not in answer.text
    assert client.get("/api/v1/status").status_code == 200


def test_what_is_no_number_is_null(server: LiveServer, client: httpx.Client) -> None:
    detail = {"rate": float("inf"), "left": float("nan")}
    server.engine.history_now = [HistoryItem(event="x", time=NOW, detail=detail)]
    item = json.loads(client.get("/api/v1/history").text, parse_constant=pytest.fail)[0]
    assert item["detail"] == {"rate": None, "left": None}


# Those who watch


def test_a_change_of_the_status_is_told_to_all(server: LiveServer, client: httpx.Client) -> None:
    server.context.watch._every = 0.01
    one, two = (Events(client, "/api/v1/events") for _ in range(2))
    for events in (one, two):
        first = events.next()
        assert first is not None
        assert (first[0], first[1]["report"]["boot"]["ustate"]) == ("status", 0)
    server.do(lambda: server.engine.change(uptime=1.0, data_free=5))  # no news
    server.do(lambda: server.engine.set_scene("armed"))
    for events in (one, two):
        news = events.next()
        assert news is not None and news[1]["report"]["boot"]["ustate"] == 1
        assert events.answer.headers["Content-Type"].startswith("text/event-stream")
        assert events.answer.headers["Cache-Control"] == "no-store"
        events.close()


def test_one_look_is_for_all_who_watch(server: LiveServer, client: httpx.Client) -> None:
    server.context.watch._every = 600
    watching = [Events(client, "/api/v1/events") for _ in range(20)]
    assert all(one.next() for one in watching)
    assert server.engine.calls == ["status"]
    for one in watching:
        one.close()


def test_only_so_many_watch(tmp_path: Path) -> None:
    with (
        LiveServer(tmp_path / "web", limits=Limits(streams=2)) as server,
        server.script() as client,
    ):
        one, two = (Events(client, "/api/v1/events") for _ in range(2))
        assert one.next() and two.next()
        third = client.get("/api/v1/events")
        assert (problem(third)["status"], third.headers["Retry-After"]) == (503, "10")
        one.close()
        until(lambda: server.do(lambda: server.context.streams) == 1)
        Events(client, "/api/v1/events").close()
        two.close()


def test_who_may_no_longer_sees_no_more(server: LiveServer) -> None:
    server.context.watch._every = 0.01
    token = server.do(lambda: server.context.tokens.add("other", True))
    with server.script(token) as client:
        events = Events(client, "/api/v1/events")
        assert events.next()
        server.do(lambda: server.context.tokens.remove("other"))
        server.do(lambda: server.engine.set_scene("armed"))
        last = events.all()
        assert [kind for kind, _, _ in last] == ["login"]
    events = Events(server.logged_in(), "/api/v1/events")
    assert events.next()
    server.do(server.context.sessions.end_all)
    server.do(lambda: server.engine.set_scene("ok"))
    assert [kind for kind, _, _ in events.all()] == ["login"]


def test_an_engine_that_makes_no_sense_is_told_to_those_who_watch(
    server: LiveServer, client: httpx.Client
) -> None:
    server.context.watch._every = 0.01
    events = Events(client, "/api/v1/events")
    assert events.next()

    async def nonsense() -> Any:
        return None

    server.engine.status = nonsense  # type: ignore[method-assign]
    told = events.next()
    assert told is not None and told[0] == "gone"
    events.close()


def test_the_head_of_a_stream_ends(client: httpx.Client) -> None:
    answer = client.head("/api/v1/events", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/event-stream")


# The rest


def test_the_document_is_there_for_those_who_may(server: LiveServer, client: httpx.Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert "/api/v1/jobs/{id}/events" in document["paths"]
    with server.browser() as stranger:
        answer = stranger.get("/api/v1/openapi.json")
        assert (problem(answer)["status"], answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_there_is_nothing_else(client: httpx.Client) -> None:
    for path in ("/api", "/api/", "/api/v1", "/api/v1/", "/api/v2/status", "/api/v1/status/"):
        assert client.get(path).status_code == 404, path


def test_what_was_changed_is_written_down(server: LiveServer, client: httpx.Client) -> None:
    client.post("/api/v1/arm")
    client.get("/api/v1/status")
    with server.browser() as stranger:
        stranger.post("/api/v1/confirm")
        stranger.post("/login", data={"password": "a wrong one at length"})
    file = server.context.state / "audit.jsonl"  # is written behind the answer
    until(lambda: file.exists() and file.read_text().count("\n") == 3)
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    told = [(one["who"].split()[0], one["action"], one["status"]) for one in entries]
    assert told == [
        ("token", "POST /api/v1/arm", 200), ("nobody", "POST /api/v1/confirm", 401),
        ("nobody", "POST /login", 403),
    ]  # fmt: skip
    assert {one["address"] for one in entries} == {"127.0.0.1"}
