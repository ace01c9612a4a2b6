"""Bundles in zstd: the same release, smaller, told by its first bytes; and those that lie."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import pwd
import random
import signal
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from abupdate.bundle import recode
from abupdate.bundle.quarantine import Room
from abupdate.bundle.read import Incoming
from abupdate.bundle.write import create
from abupdate.errors import AbupdateError, DeviceFaultError, ExitCode, UsageError
from abupdate.events import Events
from abupdate.release.version import Version
from abupdate.run import Sandbox
from abupdate.store.repository import Repository
from tests.unit.bundles import LIMIT, ONE, TWO, Device, Pipe, Publisher, names, refused
from tests.unit.release_repository import make_tree, publish

_MAGIC = b"\x50\x2a\x4d\x18"


def zstd(*words: str, stdin: bytes) -> bytes:
    return subprocess.run(
        ["zstd", "-q", "-c", *words], input=stdin, stdout=subprocess.PIPE, check=True
    ).stdout


def in_zstd(publisher: Publisher, version: Version, since: list[Version], folder: Path) -> bytes:
    create(publisher.repository, version, since, folder / "x.bundle.zst", in_zstd=True)
    return (folder / "x.bundle.zst").read_bytes()


@pytest.fixture(scope="module")
def small(sha256: Publisher, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Release 1 in zstd."""
    return in_zstd(sha256, ONE, [], tmp_path_factory.mktemp("zstd"))


def beginning_of(raw: bytes) -> bytes:
    size = struct.unpack_from("<I", raw, 4)[0]
    return raw[8 : 8 + size]


def packs(repository: Repository) -> dict[str, int]:
    """The objects of all packs, and what they take there: bytes."""
    found: dict[str, int] = {}
    for index in (repository.path / "objects/pack").glob("*.idx"):
        lines = repository.git("verify-pack", "-v", index).stdout.decode().splitlines()
        words = [line.split() for line in lines]
        found |= {one[0]: int(one[3]) for one in words if len(one) in (5, 7)}
    return found


