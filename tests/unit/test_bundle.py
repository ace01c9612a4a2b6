"""Bundles: what git makes of them, and what a store takes in and what not."""

from __future__ import annotations

import errno
import io
import os
import pwd
import random
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from abupdate.bundle.header import BundleHeader, CountedSource, format_header, parse_header
from abupdate.bundle.quarantine import Room, clear_quarantines
from abupdate.bundle.read import Incoming, Received
from abupdate.bundle.write import create
from abupdate.errors import (
    AbupdateError,
    ExitCode,
    NoSpaceError,
    NotTrustedError,
    RefusedError,
    SourceError,
    UsageError,
)
from abupdate.events import Events
from abupdate.release.version import Version
from abupdate.run import Sandbox
from abupdate.signing.signature import Reason, TagRefusedError, TrustFiles, verify
from abupdate.store.content import open_commit
from abupdate.store.repository import Repository
from tests.unit.release_keys import NOW, Key, make_key
from tests.unit.release_repository import make_tree, publish

ONE, TWO = Version("1"), Version("2")
LIMIT = 1 << 24
OID = "ab" * 32


@dataclass(frozen=True)
class Publisher:
    repository: Repository
    key: Key
    commits: dict[Version, str]
    full: dict[Version, bytes]
    delta: bytes


@pytest.fixture(scope="module", params=["sha256", "sha1"])
def publisher(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Publisher:
    return _publisher(tmp_path_factory.mktemp("publisher"), request.param)


@pytest.fixture(scope="module")
def sha256(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    return _publisher(tmp_path_factory.mktemp("publisher"), "sha256")


def _publisher(folder: Path, object_format: str) -> Publisher:
    repository = Repository.create(folder / "releases.git", object_format=object_format)
    key = make_key(folder, "alice")
    commits = {
        version: publish(repository, key, make_tree(folder, number), str(version))
        for number, version in ((1, ONE), (2, TWO))
    }
    full = {version: _bundle(repository, version, [], folder) for version in commits}
    return Publisher(repository, key, commits, full, _bundle(repository, TWO, [ONE], folder))


def _bundle(repository: Repository, version: Version, since: list[Version], to: Path) -> bytes:
    create(repository, version, since, to / "bundle")
    return (to / "bundle").read_bytes()


class Device:
    """A store, and all that a failed bundle may not change of it."""

    def __init__(self, folder: Path, object_format: str, sandbox: Sandbox | None = None) -> None:
        self.folder = folder
        self.store = Repository.create(
            folder / "store.git", object_format=object_format, sandbox=sandbox
        )

    def receive(self, raw: bytes, limit: int = LIMIT) -> Received:
        return Incoming(Pipe(raw), self.store, limit, Events()).receive()

    def install(self, raw: bytes) -> None:
        with self.receive(raw) as received:
            received.join()

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


class Pipe:
    """Bytes that can be read once, in uneven pieces."""

    def __init__(self, raw: bytes) -> None:
        self._stream = io.BytesIO(raw)
        self._sizes = random.Random(1)

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._sizes.choice((1, 7, 100, 5000))))


@pytest.fixture
def device(publisher: Publisher, tmp_path: Path) -> Device:
    return Device(tmp_path, publisher.repository.object_format)


@pytest.fixture
def device256(tmp_path: Path) -> Device:
    return Device(tmp_path, "sha256")


def names(folder: Path) -> list[str]:
    """What is in a folder; nothing when it is missing."""
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def refused(device: Device, raw: bytes) -> AbupdateError:
    """The error that a bundle is refused with; the device is as before."""
    before = device.files()
    with pytest.raises(AbupdateError) as caught, device.receive(raw):
        pass
    assert device.files() == before
    assert names(device.folder / "spool") == []
    return caught.value


def git(folder: Path, *words: str | Path) -> str:
    done = subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True)
    return done.stdout


