"""Uploads: whole, cut and gone on with, wrong, too large, endless, two at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from abupdate.web.limits import Limits
from abupdate.web.uploads import KEPT, WHOLE, UploadError, Uploads
from tests.web.live_server import Clock, LiveServer, digest, read_all

DATA = bytes(range(256)) * 12_000  # 3 MB, more than one piece


def begin(client: httpx.Client, size: int = len(DATA), **more: object) -> str:
    answer = client.post("/api/v1/uploads", json={"size": size, **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def whole(server: LiveServer, name: str) -> Path:
    return server.context.uploads.folder / f"{name}.bundle"


@pytest.mark.row("S45")
def test_one_goes_up_in_parts(server: LiveServer) -> None:
    with server.script() as client:
        name = begin(client, sha256=digest(DATA), name="box 1.5.0.bundle")
        first, rest = DATA[:1_000_001], DATA[1_000_001:]
        url = f"/api/v1/uploads/{name}"
        answer = client.put(url, content=first, headers={"Upload-Offset": "0"})
        assert (answer.status_code, answer.json()["complete"]) == (200, False)
        assert client.head(url).headers["Upload-Offset"] == str(len(first))
        part = f"bytes {len(first)}-{len(DATA) - 1}/{len(DATA)}"
        answer = client.put(url, content=rest, headers={"Content-Range": part})
        assert answer.json() | {"created": 0} == {
            "id": name, "name": "box 1.5.0.bundle", "size": len(DATA), "offset": len(DATA),
            "created": 0, "sha256": digest(DATA), "complete": True,
        }  # fmt: skip
        assert whole(server, name).read_bytes() == DATA
        assert client.get("/api/v1/uploads").json() == [client.get(url).json()]
        assert client.delete(url).status_code == 204
        assert client.get(url).status_code == 404
        assert not whole(server, name).exists()


@pytest.mark.row("S45")
def test_one_that_is_cut_goes_on_where_it_was(server: LiveServer) -> None:
    with server.script() as client:
        name = begin(client, sha256=digest(DATA))
        url = f"/api/v1/uploads/{name}"
        head = (
            f"PUT {url} HTTP/1.1\r\nHost: {server.host}\r\nAuthorization: Bearer {server.token}\r\n"
            f"Content-Length: {len(DATA)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.encode() + DATA[:1_500_000])
        # The connection is gone; whoever goes on takes over what the server has of it.
        offset = 0
        for _ in range(50):
            answer = client.put(url, content=DATA[offset:], headers={"Upload-Offset": str(offset)})
            if answer.status_code == 200:
                break
            assert answer.status_code == 409
            offset = int(answer.headers["Upload-Offset"])
        assert answer.json()["complete"]
        assert whole(server, name).read_bytes() == DATA


def test_a_second_connection_takes_an_upload_over(server: LiveServer) -> None:
    with server.script() as client:
        name = begin(client)
        url = f"/api/v1/uploads/{name}"
        head = (
            f"PUT {url} HTTP/1.1\r\nHost: {server.host}\r\nAuthorization: Bearer {server.token}\r\n"
            f"Content-Length: {len(DATA)}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as silent:
            silent.sendall(head.encode() + DATA[:70_000])
            offset = 0
            for _ in range(50):
                answer = client.put(
                    url, content=DATA[offset:], headers={"Upload-Offset": str(offset)}
                )
                if answer.status_code == 200:
                    break
                offset = int(answer.headers["Upload-Offset"])
            assert answer.json()["complete"]
            told = read_all(silent)
        assert b" 409 " in told.split(b"\r\n", 1)[0] or told == b""
        assert whole(server, name).read_bytes() == DATA


@pytest.mark.row("S45")
def test_what_is_no_upload_is_refused(server: LiveServer) -> None:
    with server.script() as client:
        assert client.post("/api/v1/uploads", json={"size": (64 << 20) + 1}).status_code == 413
        assert client.post("/api/v1/uploads", json={"size": 0}).status_code == 422
        assert client.post("/api/v1/uploads", json={"size": 1, "path": "/x"}).status_code == 422
        name = begin(client, size=10)
        url = f"/api/v1/uploads/{name}"
        for headers, status in (
            ({"Upload-Offset": "3"}, 409), ({"Upload-Offset": "-1"}, 400),
            ({"Upload-Offset": "x"}, 400), ({"Content-Range": "bytes 0-4/99"}, 400),
            ({"Content-Range": "bytes */10"}, 400), ({"Upload-Offset": "6"}, 413),
        ):  # fmt: skip
            assert client.put(url, content=b"12345", headers=headers).status_code == status
        assert client.put(url, content=b"12345678901").status_code == 413
        answer = client.put(url, content=iter([b"123"]))
        assert answer.status_code == 411, answer.text
        assert client.head(url).headers["Upload-Offset"] == "0"


@pytest.mark.row("S45")
def test_one_at_a_time(server: LiveServer) -> None:
    with server.script() as client:
        name = begin(client)
        again = client.post("/api/v1/uploads", json={"size": 5})
        assert (again.status_code, again.json()["upload"]) == (409, name)
        assert client.put("/api/v1/bundle", content=b"12345").status_code == 409
        client.delete(f"/api/v1/uploads/{name}")
        begin(client, size=5)


@pytest.mark.row("S45")
def test_a_wrong_digest_leaves_nothing(server: LiveServer) -> None:
    with server.script() as client:
        name = begin(client, sha256="0" * 64)
        answer = client.put(f"/api/v1/uploads/{name}", content=DATA)
        assert answer.status_code == 422
        assert digest(DATA) in answer.json()["detail"]
        assert list(server.context.uploads.folder.iterdir()) == []


def test_a_whole_bundle_at_once(server: LiveServer) -> None:
    with server.script() as client:
        answer = client.put(f"/api/v1/bundle?name=x&sha256={digest(DATA)}", content=DATA)
        assert answer.status_code == 201
        assert client.get(answer.headers["Location"]).json()["complete"]
        assert client.put("/api/v1/bundle?sha256=" + "0" * 64, content=b"x").status_code == 422
        assert client.put("/api/v1/bundle?sha256=x", content=b"x").status_code == 400
        assert client.put("/api/v1/bundle", content=b"").status_code == 400


def test_what_was_not_announced_is_not_hashed(server: LiveServer) -> None:
    with server.script() as client:
        name = begin(client)
        assert not server.context.uploads._digests
        answer = client.put(f"/api/v1/uploads/{name}", content=DATA)
        assert answer.json()["complete"] and answer.json()["sha256"] is None
        assert whole(server, name).read_bytes() == DATA


def test_a_slow_or_silent_sender_is_hung_up_on(tmp_path: Path) -> None:
    limits = Limits(silence=0.3)
    with LiveServer(tmp_path / "web", limits=limits) as server, server.script() as client:
        name = begin(client, sha256=digest(DATA))
        head = (
            f"PUT /api/v1/uploads/{name} HTTP/1.1\r\nHost: {server.host}\r\n"
            f"Authorization: Bearer {server.token}\r\nContent-Length: {len(DATA)}\r\n\r\n"
        )
        told = server.talk(head.encode() + DATA[:1000])
        assert b" 408 " in told.split(b"\r\n", 1)[0]
        # What came is kept: the sender may come back.
        url = f"/api/v1/uploads/{name}"
        assert client.head(url).headers["Upload-Offset"] == "1000"
        answer = client.put(url, content=DATA[1000:], headers={"Upload-Offset": "1000"})
        assert answer.json()["complete"]


def test_one_that_drips_is_hung_up_on(tmp_path: Path) -> None:
    limits = Limits(window=0.2, window_bytes=1 << 20, silence=60)
    with LiveServer(tmp_path / "web", limits=limits) as server, server.script() as client:
        name = begin(client)
        head = (
            f"PUT /api/v1/uploads/{name} HTTP/1.1\r\nHost: {server.host}\r\n"
            f"Authorization: Bearer {server.token}\r\nContent-Length: {len(DATA)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.05) as connection:
            connection.sendall(head.encode())
            told = b""
            for _ in range(2000):
                try:
                    connection.sendall(b"x")
                    told += connection.recv(4096)
                    break
                except TimeoutError:
                    continue
                except OSError:
                    break
        assert b" 408 " in told.split(b"\r\n", 1)[0]


def test_a_restart_of_the_server_goes_on(tmp_path: Path) -> None:
    state = tmp_path / "web"
    with LiveServer(state) as server, server.script() as client:
        done = begin(client, size=4)
        client.put(f"/api/v1/uploads/{done}", content=b"done")
        name = begin(client, sha256=digest(DATA))
        client.put(f"/api/v1/uploads/{name}", content=DATA[:2_000_000])
        (server.context.uploads.folder / "stray.part").write_bytes(b"x")
    with LiveServer(state) as server, server.script() as client:
        assert not (server.context.uploads.folder / "stray.part").exists()
        assert client.get(f"/api/v1/uploads/{done}").json()["complete"]
        url = f"/api/v1/uploads/{name}"
        assert client.head(url).headers["Upload-Offset"] == "2000000"
        answer = client.put(url, content=DATA[2_000_000:], headers={"Upload-Offset": "2000000"})
        assert answer.json()["complete"]


def test_what_nobody_uses_goes(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = (tmp_path.stat()).st_mtime
    uploads = Uploads(tmp_path / "uploads", 1 << 20, clock)
    names = []
    for number in range(WHOLE + 1):
        clock.now += 1
        upload = uploads.create(3)
        asyncio.run(uploads.write(upload.id, 0, _pieces(f"{number:03}".encode())))
        names.append(upload.id)
    assert [one.id for one in uploads.all()] == [names[2], names[1]]
    clock.now += KEPT + 3600
    uploads.tidy()
    assert uploads.all() == []
    assert list(uploads.folder.iterdir()) == []


def test_a_full_disk_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads(tmp_path / "uploads", 1 << 40, Clock())
    monkeypatch.setattr(Uploads, "_free", lambda _self: 100 << 20)
    with pytest.raises(UploadError) as refused:
        uploads.create(50 << 20)
    assert refused.value.status == 507
    uploads.create(30 << 20)


def test_the_end_of_a_form_is_the_end_of_an_upload(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", 1 << 20, Clock())
    upload = uploads.create(1000)
    asyncio.run(uploads.write(upload.id, 0, _pieces(b"12", b"345"), last=True))
    assert (upload.complete, upload.size) == (True, 5)


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "uploads", 1 << 20, Clock())
    upload, aim = uploads.create(3), tmp_path / "aim"
    aim.write_bytes(b"mine")
    part = uploads.folder / f"{upload.id}.part"
    part.unlink()
    part.symlink_to(aim)
    with pytest.raises(UploadError):
        asyncio.run(uploads.write(upload.id, 0, _pieces(b"abc")))
    assert aim.read_bytes() == b"mine"


def test_an_upload_that_was_ended_ends_its_sender(server: LiveServer) -> None:
    with server.script() as client:
        name = begin(client)
        head = (
            f"PUT /api/v1/uploads/{name} HTTP/1.1\r\nHost: {server.host}\r\n"
            f"Authorization: Bearer {server.token}\r\nContent-Length: {len(DATA)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(head.encode() + DATA[:100_000])
            while not server.do(lambda: server.context.uploads._writing):
                pass
            assert client.delete(f"/api/v1/uploads/{name}").status_code == 204
            assert b" 404 " in connection.recv(65536).split(b"\r\n", 1)[0]
        assert list(server.context.uploads.folder.iterdir()) == []


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
