"""The only caller of git: what it writes git accepts, what it hands out is checked."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import pytest

from abupdate.errors import DeviceFaultError, NotTrustedError, ProgramError, SourceError
from abupdate.events import Events
from abupdate.run import Sandbox
from abupdate.store import names
from abupdate.store.capture import Captured, capture
from abupdate.store.content import open_commit
from abupdate.store.readable import chunks
from abupdate.store.repository import Repository
from tests.unit.test_capture import Member, file, folder, make_tar

HOSTILE_NAMES = [
    ".git", ".GIT", "git~1", "gi7eba~1", ".g\u200cit", "a\\.git", "a\\git~1\\b", "\\.GIT", ".git.",
    ".gitmodules",
    ".gitattributes", ".abu%.git", ".gitignore", "new\nline", 'quo"te', "back\\slash", "tab\t",
    "\udcff\udcfe", "~", "-", " ", "%", "*", "\x01",
]  # fmt: skip


@pytest.fixture(params=["sha256", "sha1"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "store.git", object_format=request.param)


def take(repository: Repository, *members: Member) -> Captured:
    tar = io.BytesIO(make_tar(*members))
    return capture(tar, repository, lambda _: b"x = 1\n", Events(), subject="test", date=7)


def pack(repository: Repository, captured: Captured, *since: Captured) -> bytes:
    out = repository.path / "out.pack"
    with out.open("wb") as stream:
        # The commit stands for the tag: a pack does not care what kind the first object is.
        commits = [old.commit for old in since]
        with repository.packing([], captured.commit, commits, small=True) as packed:
            stream.writelines(chunks(packed))
    return out.read_bytes()


def paths(repository: Repository, captured: Captured) -> set[bytes]:
    with open_commit(repository, captured.commit, captured.manifest_sha256) as content:
        for _, chunks in content.read(content.files()):
            b"".join(chunks)
        return {entry.path for entry in content.entries()}


def test_hostile_names_pass_gits_strict_check_and_come_back(
    repository: Repository, tmp_path: Path
) -> None:
    members = [folder("d")]
    for name in HOSTILE_NAMES:
        members += [file(name, b"1"), folder(f"d/{name}"), file(f"d/{name}/x", b"2")]
    captured = take(repository, *members)
    assert repository.git("fsck", "--strict", "--no-dangling", ok=(0,)).code == 0
    other = Repository.create(tmp_path / "other.git", object_format=repository.object_format)
    other.index_pack(io.BytesIO(pack(repository, captured)), 1 << 20)
    raw = {name.encode("utf-8", "surrogateescape") for name in HOSTILE_NAMES}
    expected = {b"", b"d", *raw}
    expected |= {b"d/" + name for name in raw} | {b"d/" + name + b"/x" for name in raw}
    assert paths(other, captured) == expected
    listing = other.git("ls-tree", "-r", "-z", "--name-only", captured.commit).stdout
    assert all(names.true(path) for path in listing.split(b"\0") if path)


@pytest.mark.row("S23")
def test_a_release_of_other_modes_brings_no_content(repository: Repository, tmp_path: Path) -> None:
    files = [file(f"f{number}", os.urandom(5000)) for number in range(50)]
    before = take(repository, *files)
    changed: list[Member] = [(*member[:4], {"mtime": "9"}) for member in files]
    after = take(repository, *changed)
    device = Repository.create(tmp_path / "device.git", object_format=repository.object_format)
    device.index_pack(io.BytesIO(pack(repository, before)), 1 << 20)
    known = all_objects(device)
    delta = pack(repository, after, before)
    device.index_pack(io.BytesIO(delta), 1 << 20)
    new = {oid: kind for oid, kind in all_objects(device).items() if oid not in known}
    assert sorted(new.values()) == ["blob", "commit", "tree", "tree"]  # the blob: the manifest
    assert len(delta) < 8000
    assert paths(device, after) == paths(repository, after)


def all_objects(repository: Repository) -> dict[str, str]:
    listing = repository.git(
        "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)"
    ).stdout.decode()
    return dict(line.split() for line in listing.splitlines())


def test_a_delta_between_commits_without_common_history(
    repository: Repository, tmp_path: Path
) -> None:
    large = os.urandom(300_000)
    first = take(repository, file("large", large), file("same", os.urandom(200_000)))
    second = take(repository, file("large", large[:1000] + b"!" + large[1001:]), file("new", b"n"))
    delta = pack(repository, second, first)
    assert len(delta) < 5000
    device = Repository.create(tmp_path / "device.git", object_format=repository.object_format)
    with pytest.raises(SourceError):
        device.index_pack(io.BytesIO(delta), 1 << 20)
    device.index_pack(io.BytesIO(pack(repository, first)), 2 << 20)
    device.index_pack(io.BytesIO(delta), 1 << 20)
    assert paths(device, second) == {b"", b"large", b"new"}


def test_index_pack_refuses_damage_and_size(repository: Repository, tmp_path: Path) -> None:
    raw = pack(repository, take(repository, file("a", os.urandom(50_000))))
    target = Repository.create(tmp_path / "t.git", object_format=repository.object_format)
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 1
    for bad in (b"", b"not a pack", raw[:-10], bytes(flipped)):
        with pytest.raises(SourceError, match="git says"):
            target.index_pack(io.BytesIO(bad), 1 << 20)
    with pytest.raises(SourceError, match="maximum allowed size"):
        target.index_pack(io.BytesIO(raw), len(raw) // 2)
    assert all_objects(target) == {}


def test_alternates_of_alternates_are_read(repository: Repository, tmp_path: Path) -> None:
    base = repository.write_object("blob", b"1234")
    before, form = repository, repository.object_format
    for name in ("one", "two"):
        objects = before.path / "objects"
        before = Repository.create(tmp_path / name, object_format=form, alternates=objects)
    with before.reader() as reader:
        assert reader.read(base, "blob", 10) == b"1234"


def test_refs(repository: Repository) -> None:
    oid = repository.write_object("blob", b"1")
    assert repository.resolve("refs/tags/release/1") is None
    repository.set_ref("refs/tags/release/1", oid)
    assert repository.resolve("refs/tags/release/1") == oid
    assert repository.refs("refs/tags/release") == {"refs/tags/release/1": oid}
    assert (repository.has(oid), repository.kind(oid)) == (True, "blob")
    repository.delete_ref("refs/tags/release/1")
    repository.delete_ref("refs/tags/release/1")
    assert repository.refs("refs/") == {}
    assert (repository.has("0" * len(oid)), repository.kind("0" * len(oid))) == (False, None)


def test_nothing_of_the_environment_or_home_reaches_git(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text("[core]\n\tabbrev = nonsense\n")
    oid = take(repository, file("a")).commit
    hook = repository.path / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    repository.set_ref("refs/heads/x", oid)
    assert repository.refs("refs/heads") == {"refs/heads/x": oid}
    assert not (tmp_path / "ran").exists()


def test_replaced_objects_are_not_followed(repository: Repository) -> None:
    good, evil = (repository.write_object("blob", text) for text in (b"good", b"evil"))
    repository.set_ref(f"refs/replace/{good}", evil)
    with repository.reader() as reader:
        assert reader.read(good, "blob", 10) == b"good"


def test_reader_bounds_and_kinds(repository: Repository) -> None:
    oid = repository.write_object("blob", b"12345")
    for kind, limit in (("tree", 10), ("blob", 4)):
        with repository.reader() as reader, pytest.raises(NotTrustedError):
            reader.read(oid, kind, limit)
    with repository.reader() as reader, pytest.raises(NotTrustedError, match="missing"):
        reader.read("1" * len(oid), "blob", 10)


def test_a_git_that_dies_is_a_fault_of_the_device_with_its_own_words(
    repository: Repository,
) -> None:
    oid = repository.write_object("blob", b"1")
    assert len(repository.object_format) > 3
    (repository.path / "HEAD").unlink()
    with repository.reader() as reader, pytest.raises(DeviceFaultError, match="repository"):
        reader.read(oid, "blob", 10)


def lie(repository: Repository, oid: str, other: str) -> None:
    """Swap two objects in the index of the only pack."""
    (index,) = (repository.path / "objects/pack").glob("*.idx")
    raw = bytearray(index.read_bytes())
    size, header = len(oid) // 2, 8 + 1024
    (count,) = struct.unpack(">I", raw[header - 4 : header])
    known = [raw[header + n * size : header + (n + 1) * size].hex() for n in range(count)]
    offsets = header + count * (size + 4)
    one, two = (offsets + 4 * known.index(name) for name in (oid, other))
    raw[one : one + 4], raw[two : two + 4] = raw[two : two + 4], raw[one : one + 4]
    index.chmod(0o644)
    index.write_bytes(raw)


@pytest.mark.parametrize("what", ["commit", "tree", "folder", "manifest", "release", "file"])
def test_an_index_that_lies_is_caught(tmp_path: Path, what: str) -> None:
    source = Repository.create(tmp_path / "source.git")
    captured = take(source, folder("d"), file("d/x", b"x"), file("f", b"good"), file("g", b"evil"))
    store = Repository.create(tmp_path / "store.git")
    store.index_pack(io.BytesIO(pack(source, captured)), 1 << 20)
    paths(store, captured)

    def oid(path: str) -> str:
        return source.git("rev-parse", f"{captured.commit}{path}").stdout.decode().strip()

    others = {
        "commit": ("", ":g"),
        "tree": ("^{tree}", ":d"),
        "folder": (":d", "^{tree}"),
        "manifest": (":.abupdate/manifest", ":g"),
        "release": (":.abupdate/release.toml", ":g"),
        "file": (":f", ":g"),
    }
    lie(store, *map(oid, others[what]))
    with pytest.raises(NotTrustedError):
        paths(store, captured)


def write_pack(path: Path, blobs: list[bytes]) -> None:
    """A pack of blobs that are not compressed, for speed."""
    digest = hashlib.sha256()
    with path.open("wb") as out:

        def write(data: bytes) -> None:
            digest.update(data)
            out.write(data)

        write(b"PACK" + struct.pack(">II", 2, len(blobs)))
        for blob in blobs:
            size = len(blob)
            head = bytearray([0x30 | size & 15])
            size >>= 4
            while size:
                head[-1] |= 0x80
                head.append(size & 127)
                size >>= 7
            write(bytes(head) + zlib.compress(blob, 0))
        out.write(digest.digest())


def test_a_git_that_ends_before_it_knows_what_to_pack(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = take(repository, file("f", b"x"))
    # More than a pipe holds: git has gone before all of it is said.
    monkeypatch.setattr(Repository, "_pack_list", lambda *_: bytes(4 << 20))
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").write_text(
        '#!/bin/sh\ncase "$*" in *pack-objects*) echo fatal: no >&2; exit 128;; esac\n'
        'exec /usr/bin/git "$@"\n'
    )
    (programs / "git").chmod(0o755)
    monkeypatch.setattr("abupdate.run.SEARCH_PATH", f"{programs}:/usr/bin:/bin")
    with (
        pytest.raises(ProgramError, match="fatal: no"),
        repository.packing([], captured.commit) as pack,
    ):
        b"".join(chunks(pack))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run git within limits")
def test_packs_larger_than_gits_memory_can_be_read(tmp_path: Path) -> None:
    store = Repository.create(tmp_path / "store.git")
    blobs = [os.urandom(1 << 20) * 8 for _ in range(50)]
    write_pack(tmp_path / "large.pack", blobs)
    with (tmp_path / "large.pack").open("rb") as stream:
        store.index_pack(stream, 1 << 30)
    limited = Repository(store.path, Sandbox(str(os.getuid()), memory=300_000_000))
    with limited.reader() as reader:
        for blob in (blobs[0], blobs[-1], blobs[25]):
            oid = hashlib.sha256(b"blob %d\0" % len(blob) + blob).hexdigest()
            assert reader.read(oid, "blob", 1 << 24) == blob