class TestGood:
    def test_full_and_delta_bring_the_same_release(
        self, publisher: Publisher, device: Device, tmp_path: Path
    ) -> None:
        trust = tmp_path / "signers"
        trust.write_text(publisher.key.line)
        for version, raw in ((ONE, publisher.full[ONE]), (TWO, publisher.delta)):
            with device.receive(raw) as received:
                found = verify(received.statement.tag, received.version, TrustFiles((trust,)), NOW)
                assert (found.version, found.commit) == (version, publisher.commits[version])
                assert received.transferred == len(raw)
                with open_commit(
                    received.repository, found.commit, found.manifest_sha256
                ) as content:
                    for _, chunks in content.read(content.files()):
                        assert list(chunks)
                received.join()
            assert names(tmp_path / "spool") == []
            assert device.store.resolve(version.ref) == publisher.repository.resolve(version.ref)
        git(device.store.path, "fsck", "--strict", "--full")

    def test_a_delta_is_small(self, publisher: Publisher) -> None:
        assert len(publisher.delta) < len(publisher.full[TWO]) / 50

    def test_joining_twice_changes_nothing(self, publisher: Publisher, device: Device) -> None:
        device.install(publisher.full[ONE])
        before = device.files()
        device.install(publisher.full[ONE])
        assert device.files() == before

    def test_leaving_without_join_leaves_nothing(
        self, publisher: Publisher, device: Device
    ) -> None:
        before = device.files()
        with device.receive(publisher.full[ONE]) as received:
            assert (tmp := received.repository.path).is_dir()
        assert device.files() == before
        assert not tmp.exists()
        received.discard()

    def test_what_a_killed_run_left_is_deleted(self, sha256: Publisher, device256: Device) -> None:
        left = device256.receive(sha256.full[ONE]).repository.path
        assert left.is_dir()
        clear_quarantines(device256.store)
        assert not left.exists()

    @pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
    def test_all_files_belong_to_the_user_of_the_store(
        self, sha256: Publisher, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        user = pwd.getpwnam("games")
        # Every folder above must let that user through.
        folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        folder.chmod(0o755)
        data = folder / "data"
        try:
            (folder / "home").mkdir()
            os.chown(folder / "home", user.pw_uid, user.pw_gid)
            data.mkdir()
            store = Repository.create(folder / "home/store.git", sandbox=Sandbox("games"))
            store.path.rename(data / "store.git")
            store = Repository(data / "store.git", Sandbox("games"))
            for raw in (sha256.full[ONE], sha256.delta):
                with Incoming(Pipe(raw), store, LIMIT, Events()).receive() as received:
                    owners = {p.stat().st_uid for p in received.repository.path.rglob("*")}
                    received.join()
                assert owners == {user.pw_uid}
            owners = {path.lstat().st_uid for path in data.rglob("*")}
            assert owners == {user.pw_uid}
            assert (data / "spool").stat().st_mode & 0o777 == 0o700
        finally:
            subprocess.run(["rm", "-rf", folder], check=True)


class TestGit:
    """Plain bundles are git's own."""

    def test_git_verifies_and_fetches_them(self, publisher: Publisher, tmp_path: Path) -> None:
        target = tmp_path / "clone"
        form = publisher.repository.object_format
        subprocess.run(
            ["git", "init", "-q", "--bare", f"--object-format={form}", target], check=True
        )
        for version, raw in ((ONE, publisher.full[ONE]), (TWO, publisher.delta)):
            file = tmp_path / "file.bundle"
            file.write_bytes(raw)
            git(target, "bundle", "verify", file)
            git(target, "fetch", "-q", file, f"{version.ref}:{version.ref}")
            commit = git(target, "rev-parse", f"{version.ref}^{{commit}}").strip()
            assert commit == publisher.commits[version]
        git(target, "fsck", "--strict", "--full")

    def test_we_take_the_bundle_of_git(
        self, publisher: Publisher, device: Device, tmp_path: Path
    ) -> None:
        file = tmp_path / "by-git.bundle"
        git(publisher.repository.path, "bundle", "create", "-q", file, ONE.ref)
        device.install(file.read_bytes())
        assert device.store.resolve(ONE.ref) == publisher.repository.resolve(ONE.ref)


class TestCreate:
    def test_a_release_that_is_not_signed(self, sha256: Publisher, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no signed release 9"):
            create(sha256.repository, Version("9"), [], tmp_path / "x")
        assert names(tmp_path) == []

    def test_a_delta_to_itself(self, sha256: Publisher, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="to itself"):
            create(sha256.repository, ONE, [ONE], tmp_path / "x")

    def test_an_old_file_stays_whole_when_it_fails(
        self, sha256: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise SourceError("no")

        (tmp_path / "x").write_text("# v3 git bundle, old")
        monkeypatch.setattr(Repository, "pack", broken)
        with pytest.raises(SourceError):
            create(sha256.repository, ONE, [], tmp_path / "x")
        assert names(tmp_path) == ["x"]
        assert (tmp_path / "x").read_text() == "# v3 git bundle, old"


def _header(*lines: str, end: str = "\n\n") -> bytes:
    return ("\n".join(lines) + end).encode()


V3 = ("# v3 git bundle", "@object-format=sha256")
HEADERS = {
    "empty": b"",
    "text": b"Hello, this is a text file.\nIt has lines.\n",
    "binary": bytes(range(256)) * 100,
    "one long line": b"# v3 git bundle" + b" " * 100_000,
    "version 9": _header("# v9 git bundle", f"{OID} refs/tags/release/1"),
    "no ref": _header(*V3),
    "only prerequisites": _header(*V3, f"-{OID} x"),
    "two refs": _header(*V3, f"{OID} refs/tags/release/1", f"{OID} refs/tags/release/2"),
    "a branch": _header(*V3, f"{OID} refs/heads/main"),
    "HEAD": _header(*V3, f"{OID} HEAD"),
    "ref renamed": _header(*V3, f"{OID} refs/tags/reldase/1"),
    "ref goes up": _header(*V3, f"{OID} refs/tags/release/../../heads/x"),
    "ref with a space": _header(*V3, f"{OID} refs/tags/release/1 x"),
    "ref with a terminal code": _header(*V3, f"{OID} refs/tags/release/\x1b[31m"),
    "sha1 id": _header(*V3, f"{'ab' * 20} refs/tags/release/1"),
    "upper case id": _header(*V3, f"{OID.upper()} refs/tags/release/1"),
    "filter": _header(*V3, "@filter=blob:none", f"{OID} refs/tags/release/1"),
    "format twice": _header(*V3, V3[1], f"{OID} refs/tags/release/1"),
    "unknown format": _header(V3[0], "@object-format=md5", f"{OID} refs/tags/release/1"),
    "capability in version 2": _header("# v2 git bundle", V3[1], f"{OID} refs/tags/release/1"),
    "capability late": _header(V3[0], f"-{OID} x", V3[1], f"{OID} refs/tags/release/1"),
    "no end": _header(*V3, f"{OID} refs/tags/release/1", end="\n"),
    "cut line": _header(*V3, f"{OID} refs/tags/rel", end=""),
    "many prerequisites": _header(*V3, *[f"-{OID} x"] * 65, f"{OID} refs/tags/release/1"),
    "endless prerequisites": _header(*V3, *[f"-{OID} x"] * 50_000),
}


class TestHeader:
    @pytest.mark.parametrize("name", HEADERS)
    def test_a_wrong_header_is_refused(self, name: str, device256: Device) -> None:
        error = refused(device256, HEADERS[name])
        assert error.exit_code == ExitCode.SOURCE
        # By its header, and not because no pack follows it.
        with pytest.raises(SourceError) as caught:
            parse_header(CountedSource(io.BytesIO(HEADERS[name]), LIMIT))
        assert str(caught.value) == str(error)
        assert str(error).isprintable()
        assert len(str(error)) < 500

    def test_the_sentence_for_a_text_file(self, device256: Device) -> None:
        error = refused(device256, HEADERS["text"])
        assert error.message.startswith("Not a bundle: it begins with 'Hello, this is a text fi'")

    def test_round_trip_reads_not_a_byte_more(self) -> None:
        header = BundleHeader("sha256", TWO, OID, ((OID, "release/1"), ("cd" * 32, "")))
        source = CountedSource(io.BytesIO(format_header(header) + b"PACK\0rest"), 1000)
        assert parse_header(source) == header
        assert source.read() + source.read() == b"PACK\0rest"

    def test_a_source_that_cannot_be_read_is_no_fault_of_ours(self) -> None:
        class Failing(io.BytesIO):
            def read(self, _size: int | None = -1, /) -> bytes:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        with pytest.raises(SourceError, match="cannot be read: Input/output error") as caught:
            parse_header(CountedSource(Failing(), 1000))
        assert "Get the bundle again" in (caught.value.hint or "")

    def test_every_cut_of_a_header_is_refused(self, sha256: Publisher, device256: Device) -> None:
        end = sha256.delta.index(b"\n\n") + 2
        for size in range(end):
            with pytest.raises(SourceError):
                parse_header(CountedSource(io.BytesIO(sha256.delta[:size]), LIMIT))


class TestHostile:
    """A bundle is taken whole, or the store is as it was before."""

    def test_cut_anywhere(self, sha256: Publisher, device256: Device) -> None:
        raw = sha256.full[ONE]
        rng = random.Random(2)
        for size in [*(rng.randrange(len(raw)) for _ in range(60)), len(raw) - 1]:
            error = refused(device256, raw[:size])
            assert error.exit_code == ExitCode.SOURCE, size

    def test_flipped_bits(self, sha256: Publisher, device256: Device) -> None:
        """Refused; or, where the bit has no meaning (a comment), the same release."""
        device256.install(sha256.full[ONE])
        raw = sha256.delta
        rng = random.Random(3)
        header = raw.index(b"\n\n")
        places = [rng.randrange(header) for _ in range(50)]
        places += [rng.randrange(header, len(raw)) for _ in range(50)]
        for place in places:
            changed = bytearray(raw)
            changed[place] ^= 1 << rng.randrange(8)
            try:
                with device256.receive(bytes(changed)) as received:
                    assert received.tag_oid == sha256.repository.resolve(TWO.ref), place
                    verify_shape(received)
            except (SourceError, NotTrustedError):
                pass
            assert names(device256.folder / "spool") == []
        assert device256.store.refs("refs/").keys() == {ONE.ref}

    def test_bytes_after_the_pack(self, sha256: Publisher, device256: Device) -> None:
        for more in (b"\n", b"\0" * 100_000, sha256.full[ONE]):
            assert refused(device256, sha256.full[ONE] + more).exit_code == ExitCode.SOURCE

    def test_a_header_without_a_pack(self, sha256: Publisher, device256: Device) -> None:
        raw = sha256.full[ONE]
        assert refused(device256, raw[: raw.index(b"\n\n") + 2]).exit_code == ExitCode.SOURCE

    def test_larger_than_allowed(self, sha256: Publisher, device256: Device) -> None:
        raw = sha256.full[ONE]
        before = device256.files()
        with pytest.raises(SourceError, match="larger than"):
            device256.receive(raw, limit=len(raw) - 1)
        assert device256.files() == before
        device256.receive(raw, limit=len(raw)).discard()

    def test_more_objects_than_a_slot_has_room_for(
        self, sha256: Publisher, device256: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Told by the first bytes of the pack: git is not asked."""
        monkeypatch.setattr(Repository, "index_pack", lambda *_: pytest.fail("git was asked"))
        raw = sha256.full[ONE].replace(b"PACK\0\0\0\2\0\0\0", b"PACK\0\0\0\2\0\0\xff", 1)
        with pytest.raises(NoSpaceError, match="can hold 1000 files"):
            Incoming(
                Pipe(raw), device256.store, LIMIT, Events(), room=Room(1 << 40, 1000)
            ).receive()
        assert names(device256.folder / "spool") == []

    def test_more_bytes_than_a_slot_has_room_for(
        self, sha256: Publisher, device256: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def install(raw: bytes, most: int) -> None:
            monkeypatch.setattr("abupdate.bundle.quarantine._MORE_BYTES", most)
            room = Room(1, 1000)
            incoming = Incoming(Pipe(raw), device256.store, LIMIT, Events(), room=room)
            with incoming.receive() as received:
                received.join()

        for raw, too_little, enough in (
            (sha256.full[ONE], 300_000, 400_000),
            # What the store has counts only where the delta begins from it.
            (sha256.delta, 20_000, 200_000),
        ):
            with pytest.raises(NoSpaceError, match="unpacks to 0 MiB"):
                install(raw, too_little)
            assert names(device256.folder / "spool") == []
            install(raw, enough)

    def test_a_source_that_breaks(self, sha256: Publisher, device256: Device) -> None:
        class Broken(Pipe):
            def read(self, size: int, /) -> bytes:
                if not (chunk := super().read(size)):
                    raise OSError(5, "Input/output error")
                return chunk

        before = device256.files()
        with pytest.raises(SourceError, match="Input/output error"):
            Incoming(Broken(sha256.full[ONE][:-50]), device256.store, LIMIT, Events()).receive()
        assert device256.files() == before

    def test_the_tag_is_not_in_the_pack(self, sha256: Publisher, device256: Device) -> None:
        raw = sha256.full[ONE]
        oid = sha256.repository.resolve(ONE.ref)
        assert oid
        error = refused(device256, raw.replace(oid.encode(), b"0" * 64, 1))
        assert error.exit_code == ExitCode.SOURCE
        assert "does not hold it" in error.message

    def test_a_ref_on_a_bare_commit(self, sha256: Publisher, device256: Device) -> None:
        raw = sha256.full[ONE]
        oid = sha256.repository.resolve(ONE.ref)
        assert oid
        error = refused(device256, raw.replace(oid.encode(), sha256.commits[ONE].encode(), 1))
        assert isinstance(error, TagRefusedError)
        assert error.reason == Reason.NO_SIGNATURE

    def test_a_ref_on_another_release_of_the_pack(
        self, sha256: Publisher, device256: Device
    ) -> None:
        raw = sha256.full[ONE].replace(b"release/1\n", b"release/9\n", 1)
        with device256.receive(raw) as received, pytest.raises(TagRefusedError) as caught:
            verify_shape(received)
        assert caught.value.reason == Reason.NAME

    def test_a_delta_without_its_base(self, sha256: Publisher, device256: Device) -> None:
        error = refused(device256, sha256.delta)
        assert error.exit_code == ExitCode.SOURCE
        assert "delta to release/1" in error.message
        assert error.hint == "Take the full bundle of release 2."

    def test_a_prerequisite_that_is_no_commit(self, sha256: Publisher, device256: Device) -> None:
        device256.install(sha256.full[ONE])
        tag = sha256.repository.resolve(ONE.ref)
        assert tag
        changed = sha256.delta.replace(sha256.commits[ONE].encode(), tag.encode(), 1)
        assert refused(device256, changed).exit_code == ExitCode.SOURCE

    def test_a_delta_that_hides_its_base(self, sha256: Publisher, device256: Device) -> None:
        """Thin pack, prerequisite line removed: the store lacks the bases."""
        start = sha256.delta.index(b"-" + sha256.commits[ONE].encode())
        end = sha256.delta.index(b"\n", start) + 1
        assert refused(device256, sha256.delta[:start] + sha256.delta[end:]).exit_code == (
            ExitCode.SOURCE
        )

    def test_the_other_object_format(self, publisher: Publisher, tmp_path: Path) -> None:
        other = "sha1" if publisher.repository.object_format == "sha256" else "sha256"
        error = refused(Device(tmp_path, other), publisher.full[ONE])
        assert error.exit_code == ExitCode.SOURCE
        assert f"this store of {other} ones" in error.message

    def test_a_version_that_is_published_twice(
        self, sha256: Publisher, device256: Device, tmp_path: Path
    ) -> None:
        """Same version, same key, other content: the first one stays."""
        again = Repository.create(tmp_path / "again.git")
        publish(again, sha256.key, make_tree(tmp_path, 3), "1")
        device256.install(sha256.full[ONE])
        before = device256.store.refs("refs/")
        with device256.receive(_bundle(again, ONE, [], tmp_path)) as received:
            with pytest.raises(RefusedError) as caught:
                received.join()
            assert received.tag_oid in caught.value.message
        assert before[ONE.ref] in caught.value.message
        assert device256.store.refs("refs/") == before

    @pytest.mark.parametrize("name", [".git", "..", ".GIT", "a/b", ""])
    def test_a_tree_with_a_dangerous_name(
        self, sha256: Publisher, device256: Device, tmp_path: Path, name: str
    ) -> None:
        evil = _evil_tree(tmp_path, sha256.key, name.encode())
        error = refused(device256, evil)
        assert error.exit_code == ExitCode.SOURCE
        assert "git says" in error.message


def verify_shape(received: Received) -> None:
    from abupdate.release.tag import parse_tag

    parse_tag(received.statement.tag, received.version)


def _evil_tree(folder: Path, key: Key, name: bytes) -> bytes:
    """A signed bundle whose tree git would never check out."""
    from tests.unit.release_keys import payload, signed

    repository = Repository.create(folder / "evil.git")
    blob = repository.write_object("blob", b"x")

    def literally(kind: str, content: bytes) -> str:
        words = ("hash-object", "-t", kind, "-w", "--literally", "--stdin")
        return repository.git(*words, stdin=content).stdout.decode().strip()

    tree = literally("tree", b"100644 " + name + b"\0" + bytes.fromhex(blob))
    who = b"A <a@b> 1 +0000"
    commit = literally(
        "commit", b"tree %s\nauthor %s\ncommitter %s\n\nx\n" % (tree.encode(), who, who)
    )
    tag = repository.write_object("tag", signed(key, payload("1", commit)))
    names = "".join(f"{oid}\n" for oid in (tag, commit, tree, blob)).encode()
    pack = repository.git("pack-objects", "--stdout", "-q", stdin=names).stdout
    return format_header(BundleHeader("sha256", ONE, tag)) + pack


def test_a_bundle_never_replaces_a_device_or_a_folder(sha256: Publisher, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    secret = tmp_path / "secret"
    secret.write_text("a private key\n")
    for out in (pipe, tmp_path, secret):
        with pytest.raises(UsageError, match="something else"):
            create(sha256.repository, ONE, [], out)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert secret.read_text() == "a private key\n"
    assert names(tmp_path) == ["pipe", "secret"]
