"""`abupdate publish` as it is typed: from a directory to a bundle, and what is refused."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from abupdate.cli.main import main
from abupdate.errors import ExitCode
from abupdate.release.metadata import parse_release_toml
from tests.unit.release_repository import make_tree


class Shell:
    """Runs commands in a folder; the last output is kept."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.out = ""
        self.err = ""

    def publish(self, line: str, *more: str) -> int:
        code = main(["publish", *line.split(), *more])
        self.out, self.err = self._capture.readouterr()
        return code

    def field(self, name: str) -> str:
        """The value of the output line that begins with a name."""
        (line,) = [line for line in self.out.splitlines() if line.startswith(f"{name} ")]
        return line[len(name) :].strip()


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return Shell(capsys)


@pytest.fixture
def published(shell: Shell, tmp_path: Path) -> Shell:
    """Releases 1 and 2, signed, in r.git."""
    assert shell.publish("keygen --out keys --name alice") == 0
    for number in (1, 2):
        make_tree(tmp_path, number)
        assert shell.publish(f"commit tree{number} --version {number} {GW}") == 0
        assert shell.publish(f"sign --repo r.git --version {number} --key keys/alice") == 0
    return shell


GW = "--repo r.git --compatible gw"
TRUST = "--allowed-signers keys/allowed_signers"


def test_from_a_directory_to_a_bundle_that_is_believed(published: Shell, tmp_path: Path) -> None:
    shell = published
    assert shell.publish("bundle --repo r.git --version 2 -o full") == 0
    assert shell.publish(f"verify full {TRUST}") == 0
    assert shell.field("release") == "2 for gw"
    assert shell.field("signer").startswith("alice, SHA256:")
    assert shell.field("content").startswith("4 files, ")

    assert shell.publish("bundle --repo r.git --version 2 --since 1 -o delta") == 0
    assert shell.field("needs").startswith("release/1, commit ")
    assert shell.publish(f"verify delta {TRUST}") == ExitCode.SOURCE
    assert "delta to release/1" in shell.err
    assert shell.publish(f"verify delta {TRUST} --repo r.git") == 0
    assert shell.field("needs") == "release/1"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("keys", "r.git", "tree1", "tree2", "full", "delta"),
    }


@pytest.mark.row("S21")
def test_a_delta_with_one_file_more_is_a_hundredth_of_the_whole(
    published: Shell, tmp_path: Path
) -> None:
    tree = tmp_path / "tree2"
    for number in range(1000):
        path = tree / f"usr/share/{number % 7}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(4096))
    sizes = []
    for version, since in (("3", ""), ("4", "--since 3")):
        assert published.publish(f"commit tree2 --version {version} {GW}") == 0
        assert published.publish(f"sign --repo r.git --version {version} --key keys/alice") == 0
        assert (
            published.publish(f"bundle --repo r.git --version {version} {since} -o b{version}") == 0
        )
        sizes.append((tmp_path / f"b{version}").stat().st_size)
        (tree / "usr/share/more").write_text("one file more\n")
    assert sizes[1] < sizes[0] / 100, sizes
    assert published.publish(f"verify b4 {TRUST} --repo r.git") == 0


def test_the_log_names_every_release_the_highest_first(published: Shell, tmp_path: Path) -> None:
    make_tree(tmp_path, 10)
    assert published.publish(f"commit tree10 --version 10-rc.1 {GW}") == 0
    assert published.publish("log --repo r.git") == 0
    lines = published.out.splitlines()
    assert [line.split()[0] for line in lines] == ["10-rc.1", "2", "1"]
    assert lines[0].endswith("not signed")
    assert "SHA256:" in lines[1]


def test_the_description_is_in_the_commit(shell: Shell, tmp_path: Path) -> None:
    make_tree(tmp_path, 1)
    assert shell.publish(f"commit tree1 --version 1.5 {GW} --floor 1.2 --min-from 1.0") == 0
    raw = subprocess.check_output(
        [
            "git",
            "-C",
            "r.git",
            "cat-file",
            "blob",
            f"{shell.field('commit')}:.abupdate/release.toml",
        ]
    )
    release = parse_release_toml(raw)
    assert (str(release.version), release.compatible) == ("1.5", "gw")
    assert (str(release.floor), str(release.min_from)) == ("1.2", "1.0")
    assert f"{release.inodes} inodes" in shell.field("content")
    assert release.bytes >= 300_000


