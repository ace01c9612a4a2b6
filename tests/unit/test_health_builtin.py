"""The checks that are built in: units, containers, addresses, names, space, data, clock."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from abupdate.health import network, services, system
from abupdate.health.check import UnhealthyError
from abupdate.health.mounts import TOLD, mounts_that


def told(look: Callable[[], str]) -> str:
    """The words of a failing check; `ok: …` of one that passes."""
    try:
        return f"ok: {look()}"
    except UnhealthyError as error:
        return error.message


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a stand-in for a program in front of the search path."""
    monkeypatch.setattr("abupdate.run.SEARCH_PATH", f"{tmp_path}/bin:/usr/bin:/bin")

    def add(name: str, body: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return add


FAILED = """cat <<END
web.service loaded failed failed The web
dev-sdz.device loaded failed failed a disk
END"""


@pytest.mark.parametrize(
    ("may_fail", "says"),
    [
        ((), "failed: web.service, dev-sdz.device"),
        (("dev-*.device",), "failed: web.service"),
        (
            ("dev-*.device", "web.service"),
            "ok: failed, as they may: web.service, dev-sdz.device",
        ),
    ],
)
def test_failed_units(
    program: Callable[[str, str], None], may_fail: tuple[str, ...], says: str
) -> None:
    program("systemctl", FAILED)
    assert told(lambda: services.failed_units(may_fail, 5.0)) == says


def test_no_failed_unit(program: Callable[[str, str], None]) -> None:
    program("systemctl", "true")
    assert told(lambda: services.failed_units((), 5.0)) == "ok: no unit failed"


def test_active_units(program: Callable[[str, str], None]) -> None:
    program("systemctl", "echo active; echo inactive; exit 3")
    units = ("a.service", "b.service", "c.service")
    assert (
        told(lambda: services.active_units(units, 5.0))
        == "b.service is inactive, c.service is unknown"
    )
    assert told(lambda: services.active_units(units[:1], 5.0)) == "ok: all are active"


def container(name: str, status: str, **more: object) -> dict[str, object]:
    return {"Name": name, "State": {"Status": status, "ExitCode": 3, **more}}


@pytest.mark.row("S35")
@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ([container("web", "running")], "ok: all run"),
        ([container("web", "exited")], "web is exited (exit code 3)"),
        ([container("web", "paused")], "web is paused"),
        ([], "web does not exist"),
        ([container("other", "running")], "web does not exist"),
        ([container("web", "running", Health={"Status": "healthy"})], "ok: all run"),
        ([container("web", "running", Health={"Status": ""})], "ok: all run"),
        ([container("web", "running", Health={"Status": "starting"})], "web runs, and is starting"),
        ([container("web", "running", Health={"Status": "unhealthy"})],
         "web runs, and is unhealthy"),
    ],
)  # fmt: skip
def test_containers(
    program: Callable[[str, str], None],
    tmp_path: Path,
    listed: list[dict[str, object]],
    says: str,
) -> None:
    (tmp_path / "listed").write_text(json.dumps(listed))
    code = 0 if [one["Name"] for one in listed] == ["web"] else 125
    program("podman", f"cat {tmp_path}/listed; echo Error: no such container web >&2; exit {code}")
    assert told(lambda: services.containers(("web",), 5.0)) == says


@pytest.mark.row("S35")
def test_a_podman_that_fails_or_is_not_there(program: Callable[[str, str], None]) -> None:
    program("podman", "echo []; echo 'cannot open storage' >&2; exit 1")
    assert (
        told(lambda: services.containers(("web",), 5.0))
        == "podman exits with 1: cannot open storage"
    )


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/good": 200, "/away": 302, "/same": 304}.get(self.path, 503))
        if self.path == "/away":
            self.send_header("Location", "/good")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


def test_an_address_answers(server: str) -> None:
    good = [f"{server}/{name}" for name in ("good", "away", "same")]
    assert told(lambda: network.answers(good, 5.0)) == "ok: all answer"
    bad = f"{server}/bad"
    assert told(lambda: network.answers([f"{server}/good", bad], 5.0)) == f"{bad} answers with 503"


