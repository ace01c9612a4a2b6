"""Who signed a release: verification on the device, signing at the publisher.

The shape of the tag is checked in `tag`, the trust files in `signers`; the
cryptography is ssh-keygen's. Time limits of keys are judged at a time that the
signer cannot choose freely and a wrong clock cannot move: the tagger's date,
but never before `not_before`.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from abupdate.errors import ProgramError, UsageError
from abupdate.release.tag import (
    NAMESPACE,
    Reason,
    SignedTag,
    SignedText,
    TagRefusedError,
    format_payload,
    parse_tag,
)
from abupdate.release.version import Version
from abupdate.run import Result, Sandbox, run, stream
from abupdate.signing.signers import Signer, TrustFiles, check_krl, check_revoked, read_signers

__all__ = [
    "Reason",
    "SignedTag",
    "TagRefusedError",
    "TrustFiles",
    "Verified",
    "format_payload",
    "generate_key",
    "parse_tag",
    "sign",
    "signer_line",
    "verify",
    "verify_text",
]

_SSH_SECONDS = 30.0
_PERSON_SECONDS = 600.0


@dataclass(frozen=True)
class Verified:
    """What is known once a release tag is believed.

    `tagger_time`: seconds since the epoch; the caller keeps the highest one of
    all releases it accepted and gives it back as `not_before`. `cosigners`:
    further signers, see `threshold`.
    """

    signer: str
    fingerprint: str
    commit: str
    manifest_sha256: str
    version: Version
    compatible: str
    tagger_time: int
    cosigners: tuple[str, ...] = ()

    @property
    def signers(self) -> str:
        """All of them, in words."""
        return ", ".join((self.signer, *self.cosigners))


def verify(
    raw_tag: bytes,
    ref_version: Version,
    trust: TrustFiles,
    not_before: int,
    *,
    cosigner: str | None = None,
) -> Verified:
    """Believe a tag, or raise `TagRefusedError` with the reason.

    `ref_version` is what was asked for, `cosigner` whose further tag. `not_before` is
    the highest of all tagger dates accepted before and the build time of the running
    release (seconds since the epoch): the date of a tag cannot bring an expired key back.
    """
    signers = _known_signers(trust)
    tag = parse_tag(raw_tag, ref_version, cosigner)
    signer = _signer(tag, trust, signers, not_before)
    return Verified(
        signer.principal,
        signer.fingerprint,
        tag.commit,
        tag.manifest_sha256,
        tag.version,
        tag.compatible,
        tag.tagger_time,
    )


def verify_text(tag: SignedText, trust: TrustFiles, not_before: int) -> Signer:
    """Who signed a tag of the right shape; raises `TagRefusedError` as `verify` does."""
    return _signer(tag, trust, _known_signers(trust), not_before)


def _known_signers(trust: TrustFiles) -> tuple[Signer, ...]:
    signers = read_signers(trust.allowed_signers)
    for path in trust.revoked:
        check_revoked(path)
    return signers


def _signer(
    tag: SignedText, trust: TrustFiles, signers: tuple[Signer, ...], not_before: int
) -> Signer:
    if tag.signature.namespace != NAMESPACE:
        raise TagRefusedError(
            Reason.NAMESPACE,
            f"The signature was made for {tag.signature.namespace[:40]!r}, "
            f"releases are signed for {NAMESPACE!r}.",
        )
    with tempfile.TemporaryDirectory(prefix="abupdate-") as folder:
        check = _Check(tag, max(tag.tagger_time, not_before), Path(folder), trust.sandbox)
        check.prepare(signers)
        signer = check.signer(signers)
        check.signature(signer)
        for path in trust.revoked:
            check.not_revoked(signer, path)
    return signer


@dataclass(frozen=True)
class _Check:
    """One verification with its scratch folder; `when` is the verify time."""

    tag: SignedText
    when: int
    folder: Path
    sandbox: Sandbox | None

    def prepare(self, signers: tuple[Signer, ...]) -> None:
        self.folder.chmod(0o711)
        self._put("signers", "".join(signer.line() for signer in signers).encode())
        self._put("signature", self.tag.armoured)

    def _put(self, name: str, content: bytes) -> Path:
        """Nothing of it is secret, and another user is to read it."""
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o644)
        return path

    def signer(self, signers: tuple[Signer, ...]) -> Signer:
        """The listed signer whose key made the signature and is valid at `when`."""
        result = self._ssh_keygen("find-principals", "-f", self.folder / "signers")
        principals = result.stdout.decode("utf-8", "replace").splitlines()
        same_key = [s for s in signers if s.public_key == self.tag.signature.public_key]
        found = [s for s in same_key if s.principal in principals]
        if result.code == 0 and found:
            return found[0]
        key = self.tag.signature.fingerprint
        if not same_key:
            raise TagRefusedError(
                Reason.UNKNOWN_SIGNER,
                f"The release is signed with key {key}, which is not in the list of signers.",
                "If the publisher is to be trusted, add the key's line to "
                "/etc/abupdate/allowed_signers.d/.",
            )
        early = "key is not yet valid" in result.stderr
        raise TagRefusedError(
            Reason.NOT_YET_VALID if early else Reason.EXPIRED,
            f"The release is signed with key {key} of {same_key[0].principal}, which "
            f"{'is not yet valid' if early else 'has expired'}: "
            f"it has {same_key[0].validity}, and the time that counts is {_utc(self.when)}.",
            "Sign the release with a key that is valid.",
        )

    def signature(self, signer: Signer) -> None:
        """The signature fits the tag and the signer's key."""
        if self._verify(signer).code != 0:
            raise TagRefusedError(
                Reason.BAD_SIGNATURE,
                f"The signature of {signer.principal} does not fit the tag: "
                "the tag was changed after it was signed.",
                "Get the release again from its publisher.",
            )

    def not_revoked(self, signer: Signer, revoked: Path) -> None:
        """The signer's key is not in a revocation file."""
        if self._verify(signer, "-r", self._put("revoked", revoked.read_bytes())).code != 0:
            check_krl(revoked)
            raise TagRefusedError(
                Reason.REVOKED,
                f"The release is signed with key {signer.fingerprint} of {signer.principal}, "
                f"which {revoked} revokes.",
                "Get a release that is signed with another key.",
            )

    def _verify(self, signer: Signer, *more: str | Path) -> Result:
        listed = ("-n", NAMESPACE, "-I", signer.principal, "-f", self.folder / "signers")
        return self._ssh_keygen("verify", *listed, *more)

    def _ssh_keygen(self, action: str, *arguments: str | Path) -> Result:
        moment = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(self.when))
        files = ("-s", self.folder / "signature", f"-Overify-time={moment}")
        argv = ("ssh-keygen", "-Y", action, *arguments, *files)
        return run(
            argv,
            stdin=self.tag.payload,
            timeout=_SSH_SECONDS,
            ok=range(256),
            sandbox=self.sandbox,
        )


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def generate_key(path: Path, principal: str, terminal: IO[bytes] | None = None) -> str:
    """Make an Ed25519 key pair `path` and `path`.pub; gives its allowed_signers line.

    Without `terminal` the key has no passphrase, otherwise ssh-keygen asks there.
    """
    for existing in (path, path.with_name(path.name + ".pub")):
        if existing.exists():
            raise UsageError(
                f"{existing} exists, and a key is never overwritten.", "Choose another name."
            )
    argv: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-C", principal, "-f", path]
    if terminal is None:
        argv += ["-N", ""]
    with stream(argv, stdin=terminal or False) as process:
        process.finish(timeout=_PERSON_SECONDS)
    return signer_line(path.with_name(path.name + ".pub"), principal)


def signer_line(public_key: Path, principal: str) -> str:
    """The allowed_signers line, without a newline, of a `.pub` file."""
    words = public_key.read_text(encoding="utf-8").split()
    return f'{principal} namespaces="{NAMESPACE}" {" ".join(words[:2])}'


def sign(payload: bytes, key: Path, terminal: IO[bytes] | None = None) -> bytes:
    """A tag's payload with its signature: the raw tag object, as `git tag -s` makes it.

    `key` is a private key, or a `.pub` file whose private half an agent holds.
    `terminal` is where ssh-keygen may ask for a passphrase.
    """
    agent = os.environ.get("SSH_AUTH_SOCK")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="abupdate-")))
        file = folder / "payload"
        file.write_bytes(payload)
        process = stack.enter_context(
            stream(
                ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", key, file],
                stdin=terminal or False,
                env={"SSH_AUTH_SOCK": agent} if agent else None,
            )
        )
        try:
            process.finish(timeout=_PERSON_SECONDS)
        except ProgramError as error:
            raise UsageError(
                f"{key} could not sign: {error.stderr.strip()}",
                "A private key of `abupdate publish keygen` is needed, and its passphrase.",
            ) from error
        return payload + (folder / "payload.sig").read_bytes()