class TestGood:
    def test_brings_what_the_plain_one_brings(
        self, publisher: Publisher, device: Device, tmp_path: Path
    ) -> None:
        """A full one and a delta, in a store that gets no larger than by the plain ones."""
        (tmp_path / "plain").mkdir()
        plain = Device(tmp_path / "plain", publisher.repository.object_format)
        for version, raw, since in (
            (ONE, publisher.full[ONE], []),
            (TWO, publisher.delta, [ONE]),
        ):
            plain.install(raw)
            device.install(in_zstd(publisher, version, since, tmp_path))
            assert device.store.resolve(version.ref) == plain.store.resolve(version.ref)
        ours, theirs = packs(device.store), packs(plain.store)
        assert ours.keys() == theirs.keys()
        assert sum(ours.values()) <= 1.02 * sum(theirs.values())
        assert names(tmp_path / "spool") == []

    def test_unpacked_it_is_for_git(self, publisher: Publisher, tmp_path: Path) -> None:
        form = publisher.repository.object_format
        target = Repository.create(tmp_path / "clone.git", object_format=form)
        for version, since in ((ONE, []), (TWO, [ONE])):
            raw = zstd("-d", stdin=in_zstd(publisher, version, since, tmp_path))
            (tmp_path / "x.bundle").write_bytes(raw)
            target.git("bundle", "verify", tmp_path / "x.bundle")
            target.git("fetch", "-q", tmp_path / "x.bundle", f"{version.ref}:{version.ref}")
        target.git("fsck", "--strict", "--full")

    def test_the_signature_is_known_from_the_first_bytes(
        self, small: bytes, device256: Device
    ) -> None:
        source = io.BytesIO(small)
        incoming = Incoming(source, device256.store, LIMIT, Events())
        assert incoming.statement is not None
        assert source.tell() < 4096
        with incoming.receive() as received:
            assert received.statement == incoming.statement
            assert received.transferred == len(small)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run programs as another user")
    def test_as_the_user_of_the_store(
        self, small: bytes, sha256: Publisher, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = Path("/tmp") / tmp_path_factory.mktemp("sandboxed").name
        folder.mkdir(mode=0o755)
        user = pwd.getpwnam("nobody")
        try:
            os.chown(folder, user.pw_uid, user.pw_gid)
            device = Device(folder, "sha256", Sandbox(str(user.pw_uid), memory=200_000_000))
            device.install(small)
            assert device.store.resolve(ONE.ref) == sha256.repository.resolve(ONE.ref)
        finally:
            subprocess.run(["rm", "-rf", folder], check=True)

    def test_one_replaces_another_and_nothing_else(self, sha256: Publisher, tmp_path: Path) -> None:
        out = tmp_path / "x.bundle.zst"
        for _ in range(2):
            create(sha256.repository, ONE, [], out, in_zstd=True)
        out.write_bytes(zstd(stdin=b"a letter"))
        with pytest.raises(UsageError):
            create(sha256.repository, ONE, [], out, in_zstd=True)
        assert names(tmp_path) == ["x.bundle.zst"]

    def test_nothing_is_left_where_zstd_is_missing(
        self, sha256: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("abupdate.run.SEARCH_PATH", "/nonexistent")
        with pytest.raises(DeviceFaultError, match="git not found"):
            create(sha256.repository, ONE, [], tmp_path / "x", in_zstd=True)
        assert names(tmp_path) == []


class TestRecoding:
    """The pack of a bundle at another level."""

    def test_there_and_back(self, publisher: Publisher, tmp_path: Path) -> None:
        """With deltas among its objects; git finds the same in each of the three."""
        folder = tmp_path / "tree"
        repository = Repository.create(
            tmp_path / "r.git", object_format=publisher.repository.object_format
        )
        tree = make_tree(folder, 1)
        rng = random.Random(5)
        text = rng.randbytes(20_000).hex()
        for number in range(30):
            (tree / f"like{number}").write_text(text[: 1000 * number] + "!" + text[1000 * number :])
        (tree / "long").write_text(text * 20)
        publish(repository, publisher.key, tree, "1")
        create(repository, ONE, [], tmp_path / "x")
        raws = [(tmp_path / "x").read_bytes()]
        for level in (0, 6):
            out = io.BytesIO()
            recode.recode(io.BytesIO(raws[-1]), out, level, 1 << 30)
            raws.append(out.getvalue())
        assert len(raws[1]) > len(raws[0]) + 50_000
        assert 0.9 < len(raws[2]) / len(raws[0]) < 1.1
        found = []
        for number, raw in enumerate(raws):
            (tmp_path / str(number)).mkdir()
            device = Device(tmp_path / str(number), repository.object_format)
            device.install(raw)
            found.append(packs(device.store).keys())
        assert found[0] == found[1] == found[2]
        index = next((device.store.path / "objects/pack").glob("*.idx"))
        shown = device.store.git("verify-pack", "-v", index).stdout.decode()
        assert "chain length = 1" in shown

    @pytest.mark.parametrize("value", [1, 127, 128, 16511, 16512, 2_113_663, 2_113_664, 1 << 40])
    def test_distances_of_all_sizes(self, value: int) -> None:
        raw = recode._as_distance(value)
        assert recode._distance(recode._Input(io.BytesIO(raw + b"more"), 99)) == value


class TestHostile:
    def test_cut_anywhere(self, small: bytes, device256: Device) -> None:
        rng = random.Random(2)
        for size in [4, 7, 8, *(rng.randrange(8, len(small)) for _ in range(20)), len(small) - 1]:
            assert refused(device256, small[:size]).exit_code == ExitCode.SOURCE, size

    def test_flipped_bits(self, small: bytes, sha256: Publisher, device256: Device) -> None:
        """Refused, or (a bit without a meaning) the same release."""
        rng = random.Random(3)
        for place in [rng.randrange(len(small)) for _ in range(40)]:
            changed = bytearray(small)
            changed[place] ^= 1 << rng.randrange(8)
            try:
                with device256.receive(bytes(changed)) as received:
                    assert received.tag_oid == sha256.repository.resolve(ONE.ref), place
            except AbupdateError as error:
                assert error.exit_code in (ExitCode.SOURCE, ExitCode.NOT_TRUSTED), place
            assert names(device256.folder / "spool") == []

    def test_bytes_after_its_end(self, small: bytes, device256: Device) -> None:
        for more in (b"\n", bytes(100_000), zstd(stdin=b"x"), small):
            assert refused(device256, small + more).exit_code == ExitCode.SOURCE

    def test_another_bundle_than_its_beginning_says(
        self, sha256: Publisher, device256: Device, tmp_path: Path
    ) -> None:
        one, two = (in_zstd(sha256, version, [], tmp_path) for version in (ONE, TWO))
        rest = two[8 + len(beginning_of(two)) :]
        error = refused(device256, one[: 8 + len(beginning_of(one))] + rest)
        assert "another one than its first bytes say" in error.message

    def test_a_beginning_that_is_too_long(self, device256: Device) -> None:
        error = refused(device256, _MAGIC + struct.pack("<I", 1 << 31) + b"x" * 100)
        assert "its first frame has 2147483648 bytes" in error.message

    def test_a_beginning_that_is_none(self, device256: Device) -> None:
        for content in (b"", b"# v3 git bundle\n", b"hello\n"):
            raw = _MAGIC + struct.pack("<I", len(content)) + content
            assert refused(device256, raw).exit_code == ExitCode.SOURCE

    def test_no_bundle_at_all_behind_it(self, small: bytes, device256: Device) -> None:
        first = small[: 8 + len(beginning_of(small))]
        for content in (b"", b"hello", beginning_of(small), b"x" * (2 << 20)):
            error = refused(device256, first + zstd(stdin=content))
            assert error.exit_code == ExitCode.SOURCE

    def test_more_than_a_slot_has_room_for(self, small: bytes, device256: Device) -> None:
        """An object of 128 MiB that lies open; a header that does not end."""
        room = Room(1 << 20, 1000)
        beginning = beginning_of(small)
        opening = beginning[: beginning.index(b"PACK") + 12]
        size = 1 << 27
        large = b"\xb0\x80\x80\x80\x04" + zlib.compress(bytes(size), 0)
        for content, code in (
            (opening + large, ExitCode.NO_SPACE),
            (beginning[:99] + bytes(size), ExitCode.SOURCE),
        ):
            raw = small[: 8 + len(beginning)] + zstd(stdin=content)
            incoming = Incoming(Pipe(raw), device256.store, LIMIT, Events(), room=room)
            with pytest.raises(AbupdateError) as caught:
                incoming.receive()
            assert caught.value.exit_code == code
            assert names(device256.folder / "spool") == []

    @pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bytes])
    def test_another_format_behind_the_beginning(
        self, small: bytes, device256: Device, compress: Callable[[bytes], bytes]
    ) -> None:
        """zstd, the program, would take them."""
        first = small[: 8 + len(beginning_of(small))]
        error = refused(device256, first + compress(zstd("-d", stdin=small)))
        assert "its second frame is none of zstd" in error.message

    def test_a_pack_with_another_hash(self, small: bytes, device256: Device) -> None:
        plain = bytearray(zstd("-d", stdin=small))
        plain[-1] ^= 1
        first = small[: 8 + len(beginning_of(small))]
        error = refused(device256, first + zstd(stdin=bytes(plain)))
        assert "another hash than it says" in error.message

    def test_a_beginning_without_the_tags(self, small: bytes, device256: Device) -> None:
        """Nothing of it is unpacked for somebody whom nobody knows yet."""
        beginning = beginning_of(small)
        header = beginning[: beginning.index(b"PACK")]
        rest = small[8 + len(beginning) :]
        error = refused(device256, _MAGIC + struct.pack("<I", len(header)) + header + rest)
        assert "should begin with its tags" in error.message

    @pytest.mark.parametrize("name", ["zstd", "python3"])
    def test_one_of_its_programs_is_killed(
        self, small: bytes, device256: Device, name: str
    ) -> None:
        class Killing(Pipe):
            def read(self, size: int, /) -> bytes:
                for pid in Path("/proc/thread-self/children").read_text().split():
                    if Path(f"/proc/{pid}/comm").read_text().startswith(name):
                        os.kill(int(pid), signal.SIGKILL)
                return super().read(size)

        with pytest.raises(DeviceFaultError, match="Unpacking the bundle was ended"):
            Incoming(Killing(small), device256.store, LIMIT, Events()).receive()
        assert names(device256.folder / "spool") == []

    def test_a_window_that_is_too_large(self, small: bytes, device256: Device) -> None:
        plain = zstd("-d", stdin=small)
        rest = zstd("--ultra", "-22", "--long=31", stdin=plain + bytes(64 << 20))
        error = refused(device256, small[: 8 + len(beginning_of(small))] + rest)
        assert "memory" in error.message.lower()

    def test_a_file_of_zstd_that_is_none_of_ours(self, device256: Device) -> None:
        error = refused(device256, zstd(stdin=b"# v3 git bundle\n"))
        assert "Not a bundle" in error.message
