"""Release tags: what is believed, and why anything else is not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

import pytest

from abupdate.errors import ExitCode, UsageError
from abupdate.release.version import Version
from abupdate.signing.signature import (
    Reason,
    TagRefusedError,
    TrustFiles,
    Verified,
    generate_key,
    sign,
    verify,
)
from tests.unit.release_keys import (
    ALICE,
    COMMIT,
    MANIFEST,
    NOW,
    Key,
    make_key,
    payload,
    signed,
    signed_for,
)

Result = TypeVar("Result")
ASKED = Version("1.2")
BEGIN = b"-----BEGIN SSH SIGNATURE-----\n"
END = b"-----END SSH SIGNATURE-----\n"
PGP = b"-----BEGIN PGP SIGNATURE-----\n\niQ\n-----END PGP SIGNATURE-----\n"


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("keys"), "alice")


@pytest.fixture(scope="module")
def mallory(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("keys"), "mallory")


class Trust:
    """Trust files in a folder, written as text."""

    def __init__(self, folder: Path) -> None:
        self._signers = folder / "allowed_signers"
        self._revoked = folder / "revoked"

    def __call__(self, *lines: str, revoked: bytes = b"") -> TrustFiles:
        self._signers.write_text("".join(f"{line}\n" for line in lines))
        self._revoked.write_bytes(revoked)
        return TrustFiles((self._signers,), (self._revoked,))


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path)


def reason(raw: bytes, trust: TrustFiles, not_before: int = 0) -> Reason:
    with pytest.raises(TagRefusedError) as caught:
        verify(raw, ASKED, trust, not_before)
    assert caught.value.exit_code == ExitCode.NOT_TRUSTED
    return caught.value.reason


def test_a_good_tag_tells_who_signed_what(alice: Key, trust: Trust) -> None:
    found = verify(signed(alice), ASKED, trust("# keys", "", alice.line), NOW + 99)
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", alice.public], capture_output=True, check=True, text=True
    )
    key = shown.stdout.split()[1]
    assert found == Verified(ALICE, key, COMMIT, MANIFEST, ASKED, "acme", NOW)


@pytest.mark.row("U4")
def test_rotation_and_revocation(alice: Key, mallory: Key, trust: Trust) -> None:
    """Two signers: both good, then one expired, one revoked, each with its reason."""
    by_alice, by_mallory = signed(alice), signed(mallory)
    both = trust(alice.line, mallory.line)
    assert verify(by_alice, ASKED, both, 0).signer == ALICE
    assert verify(by_mallory, ASKED, both, 0).signer == "mallory@example.org"

    expired = trust(alice.limited('valid-before="20261101"'), mallory.line)
    assert reason(by_alice, expired) == Reason.EXPIRED
    assert verify(by_mallory, ASKED, expired, 0).signer == "mallory@example.org"

    revoked = trust(alice.line, mallory.line, revoked=mallory.public.read_bytes())
    assert verify(by_alice, ASKED, revoked, 0).signer == ALICE
    assert reason(by_mallory, revoked) == Reason.REVOKED


def test_a_backdated_tag_does_not_bring_an_expired_key_back(alice: Key, trust: Trust) -> None:
    backdated = signed(alice, payload(when=1_577_836_800))  # 2020
    limited = trust(alice.limited('valid-before="20250101"'))
    assert verify(backdated, ASKED, limited, 0).tagger_time == 1_577_836_800
    assert reason(backdated, limited, not_before=NOW) == Reason.EXPIRED


def test_the_clock_of_the_machine_has_no_say(alice: Key, trust: Trust) -> None:
    """A key that was valid at the verify time is good, however late it is now."""
    limited = trust(alice.limited('valid-after="20100101",valid-before="20110101"'))
    assert verify(signed(alice, payload(when=1_280_000_000)), ASKED, limited, 0).signer == ALICE


def test_a_key_is_not_valid_before_its_time(alice: Key, trust: Trust) -> None:
    assert reason(signed(alice), trust(alice.limited('valid-after="20300101Z"'))) == (
        Reason.NOT_YET_VALID
    )


def test_an_unlisted_key_is_named(alice: Key, mallory: Key, trust: Trust) -> None:
    with pytest.raises(TagRefusedError, match="SHA256:") as caught:
        verify(signed(mallory), ASKED, trust(alice.line), 0)
    assert caught.value.reason == Reason.UNKNOWN_SIGNER


def test_a_signature_for_another_purpose_is_refused(alice: Key, trust: Trust) -> None:
    assert reason(signed_for(alice, "file", payload()), trust(alice.line)) == Reason.NAMESPACE


def _renamed_in_place(raw: bytes) -> bytes:
    return raw.replace(b"Acme <", b"Bcme <")


CHANGES: dict[str, tuple[Callable[[bytes], bytes], Reason]] = {
    "one letter changed": (_renamed_in_place, Reason.BAD_SIGNATURE),
    "commit changed": (lambda raw: raw.replace(b"cdcd", b"cdce", 1), Reason.BAD_SIGNATURE),
    "object of sha1 size": (lambda raw: raw.replace(b"cd" * 32, b"cd" * 20), Reason.BAD_SIGNATURE),
    "manifest changed": (lambda raw: raw.replace(b"abab", b"abac", 1), Reason.BAD_SIGNATURE),
    "product changed": (lambda raw: raw.replace(b": acme", b": acmf"), Reason.BAD_SIGNATURE),
    "text appended": (lambda raw: raw + b"\n", Reason.SHAPE),
    "no last newline": (lambda raw: raw[:-1], Reason.SHAPE),
    "two signatures": (lambda raw: raw + raw[raw.index(BEGIN) :], Reason.SHAPE),
    "signature inside": (lambda raw: raw.replace(b"\n\n", b"\n\n" + BEGIN + END, 1), Reason.SHAPE),
    "unsigned": (lambda raw: raw[: raw.index(BEGIN)], Reason.NO_SIGNATURE),
    "PGP": (lambda raw: raw[: raw.index(BEGIN)] + PGP, Reason.PGP),
    "PGP as well": (
        lambda raw: raw[: raw.index(BEGIN)] + PGP + raw[raw.index(BEGIN) :],
        Reason.PGP,
    ),
    "X.509": (
        lambda raw: raw[: raw.index(BEGIN)] + b"-----BEGIN SIGNED MESSAGE-----\n",
        Reason.PGP,
    ),
    "rewrapped": (lambda raw: raw.replace(BEGIN + b"U1", BEGIN + b"U\n1"), Reason.SHAPE),
    "not base64": (lambda raw: raw.replace(BEGIN, BEGIN + b"!"), Reason.SHAPE),
    "short base64": (lambda raw: raw[: raw.index(BEGIN)] + BEGIN + END, Reason.SHAPE),
    "cut signature": (lambda raw: raw[: -len(END) - 30] + b"\n" + END, Reason.SHAPE),
    "on a tree": (lambda raw: raw.replace(b"type commit", b"type tree"), Reason.SHAPE),
    "on a blob": (lambda raw: raw.replace(b"type commit", b"type blob"), Reason.SHAPE),
    "on a tag": (lambda raw: raw.replace(b"type commit", b"type tag"), Reason.SHAPE),
    "other name": (lambda raw: raw.replace(b"release/1.2", b"release/1.1"), Reason.NAME),
    "bare name": (lambda raw: raw.replace(b"tag release/", b"tag "), Reason.NAME),
    "header more": (lambda raw: raw.replace(b"type commit\n", b"type commit\nx y\n"), Reason.SHAPE),
    "no tagger": (
        lambda raw: raw[: raw.index(b"tagger")] + raw[raw.index(b"\n\n") :],
        Reason.SHAPE,
    ),
    "year 10000": (lambda raw: raw.replace(b"1795000000", b"253402300800"), Reason.SHAPE),
    "negative date": (lambda raw: raw.replace(b"1795000000", b"-179500000"), Reason.SHAPE),
    "no manifest": (lambda raw: raw.replace(b"Manifest-SHA256: ", b""), Reason.SHAPE),
    "manifest twice": (
        lambda raw: raw.replace(b"Compatible", b"Manifest-SHA256: %s\nCompatible" % (b"0" * 64)),
        Reason.SHAPE,
    ),
    "no product": (lambda raw: raw.replace(b"Compatible: ", b""), Reason.SHAPE),
    "odd product": (lambda raw: raw.replace(b": acme", b": a\x1b[31m"), Reason.SHAPE),
    "empty": (lambda raw: b"", Reason.SHAPE),
    "text": (lambda raw: b"hello\n" * 20, Reason.SHAPE),
    "too large": (lambda raw: raw.replace(BEGIN, b"x" * 65_536 + b"\n" + BEGIN), Reason.SHAPE),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_tag_is_refused(alice: Key, trust: Trust, change: str) -> None:
    good = signed(alice)
    changed, expected = CHANGES[change][0](good), CHANGES[change][1]
    assert changed != good
    assert reason(changed, trust(alice.line)) == expected


def test_text_after_the_signature_is_named(alice: Key, trust: Trust) -> None:
    with pytest.raises(TagRefusedError, match="text after its signature"):
        verify(signed(alice) + b"more\n", ASKED, trust(alice.line), 0)


@pytest.mark.parametrize(
    "old, new, expected",
    [
        (b"type commit", b"type tree", Reason.SHAPE),
        (b"type commit", b"type blob", Reason.SHAPE),
        (b"type commit", b"type tag", Reason.SHAPE),
        (b"tag release/1.2", b"tag release/1", Reason.NAME),
        (b"\n\nRelease", b"\nx-more y\n\nRelease", Reason.SHAPE),
        (b"Compatible: acme\n", b"", Reason.SHAPE),
        (b"Compatible: acme", b"Compatible: acme\nCompatible: other", Reason.SHAPE),
        (b"Manifest-SHA256: ", b"Manifest-SHA256: 0", Reason.SHAPE),
        (b"Release 1.2\n", PGP, Reason.PGP),
    ],
)
def test_even_a_trusted_key_cannot_sign_another_shape(
    alice: Key, trust: Trust, old: bytes, new: bytes, expected: Reason
) -> None:
    raw = signed(alice, payload().replace(old, new))
    assert reason(raw, trust(alice.line)) == expected


def test_every_flipped_bit_of_a_tag_is_noticed(alice: Key, trust: Trust) -> None:
    """Header, message, armour, base64: nothing of a tag can be spelt in two ways."""
    good, files = signed(alice), trust(alice.line)
    accepted = []
    for index in range(0, len(good), 11):
        raw = bytearray(good)
        raw[index] ^= 1 << (index % 8)
        try:
            verify(bytes(raw), ASKED, files, 0)
        except TagRefusedError:
            continue
        accepted.append(index)
    assert accepted == []


class TestTrustFiles:
    """A file that allows more than its author meant refuses everything."""

    def test_no_key_at_all(self, alice: Key, tmp_path: Path, trust: Trust) -> None:
        with pytest.raises(TagRefusedError, match="No release key is configured") as caught:
            verify(signed(alice), ASKED, TrustFiles(()), 0)
        assert caught.value.hint
        assert "allowed_signers" in caught.value.hint
        assert reason(signed(alice), trust("# nobody yet")) == Reason.NO_KEY
        with pytest.raises(TagRefusedError, match="No release key"):
            trust("# nobody yet").require_keys()
        trust(alice.line).require_keys()

    def test_each_of_several_revocation_files_counts(
        self, alice: Key, mallory: Key, trust: Trust, tmp_path: Path
    ) -> None:
        files = trust(alice.line, mallory.line, revoked=mallory.public.read_bytes())
        (tmp_path / "more").write_bytes(alice.public.read_bytes())
        both = TrustFiles(files.allowed_signers, (*files.revoked, tmp_path / "more"))
        assert verify(signed(alice), ASKED, files, 0).signer == ALICE
        for key in (alice, mallory):
            assert reason(signed(key), both) == Reason.REVOKED

    def test_several_files_are_one_list(self, alice: Key, mallory: Key, tmp_path: Path) -> None:
        # Without a newline at the end: the next file must not continue the line.
        (tmp_path / "a").write_text(mallory.line)
        (tmp_path / "b").write_text(alice.line)
        files = TrustFiles((tmp_path / "a", tmp_path / "b"))
        assert verify(signed(alice), ASKED, files, 0).signer == ALICE

    def test_a_missing_file_is_not_an_empty_one(self, alice: Key, trust: Trust) -> None:
        files = trust(alice.line)
        files.revoked[0].unlink()
        assert reason(signed(alice), files) == Reason.TRUST_FILE
        files = trust(alice.line)
        gone = TrustFiles((*files.allowed_signers, Path("/nonexistent/signers")))
        assert reason(signed(alice), gone) == Reason.TRUST_FILE

    @pytest.mark.parametrize(
        "line",
        [
            "* {key}",
            '* namespaces="git" {key}',
            '*@example.org namespaces="git" {key}',
            'a?ice@example.org namespaces="git" {key}',
            '!bob namespaces="git" {key}',
            'alice,bob namespaces="git" {key}',
            '"alice" namespaces="git" {key}',
            '-oops namespaces="git" {key}',
            "alice {key}",
            'alice namespaces="*" {key}',
            'alice namespaces="git,file" {key}',
            'alice namespaces="file" {key}',
            'alice valid-before="20300101" {key}',
            'alice cert-authority,namespaces="git" {key}',
            'alice namespaces="git",cert-authority {key}',
            'alice namespaces="git",namespaces="file" {key}',
            'alice namespaces="git",valid-before="soon" {key}',
            'alice namespaces="git",valid-before="20261341" {key}',
            'alice namespaces="git",future="1" {key}',
            'alice namespaces="git" ssh-ed25519',
            'alice namespaces="git" ssh-ed25519 AAAA',
            'alice namespaces="git" ssh-ed25519 not!base64',
            'alice namespaces="git" ssh-dss {blob}',
            'alice namespaces="git" ssh-rsa {blob}',
        ],
    )
    def test_a_careless_signer_line(self, alice: Key, trust: Trust, line: str) -> None:
        words = alice.public.read_text().split()
        text = line.format(key=" ".join(words[:2]), blob=words[1])
        files = trust(alice.line, text)
        with pytest.raises(TagRefusedError, match="allowed_signers:2") as caught:
            verify(signed(alice), ASKED, files, 0)
        assert caught.value.reason == Reason.TRUST_FILE

    def test_a_revocation_list_must_be_read_whole(
        self, alice: Key, mallory: Key, trust: Trust
    ) -> None:
        other = mallory.public.read_bytes()
        assert verify(signed(alice), ASKED, trust(alice.line, revoked=other), 0)
        for damage in (other[:40], other + b"ssh-ed25519\n", b"garbage\n"):
            assert reason(signed(alice), trust(alice.line, revoked=damage)) == Reason.TRUST_FILE

    def test_a_binary_revocation_list(
        self, alice: Key, mallory: Key, trust: Trust, tmp_path: Path
    ) -> None:
        lists = {}
        for key in (alice, mallory):
            file = tmp_path / f"{key.path.name}.krl"
            subprocess.run(["ssh-keygen", "-k", "-q", "-f", file, key.public], check=True)
            lists[key] = file.read_bytes()
        assert verify(signed(alice), ASKED, trust(alice.line, revoked=lists[mallory]), 0)
        assert reason(signed(alice), trust(alice.line, revoked=lists[alice])) == Reason.REVOKED
        cut = lists[mallory][:-30]
        assert reason(signed(alice), trust(alice.line, revoked=cut)) == Reason.TRUST_FILE

    def test_a_list_of_any_size_is_not_read(self, alice: Key, trust: Trust) -> None:
        assert reason(signed(alice), trust("#" * (1 << 20))) == Reason.TRUST_FILE


class TestPublisher:
    """Keys and signatures that other programs understand too."""

    def git(self, folder: Path, *words: str, stdin: bytes = b"") -> bytes:
        env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        env |= {
            f"GIT_{who}_{what}": "Acme" for who in ("AUTHOR", "COMMITTER") for what in ("NAME",)
        }
        env |= {f"GIT_{who}_EMAIL": "release@example.org" for who in ("AUTHOR", "COMMITTER")}
        done = subprocess.run(
            ["git", "-C", folder, *words], input=stdin, capture_output=True, check=True, env=env
        )
        return done.stdout

    @pytest.fixture
    def repository(self, tmp_path: Path, alice: Key) -> tuple[Path, str]:
        folder = tmp_path / "repository"
        subprocess.run(["git", "init", "-q", "--object-format=sha256", folder], check=True)
        signers = tmp_path / "signers"
        signers.write_text(alice.line + "\n")
        for name, value in {
            "gpg.format": "ssh",
            "gpg.ssh.allowedSignersFile": str(signers),
            "user.signingKey": str(alice.path),
        }.items():
            self.git(folder, "config", name, value)
        self.git(folder, "commit", "-q", "--allow-empty", "-m", "root")
        return folder, self.git(folder, "rev-parse", "HEAD").decode().strip()

    def test_git_accepts_our_tag(self, alice: Key, repository: tuple[Path, str]) -> None:
        folder, commit = repository
        raw = signed(alice, payload(commit=commit))
        tag = self.git(folder, "hash-object", "-t", "tag", "-w", "--stdin", stdin=raw).decode()
        self.git(folder, "update-ref", "refs/tags/release/1.2", tag.strip())
        self.git(folder, "verify-tag", "release/1.2")
        self.git(folder, "fsck", "--strict")

    def test_we_accept_the_tag_of_git(
        self, alice: Key, repository: tuple[Path, str], trust: Trust
    ) -> None:
        folder, commit = repository
        message = f"By hand\n\nManifest-SHA256: {MANIFEST}\nCompatible: acme\n"
        self.git(folder, "tag", "-s", "-m", message, "release/1.2")
        raw = self.git(folder, "cat-file", "tag", "release/1.2")
        assert verify(raw, ASKED, trust(alice.line), 0).commit == commit

    def test_a_key_is_never_overwritten(self, alice: Key) -> None:
        before = alice.path.read_bytes()
        with pytest.raises(UsageError, match="exists"):
            generate_key(alice.path, ALICE)
        assert alice.path.read_bytes() == before

    def test_a_private_key_is_private(self, alice: Key) -> None:
        assert alice.path.stat().st_mode & 0o077 == 0

    def test_a_missing_key_cannot_sign(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="could not sign"):
            sign(payload(), tmp_path / "nothing")

    def test_a_passphrase_is_asked_for_on_the_terminal(self, tmp_path: Path, trust: Trust) -> None:
        key = tmp_path / "bob"
        line = self.answered(b"secret\nsecret\n", lambda tty: generate_key(key, "bob", tty))
        raw = self.answered(b"secret\n", lambda tty: sign(payload(), key, tty))
        assert verify(raw, ASKED, trust(line), 0).signer == "bob"
        with pytest.raises(UsageError, match="could not sign"):
            self.answered(b"wrong\n", lambda tty: sign(payload(), key, tty))

    def answered(self, answer: bytes, work: Callable[[IO[bytes]], Result]) -> Result:
        """What `work` gives with a terminal at which somebody types `answer`."""
        ours, theirs = os.openpty()
        with os.fdopen(theirs, "rb") as terminal, os.fdopen(ours, "wb", buffering=0) as keyboard:
            keyboard.write(answer)
            return work(terminal)

    @pytest.mark.parametrize("tagger", ["Acme", "A <b> <c>", "Acme <a b>", "A\n <b>"])
    def test_a_tagger_that_breaks_the_header_is_refused(self, tagger: str) -> None:
        from abupdate.signing.signature import format_payload

        with pytest.raises(UsageError, match="tagger"):
            format_payload(
                commit=COMMIT,
                version=ASKED,
                manifest_sha256=MANIFEST,
                compatible="acme",
                tagger=tagger,
                tagger_time=NOW,
            )
