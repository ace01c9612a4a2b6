"""`abupdate publish diff`: what an update brings."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abupdate.cli.main import main

Capture = pytest.CaptureFixture[str]
_STATUS = """\
Package: curl
Status: install ok installed
Architecture: amd64
Version: {curl}
Description: line one
 Version: not this

Package: gone
Status: deinstall ok config-files
Version: 1

{more}"""


def dpkg(curl: str, more: str = "") -> str:
    return _STATUS.format(curl=curl, more=more)


def stanza(name: str, version: str, architecture: str = "amd64") -> str:
    return f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n\n"


def rpm_header(**tags: str | int) -> bytes:
    """A header as rpm writes it: two counts, an index, the data."""
    numbers = {"name": 1000, "version": 1001, "release": 1002, "epoch": 1003, "arch": 1022}
    index, data = b"", b""
    for name, value in {"summary": "x", **tags}.items():
        tag = numbers.get(name, 1004)
        if isinstance(value, int):
            data += bytes(-len(data) % 4)
            index += struct.pack(">IIII", tag, 4, len(data), 1)
            data += struct.pack(">I", value)
        else:
            index += struct.pack(">IIII", tag, 6, len(data), 1)
            data += value.encode() + b"\0"
    return struct.pack(">II", len(index) // 16, len(data)) + index + data


def write(tree: Path, path: str, content: str | bytes) -> None:
    where = tree / path
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Callable[[Path], None]], None]:
    """Commits the tree of a version, made by a function on a copy of the last one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1750000000")
    tree = tmp_path / "tree"
    tree.mkdir()

    def publish(version: str, change: Callable[[Path], None]) -> None:
        change(tree)
        words = ["commit", str(tree), "--repo", "r.git", "--version", version]
        assert main(["publish", *words, "--compatible", "gw"]) == 0

    return publish


def told(capsys: Capture, *options: str) -> str:
    capsys.readouterr()
    assert main(["publish", "diff", "1", "2", "--repo", "r.git", *options]) == 0
    return capsys.readouterr().out


Publish = Callable[[str, Callable[[Path], None]], None]


def first(tree: Path) -> None:
    write(tree, "var/lib/dpkg/status", dpkg("7.88", stanza("libc6", "2.36")))
    write(tree, "boot/vmlinuz-6.1", "kernel one" * 1000)
    write(tree, "etc/motd", "hello\n")
    write(tree, "etc/old", "old\n")
    write(tree, "usr/bin/tool", "a tool\n")
    for number in range(30):
        write(tree, f"usr/share/{number}", f"{number}\n")


def second(tree: Path) -> None:
    both = stanza("libc6", "2.37") + stanza("libc6", "2.36", "i386")
    write(tree, "var/lib/dpkg/status", dpkg("7.89", both))
    (tree / "boot/vmlinuz-6.1").unlink()
    write(tree, "boot/vmlinuz-6.2", "kernel two" * 1000)
    write(tree, "etc/motd", "hello world\n")
    (tree / "etc/old").unlink()
    (tree / "usr/bin/tool").chmod(0o700)
    for number in range(30):
        write(tree, f"usr/share/{number}", f"{number} again\n")


def test_packages_files_and_bytes(published: Publish, capsys: Capture, tmp_path: Path) -> None:
    published("1", first)
    published("2", second)
    report: dict[str, Any] = json.loads(told(capsys, "--json"))
    assert report["packages"] == [
        {"name": "curl", "old": "7.88", "new": "7.89"},
        {"name": "libc6", "old": "2.36", "new": None},
        {"name": "libc6:amd64", "old": None, "new": "2.37"},
        {"name": "libc6:i386", "old": None, "new": "2.36"},
    ]
    assert report["etc"] == {
        "added": [], "removed": ["etc/old"], "changed": ["etc/motd"], "attributes": [],
    }  # fmt: skip
    assert report["boot"]["added"] == ["boot/vmlinuz-6.2"]
    assert report["boot"]["removed"] == ["boot/vmlinuz-6.1"]
    assert report["paths"]["attributes"] == ["usr/bin/tool"]
    assert len(report["paths"]["changed"]) == 32
    written = ["var/lib/dpkg/status", "boot/vmlinuz-6.2", "etc/motd"]
    sizes = [(tmp_path / "tree" / path).stat().st_size for path in written]
    shared = sum(path.stat().st_size for path in (tmp_path / "tree/usr/share").iterdir())
    assert (report["write"], report["write_files"]) == (sum(sizes) + shared, 33)
    # What is said is what the bundle then has, but for the tag and the header.
    assert main(["publish", "keygen", "--out", "keys"]) == 0
    for version, since, key in (("1", (), "fetch_full"), ("2", ("--since", "1"), "fetch")):
        repo = ("--repo", "r.git", "--version", version)
        assert main(["publish", "sign", *repo, "--key", "keys/release"]) == 0
        assert main(["publish", "bundle", *repo, *since, "-o", f"{version}.bundle"]) == 0
        if key == "fetch":
            size = (tmp_path / f"{version}.bundle").stat().st_size
            assert 0 < size - report[key] < 1500
    assert report["fetch"] < report["fetch_full"]


