"""The raw tag of a release or channel: its shape, checked byte by byte before any signature is.

`git verify-tag` accepts tags on trees, renamed refs, PGP signatures and text
after the signature; here a tag has one form (docs/release-format.md) and
anything else is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from abupdate.errors import NotTrustedError, UsageError
from abupdate.release.compatible import check_compatible
from abupdate.release.version import Version

MAX_TAG = 64 * 1024
MAX_COSIGNERS = 8
NAMESPACE = "git"

_BEGIN = b"-----BEGIN SSH SIGNATURE-----\n"
_END = b"-----END SSH SIGNATURE-----\n"
_MAGIC = b"SSHSIG\0\0\0\1"
_LINE = 70
_OID = rb"[0-9a-f]{64}|[0-9a-f]{40}"
_HEADER = re.compile(
    rb"object (?P<commit>" + _OID + rb")\n"
    rb"type (?P<type>[a-z]+)\n"
    rb"tag (?P<tag>[^\x00-\x20\x7f-\xff]+)\n"
    rb"tagger (?P<tagger>[^\x00-\x1f<>\x7f]* <[^\x00-\x20<>\x7f]*>) "
    rb"(?P<time>[0-9]{1,12}) [+-][0-9]{4}\n"
    rb"\n"
)
COMPATIBLE = rb"[A-Za-z0-9][A-Za-z0-9._,+:-]{0,127}"
LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z: later ones have no four-digit year


# The name of a signer, one plain name.
PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}", re.ASCII)


def is_cosigner(name: str) -> bool:
    """Whether a signer's name can end a tag's name, as a further signer's does.

    Rules: git-check-ref-format(1).
    """
    legal = ".." not in name and not name.endswith((".", ".lock"))
    return legal and PRINCIPAL.fullmatch(name) is not None


class Reason(StrEnum):
    """Why a tag is not believed."""

    SHAPE = "shape"
    NAME = "name"
    NO_SIGNATURE = "no-signature"
    PGP = "pgp"
    NAMESPACE = "namespace"
    NO_KEY = "no-key"
    TRUST_FILE = "trust-file"
    UNKNOWN_SIGNER = "unknown-signer"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    REVOKED = "revoked"
    BAD_SIGNATURE = "bad-signature"
    TOO_FEW = "too-few"


class TagRefusedError(NotTrustedError):
    """A release tag, or what it is checked against, is not what it must be."""

    def __init__(self, reason: Reason, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.reason = reason


@dataclass(frozen=True)
class Statement:
    """What signers say of a release: its raw tag, and by name those of further signers."""

    version: Version
    tag: bytes
    cosigned: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class SshSignature:
    """What an SSH signature says of itself (format: OpenSSH's PROTOCOL.sshsig)."""

    public_key: bytes
    namespace: str

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint as ssh-keygen prints it."""
        return fingerprint(self.public_key)


@dataclass(frozen=True)
class SignedText:
    """A tag object with one SSH signature that ends it; the signature is not yet verified.

    `payload` is what the signature covers, `armoured` the signature block,
    `tagger_time` the signer's own claim in seconds since the epoch.
    """

    payload: bytes
    armoured: bytes
    signature: SshSignature
    tagger: str
    tagger_time: int


@dataclass(frozen=True)
class SignedTag(SignedText):
    """A release tag of the right shape."""

    commit: str
    version: Version
    manifest_sha256: str
    compatible: str


def fingerprint(public_key: bytes) -> str:
    """SHA256:… of a public key blob, as ssh-keygen prints it."""
    digest = hashlib.sha256(public_key).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def format_payload(
    *,
    commit: str,
    version: Version,
    manifest_sha256: str,
    compatible: str,
    tagger: str,
    tagger_time: int,
    cosigner: str | None = None,
) -> bytes:
    """The text of a release tag, up to where its signature begins.

    `cosigner`: for the tag of a further signer of this name.
    """
    check_compatible(compatible)
    text = (
        f"object {commit}\ntype commit\ntag {tag_name(version, cosigner)}\n"
        f"tagger {tagger} {tagger_time} +0000\n\n"
        f"Release {version}\n\n"
        f"Manifest-SHA256: {manifest_sha256}\nCompatible: {compatible}\n"
    )
    payload = text.encode("utf-8")
    if not _HEADER.match(payload):
        raise UsageError(f"The tagger must look like 'Name <address>', found {tagger!r}.")
    return payload


def tag_name(version: Version, cosigner: str | None = None) -> str:
    """The name of a release's tag, or of a further signer's."""
    return version.tag if cosigner is None else f"{version.tag}+{cosigner}"


def parse_tag(raw: bytes, version: Version, cosigner: str | None = None) -> SignedTag:
    """Take a raw tag object apart; it must be the tag of `version`, or of its further signer.

    Raises `TagRefusedError` for whatever is not exactly as the format says.
    """
    opened = open_tag(raw, tag_name(version, cosigner), "commit")
    return SignedTag(
        **vars(opened.text),
        commit=opened.target,
        version=version,
        manifest_sha256=opened.field("Manifest-SHA256", rb"[0-9a-f]{64}"),
        compatible=opened.field("Compatible", COMPATIBLE),
    )


@dataclass(frozen=True)
class OpenedTag:
    """The parts that every tag of ours has: what it is on, its text, its message."""

    target: str
    text: SignedText
    message: bytes

    def field(self, name: str, pattern: bytes) -> str:
        """The value of the one line `name: value` in its message."""
        start = name.encode() + b": "
        lines = [line for line in self.message.split(b"\n") if line.startswith(start[:-1])]
        match = re.fullmatch(start + b"(" + pattern + b")", lines[0]) if len(lines) == 1 else None
        if match is None:
            raise _shape(f"does not have exactly one good line '{name}: …'")
        return match[1].decode("ascii")


def open_tag(raw: bytes, name: str, kind: str) -> OpenedTag:
    """Take a tag object of this name on an object of this kind apart.

    Raises `TagRefusedError` for whatever is not exactly as the format says.
    """
    if len(raw) > MAX_TAG:
        raise _shape(f"has {len(raw)} bytes, at most {MAX_TAG} are allowed")
    header = _HEADER.match(raw)
    if header is None:
        raise _shape("does not have exactly the lines object, type, tag and tagger as its header")
    if header["type"] != kind.encode():
        raise _shape(f"is on a {header['type'].decode('ascii')[:20]}, not on a {kind}")
    if header["tag"] != name.encode("ascii"):
        found = header["tag"][:160].decode("ascii")
        raise TagRefusedError(
            Reason.NAME,
            f"The tag was expected to be named {name}, its own name is {found}.",
            "Get the release again from its publisher.",
        )
    time = int(header["time"])
    if time > LAST_SECOND:
        raise _shape("has a date after the year 9999")
    payload, armoured = _split(raw)
    tagger = header["tagger"].decode("utf-8", errors="replace")
    text = SignedText(payload, armoured, _signature(armoured), tagger, time)
    return OpenedTag(header["commit"].decode("ascii"), text, payload[header.end() :])


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Payload and the one SSH signature block, which must end the object."""
    armour = [line for line in raw.splitlines() if line.startswith(b"-----")]
    if any(b"PGP" in line or line == b"-----BEGIN SIGNED MESSAGE-----" for line in armour):
        raise TagRefusedError(
            Reason.PGP,
            "The tag has a PGP or X.509 signature; releases are signed with SSH keys only.",
            "Sign it with `abupdate publish sign`.",
        )
    if not armour:
        raise TagRefusedError(
            Reason.NO_SIGNATURE,
            "The tag has no signature.",
            "Sign the release with `abupdate publish sign`.",
        )
    start = raw.find(b"\n" + _BEGIN) + 1
    if [line + b"\n" for line in armour] != [_BEGIN, _END] or not start:
        raise _shape("does not have exactly one SSH signature")
    if not raw.endswith(b"\n" + _END):
        raise _shape("has text after its signature")
    return raw[:start], raw[start:]


def _signature(armoured: bytes) -> SshSignature:
    body = armoured[len(_BEGIN) : -len(_END)]
    try:
        blob = base64.b64decode(body.replace(b"\n", b""), validate=True)
    except binascii.Error as error:
        raise _shape("has a signature that is not base64") from error
    # One spelling only, so that nobody can make a second tag with the same signature.
    text = base64.b64encode(blob)
    lines = [text[i : i + _LINE] + b"\n" for i in range(0, len(text), _LINE)]
    if body != b"".join(lines):
        raise _shape("has a signature that is not written as ssh-keygen writes it")
    fields = ssh_strings(blob[len(_MAGIC) :]) if blob.startswith(_MAGIC) else None
    if fields is None or len(fields) != 5:
        raise _shape("has a signature that is not SSHSIG version 1")
    return SshSignature(fields[0], fields[1].decode("utf-8", errors="replace"))


def ssh_strings(blob: bytes) -> list[bytes] | None:
    """The length-prefixed strings that `blob` is made of (RFC 4251, 5); None if it is not."""
    found: list[bytes] = []
    rest = blob
    while rest:
        length = int.from_bytes(rest[:4], "big")
        if len(rest) < 4 + length:
            return None
        found.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    return found


def _shape(text: str) -> TagRefusedError:
    return TagRefusedError(
        Reason.SHAPE,
        f"The object is not a tag of a release: it {text}.",
        "They are made with `abupdate publish sign` and `promote`.",
    )
