"""Bundles: what git makes of them, and what a store takes in and what not."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from pathlib import Path

import pytest

from abupdate.bundle.quarantine import clear_quarantines
from abupdate.bundle.read import Incoming
from abupdate.bundle.write import create
from abupdate.errors import (
    SourceError,
    UsageError,
)
from abupdate.events import Events
from abupdate.release.version import Version
from abupdate.run import Sandbox
from abupdate.signing.signature import TrustFiles, verify
from abupdate.store.content import open_commit
from abupdate.store.repository import Repository
from tests.unit.bundles import (
    LIMIT,
    ONE,
    TWO,
    Device,
    Pipe,
    Publisher,
    names,
)
from tests.unit.release_keys import NOW


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
        def broken(*_: object, **_more: object) -> None:
            raise SourceError("no")

        (tmp_path / "x").write_text("# v3 git bundle, old")
        monkeypatch.setattr(Repository, "packing", broken)
        with pytest.raises(SourceError):
            create(sha256.repository, ONE, [], tmp_path / "x")
        assert names(tmp_path) == ["x"]
        assert (tmp_path / "x").read_text() == "# v3 git bundle, old"


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
