"""Files that say which keys are believed: allowed_signers and the revocation list.

ssh-keygen is lenient: a line without `namespaces` allows a key for everything,
`*` matches every principal, a key line that cannot be read in a revocation
list is skipped. So the files are read here first, and one such line refuses
all (format: ssh-keygen(1), ALLOWED SIGNERS and KEY REVOCATION LISTS).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import time
from calendar import timegm
from dataclasses import dataclass
from pathlib import Path

from abupdate.errors import UsageError
from abupdate.release.tag import (
    NAMESPACE,
    PRINCIPAL,
    Reason,
    TagRefusedError,
    fingerprint,
    ssh_strings,
)
from abupdate.run import Sandbox, run

_MAX_FILE = 1024 * 1024
_KRL_MAGIC = b"SSHKRL\n\0"
_KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_OPTION = re.compile(r'([a-z-]+)="([^"\\]*)"')
_DATE = re.compile(r"(?:[0-9]{8}|[0-9]{12}|[0-9]{14})Z?", re.ASCII)


@dataclass(frozen=True)
class TrustFiles:
    """What signatures are checked against.

    `allowed_signers`: files in ssh-keygen's format, read as one; a file that
    does not exist is refused, so leave out what is optional. `revoked`: KRLs or
    lists of public keys; each may be empty but must exist, and a key that one of
    them names is revoked. `sandbox`: who ssh-keygen runs as, since what it checks is
    somebody else's.
    """

    allowed_signers: tuple[Path, ...]
    revoked: tuple[Path, ...] = ()
    sandbox: Sandbox | None = None

    def require_keys(self) -> None:
        """Raise `TagRefusedError` where no signature would be believed, before one is fetched."""
        read_signers(self.allowed_signers)
        for path in self.revoked:
            check_revoked(path)
            check_krl(path)


@dataclass(frozen=True)
class Signer:
    """One line of an allowed_signers file."""

    principal: str
    key_type: str
    public_key: bytes
    options: tuple[tuple[str, str], ...]
    where: str

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint as ssh-keygen prints it."""
        return fingerprint(self.public_key)

    @property
    def validity(self) -> str:
        """The time limits of the line, as written."""
        return ", ".join(f'{name}="{value}"' for name, value in self.options if name[:5] == "valid")

    @property
    def valid_after(self) -> float:
        """The first second at which it is valid; minus infinity without a limit."""
        return self._limit("valid-after", -math.inf)

    @property
    def valid_before(self) -> float:
        """The last second at which it is valid; infinity without a limit."""
        return self._limit("valid-before", math.inf)

    def _limit(self, name: str, without: float) -> float:
        found = [_seconds(value) for option, value in self.options if option == name]
        return found[0] if found else without

    def line(self) -> str:
        """The line in the one form that ssh-keygen gets to read."""
        options = ",".join(f'{name}="{value}"' for name, value in self.options)
        key = base64.b64encode(self.public_key).decode("ascii")
        return f"{self.principal} {options} {self.key_type} {key}\n"


def read_signers(files: tuple[Path, ...]) -> tuple[Signer, ...]:
    """All signers of all files. Raises `TagRefusedError` for a line that allows too much."""
    signers: list[Signer] = []
    for path in files:
        for number, line in enumerate(_read(path).decode("utf-8", "replace").split("\n"), 1):
            text = line.strip()
            if text and not text.startswith("#"):
                signers.append(parse_signer(text, f"{path}:{number}"))
    if not signers:
        names = ", ".join(str(path) for path in files) or "no file"
        raise TagRefusedError(
            Reason.NO_KEY,
            f"No release key is configured: no signer is listed ({names}).",
            "Put the line that `abupdate publish keygen` printed into "
            "/usr/lib/abupdate/allowed_signers or /etc/abupdate/allowed_signers.d/.",
        )
    return tuple(signers)


def parse_signer(text: str, where: str) -> Signer:
    """One line `PRINCIPAL OPTIONS KEYTYPE KEY [COMMENT]`; `where` names it in errors."""
    words = text.split(None, 4)
    if len(words) < 4 or words[2] not in _KEY_TYPES:
        raise _refused(
            where,
            'expected PRINCIPAL namespaces="git" KEYTYPE KEY',
            "Without namespaces a key is good for signatures of any purpose.",
        )
    principal, option_text, key_type, key = words[:4]
    if not PRINCIPAL.fullmatch(principal):
        raise _refused(
            where,
            f"{principal!r} is not one plain name",
            "Wildcards, lists and quotes are not allowed: each key has one owner.",
        )
    options = _options(option_text, where)
    if ("namespaces", NAMESPACE) not in options:
        raise _refused(where, f'expected namespaces="{NAMESPACE}", found {option_text!r}')
    blob = _key(key_type, key)
    if blob is None:
        raise _refused(where, f"the {key_type} key is damaged")
    return Signer(principal, key_type, blob, options, where)


