"""Bundles that somebody has changed: taken whole, or the store is as it was before."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from abupdate.bundle.header import BundleHeader, format_header
from abupdate.bundle.quarantine import Room
from abupdate.bundle.read import Incoming
from abupdate.errors import (
    ExitCode,
    NoSpaceError,
    NotTrustedError,
    RefusedError,
    SourceError,
)
from abupdate.events import Events
from abupdate.signing.signature import Reason, TagRefusedError
from abupdate.store.repository import Repository
from tests.unit.bundles import (
    LIMIT,
    ONE,
    TWO,
    Device,
    Pipe,
    Publisher,
    bundle_of,
    names,
    refused,
    verify_shape,
)
from tests.unit.release_keys import Key
from tests.unit.release_repository import make_tree, publish


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
        with device256.receive(bundle_of(again, ONE, [], tmp_path)) as received:
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
