"""Who may: passwords and the code for the first one, sessions and their end, tokens, lockout."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from abupdate.errors import NothingToDoError, UsageError
from abupdate.web import files, lockout, sessions
from abupdate.web.auth import COST, Passwords, Tokens
from abupdate.web.lockout import Lockout
from tests.web.live_server import CHEAP, PASSWORD, Clock, LiveServer

OTHER = "another long password"


def log_in(client: httpx.Client, password: str = PASSWORD, **more: str) -> httpx.Response:
    return client.post("/login", data={"password": password, **more})


def new(password: str = OTHER, **more: str) -> dict[str, str]:
    return {"password": password, "again": password, **more}


def csrf_of(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


def is_in(client: httpx.Client) -> bool:
    return client.get("/api/v1/status").status_code == 200


def cookie_of(answer: httpx.Response) -> str:
    found: str = answer.headers["Set-Cookie"]
    return found


# Login and logout


@pytest.mark.row("S46")
def test_login_and_logout(server: LiveServer) -> None:
    with server.browser() as client:
        answer = client.get("/history")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login?next=/history")
        page = client.get("/login?next=/history")
        assert 'type="password"' in page.text
        refused = log_in(client, "not this one")
        assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
        assert "not the password" in refused.text
        answer = log_in(client, next="/history")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/history")
        assert cookie_of(answer).startswith("abupdate=")
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(
            cookie_of(answer).split("; ")
        )
        assert is_in(client)
        assert client.get("/login").headers["Location"] == "/"
        number = client.cookies["abupdate"]
        csrf = csrf_of(client.get("/"))
        assert client.post("/logout", data={"csrf": csrf}).headers["Location"] == "/login"
        assert not is_in(client)
        client.cookies.set("abupdate", number, "127.0.0.1")  # kept by somebody
        assert not is_in(client)


@pytest.mark.row("S46")
def test_without_a_login_there_is_nothing_to_see(lasting: LiveServer) -> None:
    with lasting.browser() as client:
        for path in ("/", "/update", "/jobs", "/jobs/x", "/trial", "/history", "/log", "/rescue",
                     "/password", "/what-there-is-not"):  # fmt: skip
            answer = client.get(path)
            assert (answer.status_code, answer.content) == (303, b""), path
            assert answer.headers["Location"].startswith("/login")
        for path in ("status", "jobs", "uploads", "openapi.json", "what-there-is-not"):
            assert client.get(f"/api/v1/{path}").status_code == 401, path
        for path in ("/act/confirm", "/jobs", "/update/upload", "/password", "/logout"):
            assert client.post(path).status_code == 401, path
        assert client.get("/static/app.css").status_code == 200
    assert lasting.engine.calls == []


def test_a_session_is_a_new_one_at_each_login(server: LiveServer) -> None:
    with server.browser() as client:
        client.cookies.set("abupdate", "chosen-by-somebody-else", "127.0.0.1")
        one = cookie_of(log_in(client))
        client.cookies.clear()
        two = cookie_of(log_in(client))
    assert "chosen" not in one + two
    assert one != two


# Times


def test_sessions_end_when_nobody_uses_them(server: LiveServer) -> None:
    client = server.logged_in()
    for _ in range(5):  # used, it lasts
        server.clock.now += sessions.IDLE - 1
        assert is_in(client)
    server.clock.now += sessions.IDLE + 1
    assert not is_in(client)
    server.clock.now -= sessions.IDLE + 1  # and is gone for good
    assert not is_in(client)


def test_sessions_end_after_half_a_day_in_any_case(server: LiveServer) -> None:
    client, start = server.logged_in(), server.clock.now
    while server.clock.now + 1700 < start + sessions.LONGEST:
        server.clock.now += 1700
        assert is_in(client)
    server.clock.now = start + sessions.LONGEST + 1
    assert not is_in(client)


def test_a_clock_that_goes_back_ends_them_at_last(server: LiveServer) -> None:
    """A device without a clock of its own starts in the past."""
    client = server.logged_in()
    server.clock.now -= 3600
    assert is_in(client)
    server.clock.now -= sessions.LONGEST
    assert not is_in(client)


def test_sessions_outlive_the_server(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "web") as server:
        client = server.logged_in()
        number = client.cookies["abupdate"]
        kept = (server.context.state / "sessions.json").read_text()
        assert number not in kept
    with LiveServer(tmp_path / "web") as server, server.browser() as client:
        client.cookies.set("abupdate", number, "127.0.0.1")
        assert is_in(client)
        server.do(lambda: server.context.sessions.end(number))
    with LiveServer(tmp_path / "web") as server, server.browser() as client:
        client.cookies.set("abupdate", number, "127.0.0.1")
        assert not is_in(client)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 5}', '{"a": {"b": 1}}', "\xff\xfe"])
def test_a_damaged_file_of_sessions_means_another_login(tmp_path: Path, content: str) -> None:
    (tmp_path / "sessions.json").write_text(content, encoding="latin-1")
    found = sessions.Sessions(tmp_path / "sessions.json", Clock())
    assert found.find("x") is None
    number, _ = found.create("127.0.0.1")
    assert found.find(number) is not None


def test_there_are_only_so_many_sessions(tmp_path: Path) -> None:
    clock = Clock()
    found = sessions.Sessions(tmp_path / "sessions.json", clock)
    numbers = []
    for _ in range(sessions.MOST + 1):
        clock.now += 1
        numbers.append(found.create("127.0.0.1")[0])
    assert found.find(numbers[0]) is None
    assert all(found.find(number) for number in numbers[1:])


def test_a_full_disk_logs_nobody_out(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    first = server.logged_in()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sessions, "write_json", full)
    server.clock.now += 120  # it would be saved now
    assert is_in(first)
    assert is_in(server.logged_in())
    csrf = first.headers["X-CSRF-Token"]
    monkeypatch.setattr("abupdate.web.auth.write_json", full)
    answer = first.post("/password", data=new(old=PASSWORD, csrf=csrf))
    assert (answer.status_code, "no space left" in answer.text) == (507, True)
    assert log_in(server.browser()).status_code == 303
    # What could not be kept is not believed after a restart: somebody may have logged out.
    assert not (server.context.state / "sessions.json").exists()


# Passwords


@pytest.mark.row("S46")
def test_the_first_password_is_set_by_a_code_once(server: LiveServer) -> None:
    passwords = server.context.passwords
    (server.context.state / "password").unlink()
    code = passwords.new_code()
    kept = (server.context.state / "code").read_text()
    assert code.replace("-", "") not in kept and re.fullmatch(r"(\w{4}-){2}\w{4}", code)
    with server.browser() as client:
        assert client.get("/").headers["Location"] == "/setup"
        assert client.get("/login").headers["Location"] == "/setup"
        assert 'name="code"' in client.get("/setup").text
        assert client.post("/setup", data=new(code="AAAA-AAAA-AAAA")).status_code == 403
        # What is wrong with the password spends no code.
        short = client.post("/setup", data=new("short", code=code))
        assert (short.status_code, "at least 10 characters" in short.text) == (403, True)
        unlike = client.post("/setup", data={**new(code=code), "again": "x"})
        assert "not the same" in unlike.text
        answer = client.post("/setup", data=new(code=code.lower().replace("-", " ")))
        assert (answer.status_code, answer.headers["Location"]) == (303, "/")
        assert is_in(client)
        client.cookies.clear()
        assert client.post("/setup", data=new(code=code)).status_code == 403
        assert log_in(client, OTHER).status_code == 303


def test_a_new_code_voids_the_one_before(tmp_path: Path) -> None:
    passwords = Passwords(tmp_path, CHEAP)
    one, two = passwords.new_code(), passwords.new_code()
    assert (passwords.check_code(one), passwords.check_code(two)) == (False, True)
    passwords.spend_code()
    assert not passwords.check_code(two)
    assert not passwords.check_code("")


@pytest.mark.row("S46")
def test_another_password_ends_all_sessions(server: LiveServer) -> None:
    one, two = server.logged_in(), server.logged_in()
    csrf = csrf_of(one.get("/password"))
    wrong = one.post("/password", data=new(old="not this one", csrf=csrf))
    assert (wrong.status_code, is_in(two)) == (403, True)
    answer = one.post("/password", data=new(old=PASSWORD, csrf=csrf))
    assert answer.headers["Location"] == "/"
    assert (is_in(one), is_in(two)) == (True, False)
    with server.browser() as client:
        assert log_in(client).status_code == 403
        assert log_in(client, OTHER).status_code == 303


def test_a_password_that_root_sets_ends_all_sessions(server: LiveServer) -> None:
    client = server.logged_in()
    Passwords(server.context.state, CHEAP).set(OTHER)  # another process
    assert not is_in(client)
    assert log_in(server.browser(), OTHER).status_code == 303


def test_how_a_password_is_kept(tmp_path: Path) -> None:
    passwords = Passwords(tmp_path)
    passwords.set(PASSWORD)
    kept = json.loads((tmp_path / "password").read_text())
    assert {name: kept[name] for name in COST} == COST
    assert COST["n"] * COST["r"] * COST["p"] >= (1 << 14) * 8 * 5
    assert PASSWORD not in str(kept)
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600
    passwords.set(PASSWORD)
    again = json.loads((tmp_path / "password").read_text())
    assert again["salt"] != kept["salt"] and again["hash"] != kept["hash"]


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_no_password_is_too_short_or_too_long(tmp_path: Path, password: str) -> None:
    with pytest.raises(UsageError):
        Passwords(tmp_path, CHEAP).set(password)


def test_a_password_in_any_writing(server: LiveServer) -> None:
    server.context.passwords.set("Pässwört mit Ümlaut")
    with server.browser() as client:  # the same letters, put together of two signs each
        told = "Pa\u0308sswo\u0308rt mit U\u0308mlaut"
        assert log_in(client, told).status_code == 303


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"n": 2, "r": 1, "p": 1, "salt": "x"}'])
def test_a_damaged_password_lets_nobody_in(server: LiveServer, content: str) -> None:
    (server.context.state / "password").write_text(content)
    assert log_in(server.browser(), "").status_code == 403


# Lockout


@pytest.mark.row("S46")
def test_guesses_are_slowed_down(server: LiveServer) -> None:
    with server.browser() as client:
        for _ in range(lockout.FREE):
            assert log_in(client, "guessed wrongly").status_code == 403
        answer = log_in(client)  # the right one, too early
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "30")
        assert "wait 30 seconds" in answer.text
        assert client.post("/setup", data=new(code="A" * 12)).status_code == 429
        server.clock.now += 31
        assert log_in(client, "guessed wrongly").status_code == 403
        assert log_in(client).headers["Retry-After"] == "60"
        server.clock.now += 61
        assert log_in(client).status_code == 303
        client.cookies.clear()
        assert log_in(client, "guessed wrongly").status_code == 403
        assert log_in(client).status_code == 303  # it counts from the start again


def test_guesses_of_many_addresses_are_slowed_down_together() -> None:
    clock = Clock()
    found = Lockout(clock)
    assert all(found.begin(f"192.0.2.{n}") == 0 for n in range(lockout.BURST))
    assert 0 < found.begin("198.51.100.1") <= lockout.EACH
    clock.now += lockout.EACH
    assert found.begin("198.51.100.1") == 0
    assert found.begin("198.51.100.2") > 0


def test_a_network_of_ipv6_is_one_guesser() -> None:
    found = Lockout(Clock())
    for number in range(lockout.FREE):
        assert found.begin(f"2001:db8::{number:x}") == 0
    assert found.begin("2001:db8::ffff") > 0
    assert found.begin("2001:db8:0:1::1") == 0
    assert found.begin("::ffff:192.0.2.1") == found.begin("192.0.2.1") == 0
    assert len(found._table) == 3


def test_the_table_of_guessers_is_bounded() -> None:
    clock = Clock()
    found = Lockout(clock)
    for number in range(lockout.MOST + 10):
        clock.now += lockout.EACH
        found.begin(f"10.0.{number >> 8}.{number & 255}")
    assert len(found._table) == lockout.MOST


# Tokens


@pytest.mark.row("S46")
def test_tokens_full_and_read_only(server: LiveServer) -> None:
    token = server.context.tokens.add("looks", True)
    with server.script(token) as client:
        assert is_in(client)
        for method, path in (
            ("POST", "arm"), ("POST", "jobs"), ("DELETE", "jobs/20260921-000001"),
            ("POST", "uploads"), ("PUT", "bundle"), ("DELETE", "uploads/0123456789abcdef"),
        ):  # fmt: skip
            assert client.request(method, f"/api/v1/{path}").status_code == 403, path
        # The pages are for people, who log in.
        assert client.get("/").status_code == 303
    with server.script() as client:
        assert client.post("/api/v1/arm").status_code == 200
    for told in ("x", token[:-1], token + "x", "-", token.upper()):
        with server.script() as client:
            client.headers["Authorization"] = f"Bearer {told}"
            assert client.get("/api/v1/status").status_code == 401
    for told in (f"bearer {token}", f"BEARER  {token}"):
        with server.script() as client:
            client.headers["Authorization"] = told
            assert is_in(client)
    with server.script() as client:
        client.headers["Authorization"] = f"Basic {token}"
        assert client.get("/api/v1/status").status_code == 401
    assert "reboot" not in server.engine.calls


def test_a_token_is_void_at_once(server: LiveServer) -> None:
    outside = Tokens(server.context.state / "tokens.json")  # the command, another process
    token = outside.add("script", False)
    with server.script(token) as client:
        assert is_in(client)
        outside.remove("script")
        assert not is_in(client)
    with pytest.raises(NothingToDoError):
        outside.remove("script")


def test_names_of_tokens(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    token = tokens.add("ci", True)
    assert token not in (tmp_path / "tokens.json").read_text()
    for name in ("ci", "", "x" * 61, "a\nb", "\x1b[2J"):
        with pytest.raises(UsageError):
            tokens.add(name, True)
    assert list(tokens.all()) == ["ci"]


# Read-only


@pytest.mark.row("S46")
def test_a_page_that_is_read_only(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "web", read_only=True) as server:
        with server.script() as script:
            assert is_in(script)
            told = script.post("/api/v1/arm")
            assert (told.status_code, told.json()["detail"]) == (403, "This is read-only.")
            assert script.put("/api/v1/bundle", content=b"x").status_code == 403
        browser = server.logged_in()
        assert browser.get("/").status_code == 200
        csrf = browser.headers["X-CSRF-Token"]
        for path in ("/act/confirm", "/jobs", "/update/drop"):
            assert browser.post(path, data={"csrf": csrf}).status_code == 403, path
        # What is its own may be changed: who may log in.
        answer = browser.post("/password", data=new(old=PASSWORD, csrf=csrf))
        assert answer.headers["Location"] == "/"
        assert {call.split()[0] for call in server.engine.calls} <= {"status", "jobs", "health"}


# Files


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x"
    files.write_json(file, {"old": 1})
    file.with_name("x.new").symlink_to(tmp_path / "aim")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(file, {"new": "x" * 100_000})
    assert files.read_json(file) == {"old": 1}
    assert not (tmp_path / "aim").exists()
