"""What a new device gets beside its release: whom it believes, what it is, who owns its store.

All of it is found out before anything is written. A release may have its signers and its
product in /usr/lib/abupdate; where it has not, the device gets those that it was
provisioned with as its owner's files, in the slot's /etc overlay.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.bundle.candidate import Signed
from abupdate.config import Settings, load
from abupdate.errors import NotTrustedError, RefusedError
from abupdate.paths import Paths
from abupdate.release.tag import Statement
from abupdate.release.toml import value_text
from abupdate.signing.signers import TrustFiles
from abupdate.signing.threshold import believe
from abupdate.store.content import CommitContent
from abupdate.update import trust
from abupdate.update.admit import Examined
from abupdate.update.slots import STORE_USER

SIGNERS, PRODUCT = "abupdate/allowed_signers.d/provision", "abupdate/config.d/10-provision.toml"
_VENDOR, _ETC = b"usr/lib/abupdate/", b"etc/abupdate/"
_OWN = (
    *(_VENDOR + name for name in (b"config.toml", b"allowed_signers", b"revoked")),
    *(_ETC + name for name in (b"config.toml", b"revoked")),
)
_FOLDERS = (_ETC + b"config.d/", _ETC + b"allowed_signers.d/")
_LIMIT = 16 << 20
_MOST_ID = (1 << 31) - 1
_NOBODY = 65534


@dataclass(frozen=True)
class Belongings:
    """`files`: path below /etc → content. `owner`: user and group id of the store.

    `settings`: the release's own, as the device will have them.
    """

    settings: Settings
    files: dict[str, bytes]
    owner: tuple[int, int]


def belongings(found: Examined, believed: TrustFiles, scratch: Path) -> Belongings:
    """What a device gets with this release, which `believed` keys have signed.

    Raises `RefusedError` for a release that could never be updated, `UsageError` for one
    with a configuration that is none.
    """
    content, files = found.content, {}
    paths = _as_the_device(content, scratch)
    settings = load(paths).settings
    least = settings.trust.min_signers
    own = replace(trust.trust_files(paths), sandbox=believed.sandbox)
    if not _believes(found, own, least):
        files[SIGNERS] = b"".join(_lines(believed.allowed_signers))
        both = replace(own, allowed_signers=own.allowed_signers + believed.allowed_signers)
        believe(statement_of(found), both, 0, least)
    if settings.device.compatible != found.verified.compatible:
        product = value_text(found.verified.compatible)
        files[PRODUCT] = f"[device]\ncompatible = {product}\n".encode()
    return Belongings(settings, files, _store_owner(content))


def _as_the_device(content: CommitContent, scratch: Path) -> Paths:
    root = scratch / "device"
    (root / os.fsdecode(_VENDOR)).mkdir(parents=True)
    for entry in content.entries():
        if entry.path in _OWN or entry.path.startswith(_FOLDERS):
            text = content.file(entry.path, _LIMIT)
            if text is not None:
                path = root / os.fsdecode(entry.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text)
    return Paths(root=root, data=root / "data", cmdline=root / "cmdline")


def _believes(found: Examined, own: TrustFiles, least: int) -> bool:
    if not own.allowed_signers:
        return False
    try:
        believe(statement_of(found), own, 0, least)
    except NotTrustedError:
        return False
    return True


def statement_of(found: Examined) -> Statement:
    """What its signers say. Raises `RefusedError` for a branch."""
    if not isinstance(found.candidate, Signed):
        raise RefusedError(
            "The first release of a device must be signed, and nobody signs a branch.",
            "Give a bundle, or REMOTE#release/VERSION.",
        )
    return found.candidate.statement


def _lines(files: tuple[Path, ...]) -> Iterator[bytes]:
    for path in files:
        text = path.read_bytes()
        yield text if text.endswith(b"\n") else text + b"\n"


def _store_owner(content: CommitContent) -> tuple[int, int]:
    passwd = content.file(b"etc/passwd", _LIMIT) or b""
    for line in passwd.decode(errors="replace").splitlines():
        fields = line.split(":")
        if fields[0] == STORE_USER and len(fields) > 3:
            user, group = (int(one) if one.isdecimal() else 0 for one in fields[2:4])
            if all(0 < one <= _MOST_ID and one != _NOBODY for one in (user, group)):
                return user, group
    raise RefusedError(
        f"The release should have the user {STORE_USER} in /etc/passwd, with ids of its own, and "
        "has not: it could never be updated.",
        f"abupdate's package makes it; else: useradd --system --user-group {STORE_USER}",
    )
