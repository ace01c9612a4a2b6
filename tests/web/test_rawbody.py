"""Bodies that go past h11: counted to the byte, with back pressure, cut, refused, stopped."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from abupdate.config import WebSection
from abupdate.web import rawbody, tls, uploads
from tests.web.live_server import LiveServer, digest, read_all

DATA = bytes(range(256)) * 16_000  # 4 MB, more than both buffers hold
FIRST = 100_000  # bytes that are sent with the head


def begin(server: LiveServer, data: bytes = DATA) -> str:
    """A new upload's path; with other bytes than `data` it will not become complete."""
    with server.script() as client:
        wish = {"size": len(data), "sha256": digest(data)}
        answer = client.post("/api/v1/uploads", json=wish)
        return f"/api/v1/uploads/{answer.json()['id']}"


def head(server: LiveServer, path: str, method: str = "PUT", **more: object) -> bytes:
    """A request's head, with the token."""
    told = {"Host": server.host, "Authorization": f"Bearer {server.token}"} | {
        name.replace("_", "-"): value for name, value in more.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def connect(server: LiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def answer(connection: socket.socket) -> bytes:
    """One whole answer, its head and its body."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += connection.recv(1) or pytest.fail(f"hung up after {found!r}")
    length = int(found.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body)) or pytest.fail(f"hung up after {body!r}")
    return found + body


def until(server: LiveServer, condition: Callable[[], object]) -> None:
    """Wait for a condition, which is looked at in the server's thread."""
    end = time.monotonic() + 60
    while not server.do(condition):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)


def reader(server: LiveServer) -> rawbody._Reader | None:
    """The one that receives a body now."""
    for one in server._server.server_state.connections:
        if isinstance(one, rawbody.RawProtocol) and one._reader is not None:
            return one._reader
    return None


def bundle(server: LiveServer) -> bytes:
    (path,) = server.context.uploads.folder.glob("*.bundle")
    return path.read_bytes()


@pytest.mark.row("S45")
def test_what_follows_a_body_is_the_next_request(server: LiveServer) -> None:
    path = begin(server)
    with connect(server) as connection:
        connection.sendall(head(server, path, Content_Length=len(DATA)) + DATA[:FIRST])
        until(server, lambda: reader(server))
        follows = head(server, path, "GET") + head(server, "/api/v1/uploads", "GET")
        connection.sendall(DATA[FIRST:] + follows)
        for part in (b'"complete":true', b'"complete":true', b'[{"id":'):
            told = answer(connection)
            assert told.startswith(b"HTTP/1.1 200 ") and part in told
        # And so it goes on, on this connection.
        with server.script() as client:
            client.delete(path)
        path = begin(server, DATA[:FIRST])
        connection.sendall(head(server, path, Content_Length=FIRST))
        connection.sendall(DATA[:1])
        until(server, lambda: reader(server))
        connection.sendall(DATA[1:FIRST])
        assert b'"complete":true' in answer(connection)
    assert bundle(server) == DATA[:FIRST]


def test_a_body_that_came_with_its_head_is_h11s(server: LiveServer) -> None:
    path = begin(server, b"12345")
    with connect(server) as connection:
        request = head(server, path, Content_Length=5) + b"12345"
        connection.sendall(request + head(server, path, "GET"))
        assert b'"complete":true' in answer(connection)
        assert b'"complete":true' in answer(connection)


def test_a_client_that_asks_whether_to_send_is_told_so(server: LiveServer) -> None:
    path = begin(server)
    with connect(server) as connection:
        connection.sendall(head(server, path, Content_Length=len(DATA), Expect="100-continue"))
        assert connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 100"
        while connection.recv(1) != b"\n" or connection.recv(2, socket.MSG_WAITALL) != b"\r\n":
            pass
        connection.sendall(DATA)
        assert b'"complete":true' in answer(connection)


@pytest.mark.row("S45")
def test_nobody_sends_faster_than_the_disk(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, write = threading.Event(), uploads._write

    def waiting(*arguments: object) -> None:
        slow.wait(60)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(uploads, "_write", waiting)
    data = DATA * 16  # more than sockets hold, too
    path = begin(server, data)
    with connect(server) as connection:
        request = head(server, path, Content_Length=len(data)) + data
        sender = threading.Thread(target=connection.sendall, args=(request,))
        sender.start()
        until(server, lambda: (one := reader(server)) and one._front.flow.read_paused)
        left = server.do(lambda: getattr(reader(server), "left", 0))
        assert len(data) - left < 8 * rawbody.SIZE
        assert server.do(lambda: getattr(reader(server), "left", 0)) == left
        slow.set()
        assert b'"complete":true' in answer(connection)
        sender.join()


@pytest.mark.row("S45")
def test_what_came_before_a_cut_is_kept(server: LiveServer) -> None:
    path = begin(server)
    with connect(server) as connection:
        connection.sendall(head(server, path, Content_Length=len(DATA)) + DATA[:FIRST])
        until(server, lambda: reader(server))
        connection.sendall(DATA[FIRST:-1])
    with server.script() as client:
        upload = server.context.uploads.get(path.rsplit("/", 1)[1])
        until(server, lambda: upload.offset == len(DATA) - 1)
        told = client.put(path, content=DATA[-1:], headers={"Upload-Offset": str(upload.offset)})
        assert told.json()["complete"]


def test_one_that_is_refused_on_the_way_can_ask_again(server: LiveServer) -> None:
    path = begin(server)
    with connect(server) as connection:
        connection.sendall(head(server, path, Content_Length=len(DATA)) + DATA[:FIRST])
        until(server, lambda: reader(server))
        with server.script() as client:
            assert client.delete(path).status_code == 204
        assert answer(connection).startswith(b"HTTP/1.1 404 ")
        # The rest is read for nobody; what comes then is a request.
        connection.sendall(DATA[FIRST:] + head(server, "/api/v1/uploads", "GET"))
        assert answer(connection).endswith(b"\r\n\r\n[]")


@pytest.mark.row("S45")
def test_a_full_disk_loses_nothing(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pwrite, calls = begin(server), os.pwrite, []

    def full(file: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, data[: 1 + len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with server.script() as client:
        told = client.put(path, content=DATA)
        assert told.status_code == 507
        offset = client.head(path).headers["Upload-Offset"]
        told = client.put(path, content=DATA[int(offset) :], headers={"Upload-Offset": offset})
        assert told.json()["complete"]
    assert bundle(server) == DATA


@pytest.mark.row("S45")
def test_a_server_that_stops_keeps_what_came(tmp_path: Path) -> None:
    with LiveServer(tmp_path / "web") as server:
        server._server.config.timeout_graceful_shutdown = 0
        path = begin(server)
        connection = connect(server)
        connection.sendall(head(server, path, Content_Length=len(DATA)) + DATA[:FIRST])
        until(server, lambda: reader(server))
        connection.sendall(DATA[FIRST : 2 * FIRST])
        upload = server.context.uploads.get(path.rsplit("/", 1)[1])
        until(server, lambda: upload.offset)
    read_all(connection)
    connection.close()
    with LiveServer(tmp_path / "web") as server, server.script() as client:
        offset = client.head(path).headers["Upload-Offset"]
        assert 0 < int(offset) <= 2 * FIRST
        told = client.put(path, content=DATA[int(offset) :], headers={"Upload-Offset": offset})
        assert told.json()["complete"]


def test_it_goes_through_tls_too(tmp_path: Path) -> None:
    files = tls.certificate(WebSection(tls="self"), tmp_path)
    with LiveServer(tmp_path / "web", files=files) as server:
        server.secure = True
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        upload = server.do(lambda: server.context.uploads.create(len(DATA)))
        path = f"/api/v1/uploads/{upload.id}"
        with trust.wrap_socket(connect(server)) as connection:
            connection.sendall(head(server, path, Content_Length=len(DATA)) + DATA[:FIRST])
            until(server, lambda: reader(server))
            connection.sendall(DATA[FIRST:] + head(server, path, "GET"))
            assert b'"complete":true' in answer(connection)
            assert b'"complete":true' in answer(connection)
        assert bundle(server) == DATA


def test_the_buffers_go_with_the_body(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[rawbody._Reader]] = []
    begin_raw = rawbody.RawProtocol.begin_raw

    def noted(self: rawbody.RawProtocol, left: int) -> rawbody._Reader:
        found = begin_raw(self, left)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(rawbody.RawProtocol, "begin_raw", noted)
    with server.script() as client:
        for _ in range(2):
            client.put("/api/v1/bundle", content=DATA)
    assert made
    until(server, lambda: all(one() is None for one in made))


def test_without_this_server_bodies_come_as_ever() -> None:
    rawbody.take({"type": "http"})


def test_a_form_that_says_to_be_an_upload_is_not_held_in_memory(server: LiveServer) -> None:
    browser = server.logged_in()
    cookie = browser.cookies[server.context.cookie]
    browser.close()
    request = head(
        server, "/api/v1/uploads/0123456789abcdef", Content_Length=32 << 20,
        Cookie=f"{server.context.cookie}={cookie}", Origin=server.url,
        Content_Type="application/x-www-form-urlencoded",
    )  # fmt: skip
    request = request.replace(f"Authorization: Bearer {server.token}\r\n".encode(), b"")
    with connect(server) as connection:
        connection.sendall(request + b"x" * 70_000)
        assert answer(connection).startswith(b"HTTP/1.1 403 ")
