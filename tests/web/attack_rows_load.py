"""Attacks by time and number: slow ones, many at once, and guesses."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path

import httpx
import pytest

from abupdate.web import tls
from abupdate.web.limits import Limits
from tests.web.attacks import FORM, OWN, TOKEN, Attack, Group, Place, hold, request, result
from tests.web.live_server import PASSWORD, LiveServer, read_all, until

# Those of a device are longer: tests have no half minute for each.
_SHORT = Limits(head=0.4, silence=0.4, window=0.3, window_bytes=1 << 20, body=0.5, unread=0.4,
                connections=40, per_address=10, streams=2)  # fmt: skip
# With one limit alone: another one would end it too, and nobody would miss this one.
_BODY = Limits(body=0.5, silence=600, window=600)
_PUT = "PUT /api/v1/bundle"
_AGAIN = request("GET /login").replace("Connection: close", "Connection: keep-alive")


@contextmanager
def own(limits: Limits = _SHORT) -> Iterator[Place]:
    """A server with short limits, for one attack."""
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder), limits=limits) as server:
        yield Place(server)


def _held(
    text: str, more: bytes = b"", before: str = "", limits: Limits = _SHORT
) -> Callable[[Place], str]:
    def act(_: Place) -> str:
        with own(limits) as place:
            told = hold(place, text, more, before=before)
            after = place.send(request("GET /api/v1/status", TOKEN))
            assert after.startswith(b"HTTP/1.1 200 ")
            return told

    return act


def _announced(line: str, headers: str) -> str:
    return request(line, f"{headers}Content-Length: 60000\r\n", length=False)


def _unread(_: Place) -> str:
    """Ask for much, and read nothing of it."""
    with own() as place, socket.socket() as connection:
        server = place.server
        server.engine.log_now = ["x" * 4000] * 5000
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(place.fill(request("GET /api/v1/log?lines=5000", TOKEN)))
        until(lambda: ("log" in server.engine.calls) and not server.connections())
        came = len(read_all(connection))
        return "closed" if came < 5000 * 4000 else "all of it came"


def _many_connections(_: Place) -> str:
    with own() as place, ExitStack() as stack:
        server = place.server
        wanted = place.fill(request("GET /api/v1/status", TOKEN))
        for _number in range(_SHORT.per_address + 1):
            one = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=60)
            )
            # Each has its first answer, and so is known to the server.
            one.sendall(wanted.replace(b"Connection: close", b"Connection: keep-alive"))
            told = one.recv(1000)
            if not told.startswith(b"HTTP/1.1 200 "):
                break
        stack.close()
        until(lambda: not server.connections())
        assert place.send(request("GET /api/v1/status", TOKEN)).startswith(b"HTTP/1.1 200 ")
        return result(told)


def _many_streams(at_once: bool) -> Callable[[Place], str]:
    """One more than there may be, one after the other; or many more at the same moment."""

    def act(_: Place) -> str:
        with own() as place, ExitStack() as stack:
            server, wanted = place.server, place.fill(request("GET /api/v1/events", TOKEN))
            many = _SHORT.per_address - 1 if at_once else _SHORT.streams + 1
            open_now = [
                stack.enter_context(
                    socket.create_connection(("127.0.0.1", server.port), timeout=60)
                )
                for _number in range(many)
            ]
            with server.stalled() if at_once else nullcontext():
                for one in open_now:
                    one.sendall(wanted)
                    if not at_once:
                        told = _status_of(one)
            if at_once:
                found = [_status_of(one) for one in open_now]
                assert found.count("200") == _SHORT.streams, found
                told = min(set(found) - {"200"})
            stack.close()
            assert until(lambda: server.context.streams == 0)
            return told

    return act


def _status_of(connection: socket.socket) -> str:
    """Of the answer whose beginning has come; it may be one without an end."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(4096)
        if not data:
            break
        head += data
    return result(head)


@contextmanager
def _own_tls(limits: Limits) -> Iterator[LiveServer]:
    """The same with TLS, and the server alone."""
    with tempfile.TemporaryDirectory() as folder:
        files = tls.self_made(Path(folder), ())
        with LiveServer(Path(folder) / "web", limits=limits, files=files) as server:
            yield server
            # Who is honest is served then.
            assert until(lambda: _login_page(server) == 200)


def _login_page(server: LiveServer) -> int:
    with closing(server.browser()) as client:
        try:
            return client.get("/login").status_code
        except httpx.TransportError:
            return 0


def _silent_handshake(_: Place) -> str:
    with _own_tls(_SHORT) as server, socket.socket() as connection:
        connection.settimeout(30)
        connection.connect(("127.0.0.1", server.port))
        try:
            return "closed" if connection.recv(1) == b"" else "answered"
        except TimeoutError:
            return "still open after half a minute"


