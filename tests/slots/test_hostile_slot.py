"""Whatever a slot holds, a release ends up on it whole, and nothing outside is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from abupdate.errors import AbupdateError, DeviceFaultError, NoSpaceError, NotTrustedError
from abupdate.events import Events
from abupdate.store.capture import Captured, capture
from abupdate.store.content import open_commit
from abupdate.store.materialise.apply import materialise
from abupdate.store.repository import Repository
from abupdate.store.verify import compare
from tests.slots import beneath, loop
from tests.slots.rootfs import make_rootfs
from tests.slots.test_materialise import Bench, rsync_finds


def command(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "source").mkdir()
    with loop.ext4(tmp_path, 64 << 20) as (mountpoint, _):
        yield Bench(tmp_path, Repository.create(tmp_path / "store.git"), mountpoint)


def write_and_compare(bench: Bench, source: Path | None = None) -> Captured:
    source = source or bench.top / "source"
    captured = bench.capture(source)
    bench.materialise(captured)
    assert bench.differences(captured) == []
    assert rsync_finds(source, bench.slot) == ""
    return captured


def test_a_default_acl_is_not_inherited(bench: Bench) -> None:
    source = bench.top / "source"
    log = source / "log"
    (log / "old").mkdir(parents=True)
    (log / "file").write_text("1")
    command("setfacl", "-m", "d:u:1234:rwx,u:1234:rx", log)
    write_and_compare(bench)
    for path in (log / "file", log / "new"):
        path.write_text("other content")
        command("setfacl", "-b", path)
    os.mkfifo(log / "fifo")
    (log / "folder").mkdir()
    for path in (log / "fifo", log / "folder"):
        command("setfacl", "-b", "-k", path)
    write_and_compare(bench)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_acls_come_change_and_go(bench: Bench, umask: int) -> None:
    path = bench.top / "source" / "file"
    path.write_text("x")
    before = os.umask(umask)
    try:
        for change in ("u:1:rwx,g:7:r", "m::r", "u:1:r,m::rwx", "u:9:---"):
            command("setfacl", "-m", change, path)
            write_and_compare(bench)
        command("setfacl", "-b", path)
        write_and_compare(bench)
    finally:
        os.umask(before)


def test_all_mode_bits_and_large_ids(bench: Bench) -> None:
    source = bench.top / "source"
    for mode in (0, 0o111, 0o1777, 0o2755, 0o4755, 0o6777, 0o7777):
        folder, file = source / f"folder{mode:o}", source / f"file{mode:o}"
        (folder / "inside").mkdir(parents=True)
        file.write_text("x")
        for path, owner in ((folder, (4294967294, 77)), (file, (5, 4294967294))):
            os.chown(path, *owner)
            path.chmod(mode)
    os.utime(source / "file0", ns=(-5_000_000_001, -5_000_000_001))
    os.utime(source / "file111", ns=(7_000_000_000_123456789, 7_000_000_000_123456789))
    write_and_compare(bench)
    write_and_compare(bench)


def test_an_attribute_of_an_overlay_is_seen_and_removed(bench: Bench) -> None:
    (bench.top / "source" / "folder").mkdir()
    captured = write_and_compare(bench)
    folder = bench.slot / "folder"
    os.setxattr(folder, "trusted.overlay.opaque", b"y")
    assert bench.differences(captured) == ["folder: attributes differ: trusted.overlay.opaque"]
    bench.materialise(captured)
    assert os.listxattr(folder) == []


def test_hard_links_of_a_slot_that_a_release_has_apart(bench: Bench) -> None:
    source, slot = bench.top / "source", bench.slot
    for time, name in enumerate(("a", "b")):
        (source / f"link{name}").symlink_to("target")
        os.mkfifo(source / f"fifo{name}")
        (source / f"file{name}").write_text("same")
        for path in (source / f"{kind}{name}" for kind in ("link", "fifo", "file")):
            os.utime(path, (time, time), follow_symlinks=False)
    (slot / "linka").symlink_to("target")
    os.mkfifo(slot / "fifoa")
    (slot / "filea").write_text("same")
    for kind in ("link", "fifo", "file"):
        os.link(slot / f"{kind}a", slot / f"{kind}b", follow_symlinks=False)
    write_and_compare(bench)


@pytest.mark.parametrize("flag", ["i", "a"])
def test_what_chattr_protects_is_replaced(bench: Bench, flag: str) -> None:
    source, slot = bench.top / "source", bench.slot
    for top, text in ((source, "new"), (slot, "old!")):
        (top / "folder").mkdir()
        (top / "folder/file").write_text(text)
        (top / "folder/mode").write_text("same")
    (source / "folder/mode").chmod(0o600)
    (slot / "extra/inner").mkdir(parents=True)
    (slot / "extra/inner/file").touch()
    protected = ["folder/file", "folder/mode", "folder", "extra/inner/file", "extra/inner", "extra"]
    command("chattr", f"+{flag}", *(slot / path for path in protected))
    try:
        write_and_compare(bench)
    finally:
        subprocess.run(["chattr", "-R", f"-{flag}", slot], check=False, capture_output=True)


def test_folders_deeper_than_any_path(bench: Bench) -> None:
    (bench.top / "source" / "file").write_text("x")
    above = os.open(bench.slot, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=above)
        below = os.open("deep", os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    write_and_compare(bench)


def test_links_of_a_slot_lead_nowhere(bench: Bench) -> None:
    outside = bench.top / "outside"
    outside.mkdir()
    (outside / "file").write_text("not ours")
    (outside / "passwd").write_text("not ours")
    source = bench.top / "source"
    (source / "usr").mkdir()
    (source / "usr/file").write_text("ours")
    (source / "passwd").write_text("ours")
    (bench.slot / "usr").symlink_to(outside)
    (bench.slot / "passwd").symlink_to(outside / "passwd")
    (bench.slot / ".abupdate").symlink_to(outside)
    (bench.slot / "extra").symlink_to(outside)
    before = {path: path.stat() for path in (outside, *outside.iterdir())}
    write_and_compare(bench)
    after = {path: path.stat() for path in (outside, *outside.iterdir())}
    assert {p: (s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for p, s in before.items()} == {
        p: (s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for p, s in after.items()
    }


@pytest.mark.row("S58")
def test_any_of_four_releases_to_any_other(bench: Bench) -> None:
    source = bench.top / "source"
    sources = [make_rootfs(source / "one", "1"), make_rootfs(source / "two", "2")]
    for name in ("three", "four"):
        (source / name).mkdir()
    three, four = source / "three", source / "four"
    # The same names as other kinds.
    (three / "usr").write_text("a file where the others have a folder")
    (three / "etc/release").mkdir(parents=True)
    (three / "empty").symlink_to("etc")
    os.mkfifo(three / "boot")
    for folder in ("usr/bin/tool", "dev/null"):
        (four / folder).mkdir(parents=True)
    (four / "usr/bin/sh").write_text("no link")
    os.link(four / "usr/bin/sh", four / "usr/bin/same")
    os.mknod(four / "etc", 0o060600, os.makedev(7, 7))
    sources += [three, four]
    commits = [bench.capture(each) for each in sources]
    for before in range(4):
        for after in range(4):
            bench.materialise(commits[before])
            bench.materialise(commits[after])
            assert bench.differences(commits[after]) == []
            assert rsync_finds(sources[after], bench.slot) == ""


def test_a_slot_that_is_too_small(bench: Bench) -> None:
    for number in range(9):
        (bench.top / "source" / f"file{number}").write_bytes(bytes([number]) * (9 << 20))
    with pytest.raises(NoSpaceError, match="slot is full"):
        bench.materialise(bench.capture(bench.top / "source"))
    shutil.rmtree(bench.top / "source")
    (bench.top / "source").mkdir()
    write_and_compare(bench)


def test_a_slot_that_cannot_be_written(bench: Bench) -> None:
    (bench.top / "source" / "file").write_text("x")
    captured = bench.capture(bench.top / "source")
    command("mount", "-o", "remount,ro", bench.slot)
    with pytest.raises(DeviceFaultError, match="Read-only file system"):
        bench.materialise(captured)


def test_a_missing_object(bench: Bench) -> None:
    for number in range(3):
        (bench.top / "source" / f"file{number}").write_text(f"content {number}")
    captured = bench.capture(bench.top / "source")
    oid = bench.repository.git("rev-parse", f"{captured.commit}:file1").stdout.decode().strip()
    (bench.repository.path / "objects" / oid[:2] / oid[2:]).unlink()
    with pytest.raises(NotTrustedError, match=f"{oid} missing"):
        bench.materialise(captured)


def test_a_git_that_is_abandoned_says_nothing(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(4000):
        (bench.top / "source" / f"file{number}").write_text(f"{number}")
    captured = bench.capture(bench.top / "source")
    for stop in range(5):
        with (
            pytest.raises(AbupdateError),
            open_commit(bench.repository, captured.commit) as content,
        ):
            for number, (_, chunks) in enumerate(content.read(content.files())):
                b"".join(chunks)
                if number == stop:
                    raise AbupdateError("enough")
    assert capfd.readouterr().err == ""


BENEATH: dict[str, tuple[str, beneath.Place]] = {
    "data": ("folder/file", beneath.content),
    "symlink": ("link", beneath.content),
    "short symlink": ("short", beneath.short_symlink),
    "folder": ("folder", beneath.content),
    "attribute": ("attribute", beneath.attributes),
    "inode of a file": ("folder/file", beneath.mode),
    "inode of a folder": ("folder", beneath.mode),
    "inode of a symlink": ("link", beneath.mode),
}


@pytest.mark.parametrize("what", BENEATH)
def test_corruption_beneath_the_filesystem_is_named(bench: Bench, what: str) -> None:
    source = bench.top / "source"
    (source / "folder").mkdir()
    (source / "folder/file").write_bytes(os.urandom(50_000))
    (source / "link").symlink_to("x" * 300)
    (source / "short").symlink_to("folder")
    (source / "attribute").write_text("x")
    os.setxattr(source / "attribute", "user.a", b"value")
    captured = write_and_compare(bench)
    device = Path(command("findmnt", "-n", "-o", "SOURCE", bench.slot).strip())
    path, place = BENEATH[what]
    command("umount", bench.slot)
    beneath.change(device, place(device, path))
    command("mount", "-o", "ro,noload", device, bench.slot)
    found = bench.differences(captured)
    assert any(line.startswith(f"{path}: ") for line in found), found
    assert all(line.startswith(path.split("/")[0]) for line in found), found


def test_compare_says_missing_only_of_what_is_missing(bench: Bench) -> None:
    source = bench.top / "source"
    (source / "folder/inner").mkdir(parents=True)
    captured = write_and_compare(bench)
    shutil.rmtree(bench.slot / "folder")
    (bench.slot / "extra").mkdir()
    (bench.slot / "extra/file").touch()
    found = bench.differences(captured)
    assert "folder: is missing" in found
    assert "folder/inner: is missing" in found
    assert "extra: is not in the release" in found
    assert len(found) == 4  # the root's own time, too


def test_progress_ends_at_its_total(bench: Bench) -> None:
    make_rootfs(bench.top / "source", "1")
    captured = bench.capture(bench.top / "source")
    told: list[tuple[int | None, int | None]] = []
    events = Events(lambda event: told.append((event.done, event.total)))
    with open_commit(bench.repository, captured.commit) as content:
        materialise(content, bench.repository, bench.slot, events)
        assert told[-1][0] == told[-1][1]
        told.clear()
        assert compare(bench.slot, content, events) == []
        assert told[-1][0] == told[-1][1]


def test_capture_of_a_slot_is_refused(bench: Bench) -> None:
    (bench.top / "source" / "file").write_text("x")
    write_and_compare(bench)
    with pytest.raises(AbupdateError, match="reserved"):
        capture(bench.slot, bench.repository, lambda _: b"", Events(), subject="x")
