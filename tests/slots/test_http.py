"""Releases from web servers: what is asked for, how often, and what becomes of bad ones."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from abupdate.config import SourceSection
from abupdate.disk.layout import Slot
from abupdate.events import Events
from abupdate.source.http import Download, HttpSource
from abupdate.store.readable import chunks
from tests.slots.device import Device, Refused, make_release, snapshot, within_memory
from tests.slots.rootfs import make_rootfs
from tests.slots.webserver import Site, serving

CHUNK = 16 * 1024


@pytest.fixture
def device(plain_device: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr("abupdate.source.http.time.sleep", lambda _: None)
    return plain_device


@pytest.fixture
def bundle(device: Device) -> bytes:
    """All of release 4, which has a file that does not get smaller."""
    path = device.top / "full.bundle"
    if not path.exists():
        rootfs = make_rootfs(device.top / "rootfs4", "4")
        (rootfs / "usr/noise").write_bytes(random.Random(4).randbytes(20 * CHUNK))
        make_release(device, rootfs, "4")
        device.publish("bundle", "--repo", device.publisher, "--version", "4", "-o", path)
    return path.read_bytes()


def test_from_an_address(device: Device, bundle: bytes) -> None:
    with serving(Site(bundle)) as site:
        assert device.run("install", site.url) == 0
    assert device.state().trial == Slot.B
    detail = device.machine.records.history()[-1].detail
    assert (detail["source"], detail["transferred"]) == (site.url, len(bundle))
    assert site.asked == [f"/gw.bundle bytes=0-{CHUNK - 1}", f"/gw.bundle bytes={CHUNK}-"]
    assert site.sent == len(bundle)


@pytest.mark.row("S56")
def test_a_bad_signature_costs_a_few_kilobytes(
    device: Device, bundle: bytes, refused: Refused
) -> None:
    keys = device.paths.state / "trust"
    keys.mkdir(exist_ok=True)
    (keys / "revoked").write_bytes((device.top / "keys/release.pub").read_bytes())
    with serving(Site(bundle)) as site:
        refused(site.url, 6, "revokes")
    assert site.asked == [f"/gw.bundle bytes=0-{CHUNK - 1}"]
    assert site.sent == CHUNK


@pytest.fixture
def in_zstd(device: Device, bundle: bytes) -> bytes:
    """The same release in zstd."""
    path = device.top / "full.bundle.zst"
    if not path.exists():
        repo = ("--repo", device.publisher, "--version", "4")
        device.publish("bundle", *repo, "--zstd", "-o", path)
    return path.read_bytes()


@pytest.mark.row("S56")
def test_in_zstd_its_signature_is_known_from_the_first_bytes_as_well(
    device: Device, bundle: bytes, in_zstd: bytes, refused: Refused
) -> None:
    with serving(Site(in_zstd, breaks=[CHUNK + 1, 3 * CHUNK])) as site:
        assert device.run("install", site.url) == 0
        assert site.sent <= len(in_zstd) + CHUNK
        entry = device.machine.records.history()[-1]
        assert (entry.release, entry.detail["transferred"]) == ("4", len(in_zstd))
        assert device.run("verify", "B") == 0
        (device.paths.state / "trust").mkdir(exist_ok=True)
        shutil.copy(device.top / "keys/release.pub", device.paths.state / "trust/revoked")
        site.sent = 0
        refused(site.url, 6, "revokes")
    assert site.sent == CHUNK


def test_in_zstd_by_standard_input(
    device: Device, in_zstd: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    writer = threading.Thread(target=lambda: os.fdopen(write, "wb").write(in_zstd), daemon=True)
    writer.start()
    with os.fdopen(read, "rb") as source:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(source))
        assert device.run("install", "-") == 0
    writer.join()
    assert device.machine.records.history()[-1].release == "4"


@pytest.mark.parametrize("missing", ["zstd", "python3"])
def test_in_zstd_without_what_unpacks_it(
    device: Device, in_zstd: bytes, monkeypatch: pytest.MonkeyPatch, refused: Refused, missing: str
) -> None:
    which = shutil.which
    monkeypatch.setattr(
        "abupdate.run.shutil.which",
        lambda name, path=None: None if name == missing else which(name, path=path),
    )
    refused(device.top / "full.bundle.zst", 11, f"This needs {missing}, and found none")
    assert device.run("install", device.top / "full.bundle.zst", device.top / "2.bundle") == 0


@pytest.mark.row("U9")
def test_a_download_that_breaks_goes_on_from_there(device: Device, bundle: bytes) -> None:
    breaks = [CHUNK // 2, 3 * CHUNK, 3 * CHUNK + 1, len(bundle) - 1]
    with serving(Site(bundle, breaks=[*breaks])) as site:
        assert device.run("install", site.url) == 0
    assert site.sent <= len(bundle) + CHUNK
    assert len(site.asked) == 2 + len(breaks)
    assert not site.breaks


@pytest.mark.row("U9")
def test_a_server_that_stalls_is_asked_again(device: Device, bundle: bytes) -> None:
    device.configure("source.stall=1")
    with serving(Site(bundle, stalls=[5 * CHUNK])) as site:
        assert device.run("install", site.url) == 0
    assert site.asked[-1] == f"/gw.bundle bytes={5 * CHUNK}-"
    assert site.sent == len(bundle)


@pytest.mark.parametrize("behaviour", [{"ranges": False}, {"etag": None}, {"length": False}])
def test_servers_that_can_do_less(
    device: Device, bundle: bytes, behaviour: dict[str, object]
) -> None:
    """No ranges: what is here already is sent again, and not taken twice."""
    with serving(Site(bundle, breaks=[3 * CHUNK], **behaviour)) as site:  # type: ignore[arg-type]
        assert device.run("install", site.url) == 0
    assert device.state().trial == Slot.B


def test_a_redirect_and_a_server_that_is_busy(device: Device, bundle: bytes) -> None:
    with serving(Site(bundle, redirect="/elsewhere?a=b&c", status=[503, 429])) as site:
        assert device.run("install", site.url) == 0
    assert site.asked[1].startswith("/elsewhere?a=b&c ")


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda raw: Site(raw, status=[404]), 9, "the server answers with 404"),
        (lambda raw: Site(raw, status=[500] * 9), 9, "the server answers with 500"),
        (lambda raw: Site(raw, breaks=[*range(4096, 4106)]), 9, "tried 6 times"),
        (lambda raw: Site(raw, redirect="/gw.bundle"), 9, "redirects"),
        (lambda raw: Site(raw, redirect="file:///etc/passwd"), 9, "Protocol"),
        (lambda raw: Site(b"<html>Not a bundle, but a page</html>\n" * 99), 9, "Not a bundle"),
        (lambda raw: Site(raw[:-50] + bytes(50)), 9, "pack should be whole"),
        (lambda raw: Site(raw + b"more"), 9, "goes on after the end"),
        (lambda raw: Site(raw, changes=raw[:-1], etag=None), 9, "the server sends"),
        (lambda raw: Site(raw, changes=raw[:-1] + b"x", etag=None), 9, "pack should be whole"),
        (lambda raw: Site(raw, ranges=False, changes=raw[:-1], breaks=[99]), 9, "has changed"),
        (lambda raw: Site(b""), 9, "is empty"),
    ],
)  # fmt: skip
def test_bad_servers_leave_no_trace(
    device: Device,
    bundle: bytes,
    make: Callable[[bytes], Site],
    code: int,
    says: str,
    refused: Refused,
) -> None:
    with serving(make(bundle)) as site:
        refused(site.url, code, says)
    assert list((device.paths.state / "spool").iterdir()) == []


@pytest.mark.parametrize(
    "opening",
    [
        b"HTTP/1.1 200 " + b"a" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 5000,
    ],
)
def test_an_answer_without_end(device: Device, refused: Refused, opening: bytes) -> None:
    """What a server sends is held in memory by nobody."""
    with serving(Site(b"", opening=opening)) as site, within_memory(20_000):
        refused(site.url, 9, "cannot be fetched")


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1])
def test_a_server_that_never_says_how_long_the_file_is(size: int) -> None:
    content = random.Random(size).randbytes(size)
    with (
        serving(Site(content, told=False, length=False)) as site,
        Download(HttpSource(site.url), SourceSection(), None, Events()) as download,
    ):
        assert b"".join(chunks(download)) == content


def test_nobody_there(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    """Told at once, and without the password."""
    before = snapshot(device)
    assert device.run("install", "http://me:secret@127.0.0.1:1/gw.bundle") == 9
    said = capsys.readouterr().err
    assert "http://127.0.0.1:1/gw.bundle cannot be fetched" in " ".join(said.split())
    assert "secret" not in said
    assert snapshot(device) == before


def test_a_proxy_and_its_password(
    device: Device, bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked; nobody reads the password on a command line."""
    started: list[object] = []
    popen = subprocess.Popen

    class Noted(popen):  # type: ignore[misc, valid-type]
        def __init__(self, words: list[str], **more: object) -> None:
            started.extend(words)
            super().__init__(words, **more)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    with serving(Site(bundle)) as site:
        proxy = site.address.replace("//", "//me:secret@")
        device.configure(f"source.proxy={proxy}")
        assert device.run("install", "http://releases.invalid/gw.bundle") == 0
    assert site.asked[0].startswith("http://releases.invalid/gw.bundle")
    assert "curl" in started
    assert not any("secret" in str(word) for word in started)