def test_the_text_is_short_or_full(published: Publish, capsys: Capture) -> None:
    published("1", first)
    published("2", second)
    text = told(capsys)
    assert text.startswith("release   1 -> 2 for gw\npackages  4\n            curl 7.88 -> 7.89\n")
    assert "          + boot/vmlinuz-6.2\n" in text
    assert "usr/share/9" not in text
    assert "          and 16 more (--full)\n" in text
    assert "to write  0.0 MB in 33 files\n" in text
    text = told(capsys, "--full")
    assert "          : usr/bin/tool\n" in text
    assert "          ~ usr/share/9\n" in text


def test_a_release_without_records_of_packages(published: Publish, capsys: Capture) -> None:
    published("1", lambda tree: write(tree, "a", "1"))
    published("2", lambda tree: write(tree, "a", "2"))
    assert "packages  none\n/boot     none\n/etc      none\npaths     1\n" in told(capsys)


def rpmdb(*rows: bytes) -> bytes:
    path = Path("rpmdb.made")
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
    database.executemany("INSERT INTO Packages (blob) VALUES (?)", [(row,) for row in rows])
    database.commit()
    database.close()
    raw = path.read_bytes()
    path.unlink()
    return raw


RECORDS: dict[str, tuple[str, Callable[[str], str | bytes]]] = {
    "opkg": ("var/lib/opkg/status", dpkg),
    "one file each": ("var/lib/dpkg/status.d/curl", lambda version: stanza("curl", version)),
    "rpm": (
        "usr/lib/sysimage/rpm/rpmdb.sqlite",
        lambda version: rpmdb(
            rpm_header(name="curl", version=version, release="3", epoch=1, arch="x86_64"),
            rpm_header(name="same", version="1", release="1", arch="noarch"),
            b"\0\0\0\5damaged",
        ),
    ),
}


@pytest.mark.parametrize("record", RECORDS)
def test_records_of_other_package_managers(
    published: Publish, capsys: Capture, record: str
) -> None:
    path, made = RECORDS[record]
    published("1", lambda tree: write(tree, path, made("7.88")))
    published("2", lambda tree: write(tree, path, made("7.89")))
    old, new = ("1:7.88-3", "1:7.89-3") if record == "rpm" else ("7.88", "7.89")
    report = json.loads(told(capsys, "--json"))
    assert report["packages"] == [{"name": "curl", "old": old, "new": new}]


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(4096)])
def test_a_damaged_record_is_none(published: Publish, capsys: Capture, content: bytes) -> None:
    published("1", lambda tree: write(tree, "var/lib/rpm/rpmdb.sqlite", rpmdb()))
    published("2", lambda tree: write(tree, "var/lib/rpm/rpmdb.sqlite", content))
    assert "packages  none\n" in told(capsys)


def test_a_version_that_is_not_there(published: Publish, capsys: Capture) -> None:
    published("1", lambda tree: write(tree, "a", "1"))
    capsys.readouterr()
    assert main(["publish", "diff", "1", "2", "--repo", "r.git"]) == 2
    assert "r.git has no release 2." in capsys.readouterr().err
    shutil.rmtree("tree")
    assert os.listdir() == ["r.git"]  # noqa: PTH208