def _many_handshakes(_: Place) -> str:
    few = Limits(handshakes_per_address=3)
    with _own_tls(few) as server, ExitStack() as stack:
        begun = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            for _number in range(few.handshakes_per_address + 1)
        ]
        *kept, last = begun
        try:
            told = "closed" if last.recv(1) == b"" else "answered"
        except ConnectionResetError:
            told = "closed"
        except TimeoutError:
            told = "let in"
        for one in kept:  # these have ten seconds yet
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
        return told


def _guessed(line: str, wrong: str, right: str) -> Callable[[Place], str]:
    """Wrong ones until one has to wait, and then the right one."""

    def act(_: Place) -> str:
        with own() as place:
            code = place.server.do(place.server.context.passwords.new_code)
            statuses = [_said(place, line, wrong) for _ in range(6)]
            assert statuses[-1] == "429" and set(statuses[:-1]) == {"403"}
            return _said(place, line, right.replace("{code}", code))

    return act


def _said(place: Place, line: str, body: str) -> str:
    filled = place.fill(body).decode("latin-1").replace(" ", "+")
    answer = place.send(request(line, FORM + OWN, filled))
    status = result(answer)
    assert status != "429" or b"\r\nretry-after: " in answer.lower()
    return status


def _fixed(place: Place) -> str:
    """A cookie that somebody put there before the login is nobody's after it."""
    cookie = "A" * 43
    body = place.fill("password={password}").decode().replace(" ", "+")
    told = place.send(request("POST /login", f"{FORM}{OWN}Cookie: abupdate={cookie}\r\n", body))
    assert result(told) == "303 to /" and cookie.encode() not in told
    return result(place.send(request("GET /api/v1/status", f"Cookie: abupdate={cookie}\r\n")))


def _outlived(_: Place) -> str:
    """The password is changed at the console, as after a theft."""
    with own() as place:
        headers = "Cookie: abupdate={cookie}\r\n"
        status = request("GET /api/v1/status", headers)
        assert result(place.send(status)) == "200"
        place.server.context.passwords.set(PASSWORD + " another")
        return result(place.send(status))


TIME = Group(
    "Slow, and never done",
    (
        Attack("headers, a byte now and then (slowloris)", "closed",
               _held("GET / HTTP/1.1\r\nX: ", b"a"), "after 10 seconds on a device"),
        Attack("the same, behind a request that was answered", "closed",
               _held("GET / HTTP/1.1\r\nX: ", b"a", before=_AGAIN), "the same"),
        Attack("a connection that says nothing", "closed", _held(""), "after 10 seconds"),
        Attack("a TLS handshake that never begins", "closed", _silent_handshake,
               "after 10 seconds"),
        Attack("an upload that stops", "408", _held(_announced(_PUT, TOKEN) + "x"),
               "after 30 seconds without a byte"),
        Attack("an upload, a byte now and then", "408", _held(_announced(_PUT, TOKEN), b"x"),
               "when less than 16 KiB came in a minute"),
        Attack("a login, a byte now and then", "408",
               _held(_announced("POST /login", FORM + OWN), b"a", limits=_BODY),
               "after 30 seconds"),
        Attack("an answer that nobody reads", "closed", _unread, "after a minute"),
    ),
)  # fmt: skip
NUMBER = Group(
    "Many at once",
    (
        Attack("more connections than one address may have", "503", _many_connections,
               "256 of one address, 512 in all; who comes when they are gone is served"),
        Attack("more TLS handshakes that have not ended than one address may have", "closed",
               _many_handshakes, "64 of one address, 256 in all"),
        Attack("more watchers than there may be", "503", _many_streams(at_once=False), "300"),
        Attack("many more watchers at the same moment", "503", _many_streams(at_once=True),
               "no more are let in than one after the other"),
    ),
)  # fmt: skip
GUESSES = Group(
    "Guesses and sessions",
    (
        Attack("wrong passwords, and then the right one", "429",
               _guessed("POST /login", "password=wrong", "password={password}"),
               "after five, half a minute, then twice that; it says when to come again"),
        Attack("wrong codes, and then the right one", "429",
               _guessed("POST /setup", "code=AAAA-AAAA-AAAA&password=long enough by far&"
                        "again=long enough by far",
                        "code={code}&password=long enough by far&again=long enough by far")),
        Attack("a cookie that was put there before the login (fixation)", "401", _fixed),
        Attack("a stolen cookie after the password was changed", "401", _outlived),
    ),
)  # fmt: skip
GROUPS = (TIME, NUMBER, GUESSES)