@pytest.mark.parametrize("url", ["http://", "https://host:port/x", "http://a b/", "http://x/\n"])
def test_what_is_no_address(device: Device, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert device.run("install", url) == 2
    assert "An address such as" in capsys.readouterr().err


@pytest.mark.row("S57")
def test_the_next_source_is_asked_when_one_lies_or_dies(
    device: Device, bundle: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    liar = bundle[: 4 * CHUNK] + bytes(len(bundle) - 4 * CHUNK)
    with (
        serving(Site(liar)) as lies,
        serving(Site(bundle, status=[500] * 9)) as dies,
        serving(Site(bundle)) as good,
    ):
        assert device.run("install", lies.url, dies.url, "/no/such/file", good.url) == 0
    said = " ".join(capsys.readouterr().err.split())
    for site in (lies, dies):
        assert site.url in said
    assert said.count("The next source is asked.") == 3
    detail = device.machine.records.history()[-1].detail
    assert detail["source"] == good.url
    assert device.run("verify", "B") == 0


def test_a_release_that_policy_refuses_is_asked_of_nobody_else(
    device: Device, bundle: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (device.paths.state / "trust").mkdir(exist_ok=True)
    (device.paths.state / "trust/floor").write_text("9\n")
    with serving(Site(bundle)) as first, serving(Site(bundle)) as second:
        assert device.run("install", first.url, second.url) == 7
    assert (first.sent, second.asked) == (CHUNK, [])


def test_the_next_source_is_asked_when_one_only_says_that_it_is_large(
    device: Device, bundle: bytes
) -> None:
    """The count of objects stands in the pack, which no signature covers."""
    at = bundle.index(b"PACK") + 8
    liar = bundle[:at] + b"\xff" * 4 + bundle[at + 4 :]
    with serving(Site(liar)) as lies:
        assert device.run("install", lies.url) == 8
        assert device.run("install", lies.url, device.top / "2.bundle") == 0


def test_without_curl_the_next_source_is_asked(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    which = shutil.which
    monkeypatch.setattr(
        "abupdate.run.shutil.which",
        lambda name, path=None: None if name == "curl" else which(name, path=path),
    )
    assert device.run("install", "http://127.0.0.1:1/gw.bundle") == 11
    assert device.run("install", "http://127.0.0.1:1/gw.bundle", device.top / "2.bundle") == 0
    assert "curl not found" in " ".join(capsys.readouterr().err.split())


@pytest.mark.row("U22")
def test_no_second_copy_on_the_disk(device: Device, bundle: bytes) -> None:
    """The most that the data partition holds more than before, looked at all the time."""
    most, over = 0, threading.Event()
    before = _size(device.paths.data)

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, _size(device.paths.data) - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with serving(Site(bundle)) as site:
        assert device.run("install", "--no-arm", site.url) == 0
    over.set()
    watcher.join()
    assert len(bundle) < most < 1.1 * len(bundle) + 64 * 1024  # the index, and records


def _size(folder: Path) -> int:
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_size  # noqa: PTH118
            except OSError:
                continue  # gone meanwhile
    return total