def test_an_address_that_does_not_answer() -> None:
    address = "http://127.0.0.1:1/"
    assert told(lambda: network.answers([address], 5.0)).startswith(f"{address} does not answer: ")


@pytest.mark.parametrize("address", ["file:///etc/hostname", "data:,x", "no address"])
def test_what_is_no_web_address(address: str) -> None:
    assert "not an address" in told(lambda: network.answers([address], 5.0))


ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
LOCAL = "eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
DEFAULT = "eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
ZERO, SIX = "0" * 32, "fe80" + "0" * 28
NOWHERE6 = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200 lo\n"
REFUSED = "*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n"
DEFAULT6 = f"{ZERO} 00 {ZERO} 00 {SIX} 00000400 00000001 00000000 00000003 eth1\n"


@pytest.mark.parametrize(
    ("four", "six", "says"),
    [
        (ROUTE + LOCAL, NOWHERE6, "there is no default route"),
        (ROUTE + LOCAL + DEFAULT, NOWHERE6, "ok: through eth0"),
        (ROUTE + DEFAULT.replace("0003", "0002"), "", "there is no default route"),
        (ROUTE + REFUSED, "", "there is no default route"),
        (ROUTE + LOCAL, NOWHERE6 + DEFAULT6, "ok: through eth1"),
        ("", "", "there is no default route"),
    ],
)
def test_a_default_route(tmp_path: Path, four: str, six: str, says: str) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/route").write_text(four)
    (tmp_path / "net/ipv6_route").write_text(six)
    assert told(lambda: network.default_route(1.0, tmp_path)) == says


def test_names_resolve() -> None:
    assert told(lambda: network.names_resolve(["localhost"], 5.0)) == "ok: all resolve"
    name = "no-such-host.invalid"
    assert told(lambda: network.names_resolve(["localhost", name], 20.0)).startswith(name)


def test_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(tmp_path)
    found = SimpleNamespace(f_bavail=1024, f_frsize=4096, f_favail=10, f_files=100)
    monkeypatch.setattr("abupdate.health.system.os.statvfs", lambda _path: found)
    assert told(lambda: system.free_space({here: 4 << 20}, {here: 10}, 1.0)) == "ok: enough is free"
    assert told(lambda: system.free_space({here: 5 << 20}, {here: 11}, 1.0)) == (
        f"{here} has 4 MiB free, and should have 5, {here} has 10 inodes free, and should have 11"
    )
    found.f_files = found.f_favail = 0  # a filesystem that does not count them
    assert told(lambda: system.free_space({}, {here: 11}, 1.0)) == "ok: enough is free"


def test_space_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    missing = f"{tmp_path}/missing"
    assert "No such file" in told(lambda: system.free_space({missing: 1}, {}, 1.0))


def test_data_must_be_mounted_and_take_writes(tmp_path: Path) -> None:
    report = tmp_path / "mounts"
    report.write_text("data ok /dev/sda6\netc ok /data/etc/A\n")
    assert told(lambda: system.data_kept(tmp_path, tmp_path, 1.0)) == "ok: mounted, and written to"
    report.write_text("data failed one partition named 'data' was expected\netc failed no data\n")
    assert told(lambda: system.data_kept(tmp_path, tmp_path, 1.0)) == (
        "data: one partition named 'data' was expected; etc: no data"
    )
    report.write_text("data damaged /dev/sda6 has damage\n")
    assert told(lambda: system.data_kept(tmp_path, tmp_path, 1.0)) == "ok: mounted, and written to"
    assert mounts_that(TOLD, tmp_path) == ["data: /dev/sda6 has damage"]
    report.write_text("etc\n\n")
    missing = tmp_path / "missing"
    assert told(lambda: system.data_kept(missing, tmp_path, 1.0)) == (
        f"{missing} cannot be written: No such file or directory"
    )
    assert not [path for path in tmp_path.iterdir() if path != report]


def test_a_clock_before_the_release_is_not_sane() -> None:
    assert told(lambda: system.clock_sane(0.0, 1.0)).startswith("ok")
    assert "was signed on 2100-01-01" in told(lambda: system.clock_sane(4102444800.0, 1.0))
