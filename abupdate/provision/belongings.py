"""What a new device gets beside its release: whom it believes, what it is, who owns its store.

All of it is found out before anything is written. A release may have its signers and its
product in /usr/lib/abupdate; where it has not, the device gets those that it was
provisioned with as its owner's files, in the slot's /etc overlay.
"""

from __future__ import annotations

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
_VENDOR = "usr/lib/abupdate"
_OWN = ("config.toml", "allowed_signers", "revoked")
_LIMIT = 1 << 20


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
        believe(_statement(found), both, 0, least)
    if settings.device.compatible != found.verified.compatible:
        product = value_text(found.verified.compatible)
        files[PRODUCT] = f"[device]\ncompatible = {product}\n".encode()
    return Belongings(settings, files, _store_owner(content))


def _as_the_device(content: CommitContent, scratch: Path) -> Paths:
    root = scratch / "device"
    (root / _VENDOR).mkdir(parents=True)
    for name in _OWN:
        text = content.file(f"{_VENDOR}/{name}".encode(), _LIMIT)
        if text is not None:
            (root / _VENDOR / name).write_bytes(text)
    return Paths(root=root, data=root / "data", cmdline=root / "cmdline")


def _believes(found: Examined, own: TrustFiles, least: int) -> bool:
    if not own.allowed_signers:
        return False
    try:
        believe(_statement(found), own, 0, least)
    except NotTrustedError:
        return False
    return True


def _statement(found: Examined) -> Statement:
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
            return int(fields[2]), int(fields[3])
    raise RefusedError(
        f"The release should have the user {STORE_USER} in /etc/passwd, and has not: it could "
        "never be updated.",
        f"abupdate's package makes it; else: useradd --system --user-group {STORE_USER}",
    )