def test_source_date_epoch_dates_commit_and_release(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path, 1)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    assert shell.publish(f"commit tree1 --version 1 {GW}") == 0
    commit = shell.field("commit")
    shown = subprocess.check_output(["git", "-C", "r.git", "show", "-s", "--format=%ct", commit])
    assert shown == b"1600000000\n"
    assert shell.publish(f"commit tree1 --version 1 {GW}") == 0
    assert shell.field("commit") == commit
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert shell.publish(f"commit tree1 --version 1 {GW}") == ExitCode.USAGE


def test_a_tar_on_standard_input(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path, 1)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(tree, arcname=".")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw.getvalue())))
    assert shell.publish(f"commit - --version 1 {GW}") == 0
    (tmp_path / "root.tar").write_bytes(raw.getvalue())
    commit = shell.field("commit")
    assert shell.publish(f"commit root.tar --version 1 {GW}") == 0
    assert shell.field("commit") == commit


class TestInZstd:
    def test_it_is_verified_as_the_plain_one(self, published: Shell) -> None:
        for number, since in ((1, ""), (2, " --since 1")):
            words = f"--repo r.git --version {number}{since}"
            assert published.publish(f"bundle {words} --zstd -o {number}.zst") == 0
        verify = "verify {}.zst --allowed-signers keys/allowed_signers{}"
        assert published.publish(verify.format(1, "")) == 0
        assert published.field("release").startswith("1 for")
        assert published.publish(verify.format(2, " --repo r.git")) == 0
        Path("1.zst").write_bytes(Path("1.zst").read_bytes()[:-9])
        assert published.publish(verify.format(1, "")) == ExitCode.SOURCE

    def test_a_signal_leaves_nothing(
        self, published: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        before = sorted(Path().iterdir())
        monkeypatch.setattr("abupdate.bundle.zstd.pack_up", stopped)
        words = "--repo r.git --version 1 --zstd -o 1.zst"
        assert published.publish(f"bundle {words}") == ExitCode.TERMINATED
        assert sorted(Path().iterdir()) == before


class TestAVersionIsPublishedOnce:
    def test_the_same_content_again_is_fine(self, published: Shell) -> None:
        assert published.publish(f"commit tree1 --version 1 {GW}") == 0

    def test_other_content_is_refused_once_it_is_signed(self, published: Shell) -> None:
        before = _refs()
        assert published.publish(f"commit tree2 --version 1 {GW}") == ExitCode.REFUSED
        assert "signed already, with other content" in published.err
        assert _refs() == before

    def test_other_content_replaces_what_is_not_signed(self, shell: Shell, tmp_path: Path) -> None:
        for number in (1, 2):
            make_tree(tmp_path, number)
            assert shell.publish(f"commit tree{number} --version 1 {GW}") == 0
        assert _refs() == f"{shell.field('commit')} refs/abupdate/commits/1\n"

    def test_signing_twice_is_nothing_to_do(self, published: Shell) -> None:
        before = _refs()
        line = "sign --repo r.git --version 1 --key keys/alice"
        assert published.publish(line) == ExitCode.NOTHING_TO_DO
        assert _refs() == before

    def test_a_signed_release_waits_no_more(self, published: Shell) -> None:
        assert "refs/abupdate/" not in _refs()


def _refs() -> str:
    return subprocess.check_output(
        ["git", "-C", "r.git", "for-each-ref", "--format=%(objectname) %(refname)"], text=True
    )


class TestKeygen:
    def test_two_signers_share_a_list(self, shell: Shell, tmp_path: Path) -> None:
        assert shell.publish("keygen --out keys --name alice") == 0
        first = shell.out
        assert shell.publish("keygen --out keys --name bob@example.org") == 0
        assert (tmp_path / "keys/allowed_signers").read_text() == first + shell.out
        assert shell.out.startswith('bob@example.org namespaces="git" ssh-ed25519 ')

    def test_a_key_is_not_replaced(self, shell: Shell, tmp_path: Path) -> None:
        assert shell.publish("keygen --out keys") == 0
        before = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
        assert shell.publish("keygen --out keys") == ExitCode.USAGE
        assert {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before

    @pytest.mark.parametrize("name", ["*", "a,b", "../x", "-x", "", "a b"])
    def test_a_name_that_means_more_is_refused(self, shell: Shell, name: str) -> None:
        assert shell.publish("keygen --out keys", "--name", name) == ExitCode.USAGE
        assert not Path("keys").exists()

    def test_a_passphrase_needs_a_terminal(
        self, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
        assert shell.publish("keygen --out keys --passphrase") == ExitCode.USAGE
        assert not Path("keys").exists()


class TestVerifyRefuses:
    """One sentence, the documented exit code, nothing written."""

    @pytest.fixture
    def full(self, published: Shell) -> Shell:
        assert published.publish("bundle --repo r.git --version 1 -o full") == 0
        return published

    def test_an_unknown_signer(self, full: Shell) -> None:
        assert full.publish("keygen --out other --name mallory") == 0
        assert full.publish("verify full --allowed-signers other/allowed_signers") == (
            ExitCode.NOT_TRUSTED
        )
        assert "not in the list of signers" in full.err

    def test_a_revoked_signer(self, full: Shell) -> None:
        assert full.publish(f"verify full {TRUST} --revoked keys/alice.pub") == (
            ExitCode.NOT_TRUSTED
        )
        assert "revokes" in full.err

    def test_no_signer(self, full: Shell) -> None:
        Path("none").write_text("")
        assert full.publish("verify full --allowed-signers none") == ExitCode.NOT_TRUSTED
        assert "No release key is configured" in full.err

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [(b"", "The bundle is empty."), (b"some text\n", "Not a bundle: it begins with")],
    )
    def test_what_is_no_bundle(self, full: Shell, content: bytes, sentence: str) -> None:
        Path("odd").write_bytes(content)
        assert full.publish(f"verify odd {TRUST}") == ExitCode.SOURCE
        assert sentence in full.err

    def test_a_file_that_is_missing(self, full: Shell) -> None:
        assert full.publish(f"verify nothing {TRUST}") == ExitCode.SOURCE
        assert full.publish(f"verify tree1 {TRUST}") == ExitCode.SOURCE

    def test_a_changed_byte(self, full: Shell) -> None:
        raw = bytearray(Path("full").read_bytes())
        raw[len(raw) // 2] ^= 1
        Path("full").write_bytes(raw)
        assert full.publish(f"verify full {TRUST}") == ExitCode.SOURCE


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        (f"commit nothing --version 1 {GW}", ExitCode.SOURCE, "there is nothing"),
        (f"commit tree1 --version 01 {GW}", ExitCode.USAGE, "without leading zeros"),
        (f"commit tree1 --version 1 {GW} --floor 2", ExitCode.USAGE, "floor 2 is above"),
        ("commit tree1 --version 1 --repo r.git --compatible -", ExitCode.USAGE, "compatible"),
        ("commit tree1 --version 1 --repo tree1 --compatible x", ExitCode.USAGE, "neither empty"),
        ("commit tree1 --version 1 --repo /proc/x --compatible x", ExitCode.USAGE, "/proc/x"),
        ("sign --repo r.git --version 1 --key k", ExitCode.USAGE, "there is none"),
        ("sign --repo tree1 --version 1 --key k", ExitCode.USAGE, "there is none"),
        ("bundle --repo tree1 --version 1 -o x", ExitCode.USAGE, "there is none"),
        ("log --repo tree1", ExitCode.USAGE, "there is none"),
    ],
)
def test_bad_input_is_one_clear_sentence(
    shell: Shell, tmp_path: Path, line: str, code: int, sentence: str
) -> None:
    make_tree(tmp_path, 1)
    assert shell.publish(line) == code
    assert sentence in shell.err
    assert "Traceback" not in shell.err
    assert not (tmp_path / "r.git").exists()


def test_what_is_not_there_cannot_be_signed_or_bundled(published: Shell) -> None:
    assert published.publish("sign --repo r.git --version 7 --key keys/alice") == ExitCode.USAGE
    assert "no commit for release 7" in published.err
    assert published.publish("bundle --repo r.git --version 7 -o x") == ExitCode.USAGE
    assert "no signed release 7" in published.err
    assert not Path("x").exists()


def test_a_key_that_cannot_sign_leaves_the_release_unsigned(shell: Shell, tmp_path: Path) -> None:
    make_tree(tmp_path, 1)
    assert shell.publish(f"commit tree1 --version 1 {GW}") == 0
    before = _refs()
    assert shell.publish("sign --repo r.git --version 1 --key missing") == ExitCode.USAGE
    assert _refs() == before


def test_an_empty_name_is_not_the_current_folder(shell: Shell) -> None:
    """As from `"$ROOTFS"` in a script that has not set it."""
    assert main(["publish", "commit", "", *f"--version 1 {GW}".split()]) == ExitCode.SOURCE


def test_a_repository_is_no_part_of_its_releases(shell: Shell, tmp_path: Path) -> None:
    make_tree(tmp_path, 1)
    line = "commit tree1 --version 1 --compatible gw --repo tree1/usr/r.git"
    assert shell.publish(line) == ExitCode.USAGE
    assert "inside the root filesystem" in shell.err
    assert not (tmp_path / "tree1/usr/r.git").exists()