def check_principal(name: str) -> None:
    """Raise `UsageError` unless `name` can stand for a signer."""
    if not PRINCIPAL.fullmatch(name):
        raise UsageError(
            "A signer's name is up to 128 letters, digits and . _ @ + - that begin with a "
            f"letter or digit; found {name[:80]!r}.",
            "Example: alice@example.org",
        )


def check_revoked(path: Path) -> None:
    """Refuse a revocation file that is missing or that ssh-keygen would read only in part."""
    read_revoked(path)


def read_revoked(path: Path) -> tuple[bytes, ...] | None:
    """The keys in a list of public keys; None for a binary list, which ssh-keygen reads whole.

    Raises `TagRefusedError` where a line cannot be read.
    """
    raw = _read(path)
    if raw.startswith(_KRL_MAGIC):
        return None
    keys: list[bytes] = []
    for number, line in enumerate(raw.decode("utf-8", "replace").split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        key = _key(words[0], words[1]) if len(words) > 1 else None
        if key is None:
            raise _refused(
                f"{path}:{number}",
                "expected a public key, KEYTYPE KEY",
                "A revocation that cannot be read would revoke nothing.",
            )
        keys.append(key)
    return tuple(keys)


def with_revoked(path: Path | None, more: Path) -> bytes | None:
    """What `path` (None: nothing yet) must hold to revoke the keys in `more` too.

    None where it does so already. Raises `TagRefusedError` where one of them is not a
    list of public keys: two binary lists cannot be made one.
    """
    known = set(_listed(path)) if path is not None else set()
    missing = [key for key in dict.fromkeys(_listed(more)) if key not in known]
    if not missing:
        return None
    old = _read(path) if path is not None else b""
    text = old + (b"\n" if old and not old.endswith(b"\n") else b"")
    text += b"".join(public_line(key) for key in missing)
    if len(text) > _MAX_FILE:
        raise _refused(str(path), f"with the keys in {more} it is larger than {_MAX_FILE} bytes")
    return text


def _listed(path: Path) -> tuple[bytes, ...]:
    keys = read_revoked(path)
    if keys is None:
        raise _refused(
            str(path),
            "expected a list of public keys, found a binary one",
            "Only lists can be kept on data: list the .pub files of the revoked keys, one a line.",
        )
    return keys


def public_line(key: bytes) -> bytes:
    """A public key as a line of a `.pub` file, without a comment."""
    fields = ssh_strings(key)
    assert fields  # as `_key` found it
    return fields[0] + b" " + base64.b64encode(key) + b"\n"


def check_krl(path: Path) -> None:
    """Refuse a binary revocation list that is damaged; any other file is left alone."""
    if not _read(path).startswith(_KRL_MAGIC):
        return
    if run(["ssh-keygen", "-Q", "-l", "-f", path], ok=range(256)).code != 0:
        raise _refused(
            str(path), "the revocation list is damaged", "Write it anew with `ssh-keygen -k`."
        )


def _options(text: str, where: str) -> tuple[tuple[str, str], ...]:
    """Options as pairs; only those whose effect is known here."""
    found: dict[str, str] = {}
    for part in text.split(","):
        match = _OPTION.fullmatch(part)
        name, value = (match[1], match[2]) if match else (part, "")
        known = name == "namespaces" or (
            name in {"valid-after", "valid-before"} and _is_date(value)
        )
        if match is None or not known or name in found:
            raise _refused(
                where,
                f"option {part!r} is not allowed",
                'Known: namespaces="git", valid-after="YYYYMMDD", valid-before="YYYYMMDD".',
            )
        found[name] = value
    return tuple(found.items())


def _is_date(text: str) -> bool:
    try:
        return bool(_DATE.fullmatch(text)) and math.isfinite(_seconds(text))
    except (ValueError, OverflowError):
        return False


def _seconds(text: str) -> float:
    """A date as ssh-keygen reads it: the device's own time zone unless it ends in Z."""
    digits = text.removesuffix("Z")
    read = time.strptime(digits, "%Y%m%d%H%M%S"[: {8: 6, 12: 10, 14: 12}[len(digits)]])
    return timegm(read) if text.endswith("Z") else time.mktime(read)


def _key(key_type: str, text: str) -> bytes | None:
    """The public key blob, which repeats its type inside (RFC 4253, 6.6)."""
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    fields = ssh_strings(blob) or []
    return blob if len(fields) > 1 and fields[0] == key_type.encode("utf-8") else None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise TagRefusedError(
            Reason.TRUST_FILE,
            f"{path} cannot be read ({error.strerror}), and without it no signature is believed.",
            "Restore the file; an empty one is fine for revocations.",
        ) from error
    if len(raw) > _MAX_FILE:
        raise _refused(str(path), f"the file is larger than {_MAX_FILE} bytes")
    return raw


def _refused(where: str, text: str, hint: str | None = None) -> TagRefusedError:
    return TagRefusedError(Reason.TRUST_FILE, f"{where}: {text}.", hint)
