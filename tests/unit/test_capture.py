"""Root filesystem → commit: the same input gives the same id, and nothing is guessed."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import abupdate.store.capture as capture_module
from abupdate.errors import AbupdateError, SourceError
from abupdate.events import Events
from abupdate.run import Sandbox
from abupdate.store.capture import Captured, Totals, capture
from abupdate.store.content import open_commit
from abupdate.store.manifest import Entry, Kind
from abupdate.store.paths import open_file
from abupdate.store.repository import Repository

# name, type, link target, content, pax headers
Member = tuple[str, bytes, str, bytes, dict[str, str]]


def folder(name: str) -> Member:
    return name, tarfile.DIRTYPE, "", b"", {}


def file(name: str, content: bytes = b"", **pax: str) -> Member:
    return name, tarfile.REGTYPE, "", content, {key.replace("_", "."): v for key, v in pax.items()}


def link(name: str, target: str) -> Member:
    return name, tarfile.SYMTYPE, target, b"", {}


def hard_link(name: str, target: str) -> Member:
    return name, tarfile.LNKTYPE, target, b"", {}


def make_tar(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, target, content, pax in (folder("."), *members):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            member.mode = 0o755
            member.pax_headers = pax
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "store.git")


def take(repository: Repository, source: bytes | Path, date: int | None = None) -> Captured:
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    return capture(stream, repository, lambda _: b"x = 1\n", Events(), subject="test", date=date)


def entries(repository: Repository, captured: Captured) -> dict[bytes, Entry]:
    with open_commit(repository, captured.commit, captured.manifest_sha256) as content:
        return {entry.path: entry for entry in content.entries()}


def test_the_same_tree_gives_the_same_commit(repository: Repository, tmp_path: Path) -> None:
    one = take(repository, make_tar(folder("a"), file("a/x", b"1"), link("l", "a/x")))
    other_order = make_tar(link("./l", "a/x"), folder("./a/"), file("./a/x", b"1"))
    again = Repository.create(tmp_path / "again.git")
    assert take(again, other_order).commit == one.commit
    assert take(repository, make_tar(folder("a"), file("a/x", b"2"))).commit != one.commit


def test_a_commit_has_no_parent_and_the_date_asked_for(repository: Repository) -> None:
    captured = take(repository, make_tar(file("a")), date=1_234_567_890)
    raw = repository.git("cat-file", "commit", captured.commit).stdout
    assert b"\nparent " not in raw
    assert raw.count(b" 1234567890 +0000\n") == 2
    assert repository.refs("refs/") == {}


def test_release_toml_is_made_from_the_totals(repository: Repository) -> None:
    seen: list[Totals] = []

    def describe(totals: Totals) -> bytes:
        seen.append(totals)
        return b"release = 1\n"

    tar = make_tar(file("a", b"12345", mtime="7.25"), hard_link("b", "a"))
    captured = capture(io.BytesIO(tar), repository, describe, Events(), subject="x")
    assert seen == [Totals(content=5, bytes=8192, inodes=2, newest=7)]
    with open_commit(repository, captured.commit) as content:
        assert content.release_toml == b"release = 1\n"
        assert content.date == 7


def test_times_keep_their_nanoseconds(repository: Repository) -> None:
    tar = make_tar(
        file("a", mtime="1700000000.123456789"), file("b", mtime="-0.5"), file("c", mtime="5")
    )
    found = entries(repository, take(repository, tar))
    assert found[b"a"].mtime == 1_700_000_000_123_456_789
    assert found[b"b"].mtime == -500_000_000
    assert found[b"c"].mtime == 5_000_000_000


def test_attributes_of_any_bytes(repository: Repository) -> None:
    value = b"\xff\n \0%=".decode("utf-8", "surrogateescape")
    pax = {"SCHILY.xattr.user.\u00ff%": value, "SCHILY.xattr.trusted.overlay.opaque": "y"}
    tar = make_tar(("a", tarfile.REGTYPE, "", b"", pax))
    assert entries(repository, take(repository, tar))[b"a"].xattrs == (
        ("user.\u00ff%".encode(), b"\xff\n \0%="),
    )


def test_chains_of_hard_links_are_one_group(repository: Repository) -> None:
    tar = make_tar(file("m", b"1"), hard_link("z", "m"), hard_link("a", "z"))
    found = entries(repository, take(repository, tar))
    assert found[b"a"].kind is Kind.FILE
    assert (found[b"m"].target, found[b"z"].target) == (b"a", b"a")


def test_hard_links_between_symlinks_are_taken_apart_with_a_warning(
    repository: Repository,
) -> None:
    captured = take(repository, make_tar(link("a", "t"), hard_link("b", "a")))
    assert any("a: hard links" in warning for warning in captured.warnings)
    assert entries(repository, captured)[b"b"].kind is Kind.LINK


def test_what_ext4_makes_itself_is_left_out(repository: Repository) -> None:
    tar = make_tar(folder("lost+found"), file("lost+found/x"), file("a"))
    assert set(entries(repository, take(repository, tar))) == {b"", b"a"}


REFUSED: dict[str, list[Member]] = {
    "dot dot": [file("../x")],
    "dot dot inside": [folder("a"), file("a/../../x")],
    "absolute": [file("/x")],
    "twice": [file("x"), file("./x")],
    "root twice": [folder("./")],
    "no folder": [file("a/x")],
    "below a symlink": [link("l", "/etc"), file("l/x")],
    "below a file": [file("f"), file("f/x")],
    "empty symlink": [link("l", "")],
    "symlink too long": [link("l", "a" * 5000)],
    "name too long": [file("x" * 256)],
    "too deep": [folder("/".join("d" * depth)) for depth in range(1, 300)],
    "hard link to nothing": [hard_link("h", "x")],
    "hard link to itself": [hard_link("h", "h")],
    "hard link to a folder": [folder("a"), hard_link("h", "a")],
    "hard link out": [hard_link("h", "../etc/passwd")],
    "no time": [file("x", mtime="yesterday")],
    "time too long": [file("x", mtime="9" * 30)],
    "reserved": [folder(".abupdate")],
    "ACL as text": [file("x", SCHILY_acl_access="user:build:rwx")],
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses_what_a_release_cannot_be(repository: Repository, what: str) -> None:
    with pytest.raises(SourceError):
        take(repository, make_tar(*REFUSED[what]))
    assert repository.refs("refs/") == {}


@pytest.mark.parametrize("pax", [True, False])
def test_a_damaged_tar_never_passes_for_a_shorter_one(repository: Repository, pax: bool) -> None:
    time = {"mtime": "5.5"} if pax else {}
    raw = make_tar(*(file(f"f{number}", b"x" * 600, **time) for number in range(6)))
    whole = take(repository, raw).totals.inodes
    content = len(raw.rstrip(b"\0"))
    for cut in range(0, content, 256):
        with pytest.raises(SourceError):
            take(repository, raw[:cut])
    for header in range(0, content, 512):
        damaged = bytearray(raw)
        damaged[header + 100] ^= 1
        # A flipped byte of a file's content is content; one of a header is damage.
        with contextlib.suppress(SourceError):
            assert take(repository, bytes(damaged)).totals.inodes == whole


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_a_compressed_tar_that_is_cut_off(
    repository: Repository, compress: Callable[[bytes], bytes]
) -> None:
    tar = make_tar(*(file(f"f{number}", os.urandom(900)) for number in range(9)))
    packed = compress(tar)
    whole = take(repository, packed)
    assert take(repository, tar).commit == whole.commit
    for cut in range(0, len(packed) - 200, len(packed) // 25):
        with pytest.raises(SourceError):
            take(repository, packed[:cut])


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_a_compressed_tar_with_a_damaged_bit(
    repository: Repository, compress: Callable[[bytes], bytes]
) -> None:
    """Its checksum is at the end, behind the end of the tar."""
    random = Random(1)
    packed = compress(make_tar(*(file(f"f{n}", random.randbytes(900)) for n in range(9))))
    # The first bytes of gzip are flags and a time, which nothing protects.
    for _ in range(40):
        damaged = bytearray(packed)
        damaged[random.randrange(10, len(packed))] ^= 1 << random.randrange(8)
        with pytest.raises(SourceError):
            take(repository, bytes(damaged))
    with pytest.raises(SourceError, match="goes on after its end"):
        take(repository, compress(make_tar(file("a")) + make_tar(file("b"))))


def test_a_kind_of_compression_that_is_not_read(repository: Repository) -> None:
    with pytest.raises(SourceError, match="compressed with zstd"):
        take(repository, b"\x28\xb5\x2f\xfd" + bytes(100))


def test_an_attribute_with_an_equals_sign_is_the_same_from_a_tar(
    repository: Repository, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    for name in ("user.a=b", "user.50%", "user.%3D"):
        os.setxattr(tree / "file", name, b"1")
    packed = subprocess.run(
        ["tar", "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", tree,
         "-cf", "-", "."],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    described = capture(tree, repository, lambda _: b"", Events(), subject="test")
    assert take(repository, packed).manifest_sha256 == described.manifest_sha256


def test_a_file_that_cannot_be_read_is_named(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/shadow").write_text("x")

    def refuse(_fd: int, _name: bytes) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("abupdate.store.capture.open_file", refuse)
    with pytest.raises(SourceError, match="etc/shadow cannot be read: Permission denied"):
        capture(tmp_path / "tree", repository, lambda _: b"", Events(), subject="test")


def test_a_file_that_was_written_meanwhile_with_its_time_put_back(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tree/file"
    path.parent.mkdir()
    path.write_text("old head, old tail")

    def torn(fd: int, name: bytes) -> int:
        found, status = open_file(fd, name), path.stat()
        path.write_text("old head, new tail")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return found

    monkeypatch.setattr(capture_module, "open_file", torn)
    with pytest.raises(SourceError, match="file changed while it was read"):
        capture(path.parent, repository, lambda _: b"", Events(), subject="test")


def test_a_mark_that_an_earlier_capture_left_is_no_obstacle(repository: Repository) -> None:
    left = take(repository, make_tar(file("a")))
    repository.set_ref(f"refs/abupdate/capture/{os.getpid()}", left.commit)
    assert take(repository, make_tar(file("b"))).commit != left.commit


def test_git_explains_why_it_stopped(tmp_path: Path) -> None:
    # Not as another user, only within a limit: a disk that is full looks like this.
    small = Sandbox(str(os.getuid()), file_size=1 << 20)
    if os.geteuid() != 0:
        pytest.skip("needs root to run git within limits")
    Repository.create(tmp_path / "store.git")
    limited = Repository(tmp_path / "store.git", small)
    files = [file(f"f{number}", os.urandom(100_000)) for number in range(60)]
    with pytest.raises(AbupdateError, match="fast-import"):
        take(limited, make_tar(*files))


def test_a_mount_inside_a_directory_is_said(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "proc").mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", source / "proc"], check=False)
    if mounted.returncode != 0:
        pytest.skip("needs to mount a tmpfs")
    try:
        (source / "proc" / "inside").touch()
        captured = take(repository, source)
    finally:
        subprocess.run(["umount", source / "proc"], check=True)
    assert any("proc: a mount point" in warning for warning in captured.warnings)
    assert set(entries(repository, captured)) == {b"", b"proc"}


def test_sockets_are_left_out_with_a_warning(repository: Repository, tmp_path: Path) -> None:
    import socket

    source = tmp_path / "s"
    source.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
        captured = take(repository, source)
    assert captured.warnings == ("socket: a socket, left out",)


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu"])
def test_sparse_files_in_a_tar(repository: Repository, tmp_path: Path, version: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as sparse:
        sparse.seek(3 << 20)
        sparse.write(b"in the middle")
        sparse.truncate(5 << 20)
    form = ["gnu"] if version == "gnu" else ["pax", f"--sparse-version={version}"]
    tar = tmp_path / "tar"
    subprocess.run(
        ["tar", "--sparse", f"--format={form[0]}", *form[1:], "-C", source, "-cf", tar, "."],
        check=True,
    )
    from_tar = entries(repository, take(repository, tar))[b"sparse"]
    from_directory = entries(repository, take(repository, source))[b"sparse"]
    assert (from_tar.size, from_tar.sha256) == (from_directory.size, from_directory.sha256)
