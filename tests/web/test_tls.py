"""TLS: a certificate of one's own, or one that the server makes; and what a browser gets then."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from pathlib import Path

import httpx
import pytest

from abupdate.config import WebSection, WebTls
from abupdate.errors import UsageError
from abupdate.run import run
from abupdate.web import tls
from tests.web.live_server import PASSWORD, LiveServer, until


def made(folder: Path, days: int, name: str = "box.example") -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-noenc", "-keyout", key, "-out", cert, "-days", str(days), "-subj", f"/CN={name}",
        "-addext", f"subjectAltName=DNS:{name}",
    ])  # fmt: skip
    return cert, key


def names_in(cert: Path) -> str:
    told = run(["openssl", "x509", "-in", cert, "-noout", "-ext", "subjectAltName"]).stdout
    return told.decode()


def test_one_is_made_and_kept(tmp_path: Path) -> None:
    settings = WebSection(tls="self")
    first = tls.certificate(settings, tmp_path)
    assert first is not None
    cert, key = first
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(cert.parent.stat().st_mode) == 0o700
    before = tls.fingerprint(cert)
    assert tls.certificate(settings, tmp_path) == first and tls.fingerprint(cert) == before
    assert f"DNS:{os.uname().nodename}" in names_in(cert) and "DNS:localhost" in names_in(cert)
    told = run(["openssl", "x509", "-in", cert, "-noout", "-fingerprint", "-sha256"]).stdout
    assert told.decode().strip().endswith(before)  # as others show it


def test_one_is_made_anew_for_other_names_and_near_its_end(tmp_path: Path) -> None:
    cert, key = tls.self_made(tmp_path, ())
    before = tls.fingerprint(cert)
    tls.self_made(tmp_path, ("kiosk.example",))
    second = tls.fingerprint(cert)
    assert second != before and "DNS:kiosk.example" in names_in(cert)
    short, own = made(tmp_path, 20)
    short.rename(cert)
    own.rename(key)
    tls.self_made(tmp_path, ("kiosk.example",))
    assert "DNS:kiosk.example" in names_in(cert)
    key.unlink()  # a disk that lost one of them
    tls.self_made(tmp_path, ("kiosk.example",))
    assert key.is_file()


def test_without_tls_there_is_none(tmp_path: Path) -> None:
    assert tls.certificate(WebSection(), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["missing", "no certificate", "of another", "with a passphrase"])
def test_one_that_does_not_fit_is_refused_with_its_name(tmp_path: Path, fault: str) -> None:
    cert, key = made(tmp_path, 100)
    match fault:
        case "missing":
            key.unlink()
        case "no certificate":
            cert.write_text("hello\n")
        case "of another":
            (tmp_path / "other").mkdir()
            made(tmp_path / "other", 100)[1].rename(key)
        case _:
            run(["openssl", "ec", "-in", key, "-out", tmp_path / "locked", "-aes256",
                 "-passout", "pass:secret"])  # fmt: skip
            (tmp_path / "locked").rename(key)
    settings = WebSection(tls=WebTls(cert=str(cert), key=str(key)))
    with pytest.raises(UsageError, match=r"cert\.pem and .*key\.pem"):
        tls.certificate(settings, tmp_path)


@pytest.mark.row("S46")
def test_who_comes_by_https_is_served_and_others_are_not(tmp_path: Path) -> None:
    files = made(tmp_path, 100, "localhost")
    trust = ssl.create_default_context(cafile=str(files[0]))
    with LiveServer(tmp_path / "web", files=files) as server:
        url = f"https://localhost:{server.port}"
        with httpx.Client(base_url=url, verify=trust, trust_env=False, timeout=60) as client:
            answer = client.post("/login", data={"password": PASSWORD}, headers={"Origin": url})
            cookie = answer.headers["Set-Cookie"]
            assert answer.status_code == 303
            assert cookie.startswith("__Host-abupdate=") and "; Secure" in cookie
            assert client.get("/").status_code == 200
            # Another port's plain page is not this one.
            plain = {"Origin": f"http://localhost:{server.port}"}
            assert client.post("/login", data={"password": "x"}, headers=plain).status_code == 403
        assert server.talk(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", wait=False) == b""


@pytest.mark.row("S46")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_a_connection_is_no_handshake_any_more(
    tmp_path: Path, family: socket.AddressFamily
) -> None:
    """Nor is it cut when the time for one is over."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    try:
        socket.create_server((host, 0), family=family).close()
    except OSError:
        pytest.skip("this machine has no such addresses")
    files = made(tmp_path, 100, "localhost")
    trust = ssl.create_default_context(cafile=str(files[0]))
    with (
        LiveServer(tmp_path / "web", files=files, address=host) as server,
        socket.create_connection((host, server.port), timeout=30) as connection,
    ):
        until(lambda: server.handshakes() == 1)
        with trust.wrap_socket(connection, server_hostname="localhost") as secure:
            secure.sendall(b"GET /login HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert secure.recv(100).startswith(b"HTTP/1.1 200 ")
            assert server.handshakes() == 0 and server.connections() == 1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    files = made(tmp_path, 100, "localhost")
    old = ssl.create_default_context(cafile=str(files[0]))
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with (
        LiveServer(tmp_path / "web", files=files) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(connection, server_hostname="localhost")
