"""Attacks on the page, each with the answer that it gets: a table, and how one is carried out.

The rows are in attack_rows*.py; test_attacks.py carries each out, and docs/web-attacks.md is made
of them (`python -m tests.web.attacks`).
"""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from abupdate.web.headers import HEADERS
from tests.web.live_server import PASSWORD, LiveServer, read_all

PAGE = Path(__file__).parents[2] / "docs/web-attacks.md"
TOKEN = "Authorization: Bearer {token}\r\n"
COOKIE = "Cookie: abupdate={cookie}\r\n"
OWN = "Origin: {url}\r\n"
CSRF = "X-CSRF-Token: {csrf}\r\n"
ME = COOKIE + OWN + CSRF
JSON = "Content-Type: application/json\r\n"
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
UPLOAD = "0123456789abcdef"
_TOP = """# Attacks on the page, and what they get

Each row is a test (tests/web/test_attacks.py) against the real server. After each one the engine
was asked for nothing that changes the device, no upload is left, the server answers the next
request, and every answer had the headers that keep a browser from being used against its owner
(Content-Security-Policy without anything from elsewhere, no frames, nosniff, no-store). "Closed"
means that the connection was ended without an answer. Written by `python -m tests.web.attacks`.
"""


@dataclass
class Place:
    """Where attacks happen: a server, and what an attacker may have got hold of."""

    server: LiveServer
    words: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Log in, once as the owner and once as others that are out by now."""
        server = self.server
        browser = server.logged_in()
        other, out, old = server.logged_in(), server.logged_in(), server.logged_in()
        name = server.context.cookie
        sessions = server.context.sessions
        server.do(lambda: sessions.end(out.cookies[name]))
        expired = server.do(lambda: sessions.find(old.cookies[name]))
        assert expired is not None
        expired.seen -= 3600
        self.words = {
            "host": server.host, "port": str(server.port), "url": server.url,
            "token": server.token, "password": PASSWORD,
            "reader": server.do(lambda: server.context.tokens.add("reader", True)),
            "cookie": browser.cookies[name], "csrf": str(browser.headers["X-CSRF-Token"]),
            "other": str(other.headers["X-CSRF-Token"]),
            "out": out.cookies[name], "old": old.cookies[name],
        }  # fmt: skip
        for client in (browser, other, out, old):
            client.close()

    def fill(self, text: str) -> bytes:
        """Bytes of a request: {token} and the like are put in."""
        for name, word in self.words.items():
            text = text.replace(f"{{{name}}}", word)
        return text.encode("latin-1")

    def send(self, text: str) -> bytes:
        """What comes back for these bytes."""
        return self.server.talk(self.fill(text))


@dataclass(frozen=True)
class Attack:
    """An attack. `act` gives what came of it, which should be `expected`; `why` for readers."""

    what: str
    expected: str
    act: Callable[[Place], str]
    why: str = ""


@dataclass(frozen=True)
class Group:
    """Attacks of one kind, as the page shows them."""

    name: str
    attacks: tuple[Attack, ...]


def request(
    line: str, headers: str = "", body: str = "", *, host: str = "{host}", length: bool = True
) -> str:
    """A request as text; its connection ends with the answer."""
    told = f"Content-Length: {len(body)}\r\n" if body and length else ""
    return f"{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}{told}\r\n{body}"


def raw(text: str) -> Callable[[Place], str]:
    """Send these bytes; what comes of it is the status of the answer, or "closed"."""
    return lambda place: result(place.send(text))


def form(
    line: str, headers: str, body: str, expected_cookie: bool = False
) -> Callable[[Place], str]:
    """Send a form whose fields have words of the place in them."""

    def act(place: Place) -> str:
        filled = place.fill(body).decode("latin-1")
        return result(place.send(request(line, FORM + headers, filled)))

    return act


def result(answer: bytes) -> str:
    """The status of an answer, with where it leads to; "closed" without one."""
    if not answer:
        return "closed"
    check_headers(answer)
    head = answer.split(b"\r\n\r\n", 1)[0].decode("latin-1")
    lines = head.split("\r\n")
    places = [line[10:] for line in lines if line.lower().startswith("location: ")]
    return " to ".join([lines[0].split(" ")[1], *places])


def check_headers(answer: bytes) -> None:
    """Each answer has the headers that protect, whoever gives it."""
    head = answer.split(b"\r\n\r\n", 1)[0].decode("latin-1").lower().split("\r\n")
    for name, value in (*HEADERS.items(), ("Cache-Control", "no-store")):
        assert f"{name}: {value}".lower() in head, (name, head)
    assert not any(line.startswith(("server:", "access-control-")) for line in head), head


def hold(place: Place, text: str, more: bytes = b"", every: float = 0.05, before: str = "") -> str:
    """Send a request's beginning, then `more` again and again, until the server has enough.

    `before`: a whole request, which is answered first on the same connection.
    """
    data = place.fill(text)
    with socket.create_connection(("127.0.0.1", place.server.port), timeout=60) as connection:
        if before:
            connection.sendall(place.fill(before))
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.read() and not answer.will_close
        connection.settimeout(every)
        connection.sendall(data)
        for _ in range(1200):
            try:
                if more:
                    connection.sendall(more)
                found = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                return "closed"
            connection.settimeout(60)
            return result(found + read_all(connection)) if found else "closed"
    return "still open after a minute"


def groups() -> tuple[Group, ...]:
    """All attacks."""
    from tests.web import attack_rows, attack_rows_browser, attack_rows_load, attack_rows_texts

    parts = (attack_rows_browser, attack_rows, attack_rows_load, attack_rows_texts)
    return tuple(group for part in parts for group in part.GROUPS)


def document() -> str:
    """docs/web-attacks.md."""
    parts = [_TOP]
    for group in groups():
        parts.append(f"\n## {group.name}\n\n| attack | answer |\n|---|---|\n")
        for one in group.attacks:
            told = f"{one.expected}: {one.why}" if one.why else one.expected
            parts.append(f"| {_cell(one.what)} | {_cell(told)} |\n")
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\r", "").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
    sys.exit(0)
