"""What this device believes: release keys, revocations, floor, the newest signature seen.

Release keys come with the slot, the owner's lie in /etc; either may revoke keys, too.
What a confirmed release revokes, the version floor and the newest tagger date live on
data and only ever grow.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from abupdate.errors import DeviceFaultError, RefusedError, UsageError
from abupdate.paths import Paths
from abupdate.release.metadata import ReleaseToml, parse_release_toml
from abupdate.release.tag import LAST_SECOND
from abupdate.release.version import Version
from abupdate.signing.signature import TrustFiles
from abupdate.signing.signers import with_revoked
from abupdate.store.manifest import DEVICES, Entry, shown
from abupdate.update.records import replace_file

_MAX_SMALL_FILE = 64 * 1024
# initramfs/abupdate-mount gives rescue all of `trust/confirmed` as its /etc/abupdate.
KEPT_KEYS = "allowed_signers.d/confirmed"
_CONFIRMED_KEYS = f"trust/confirmed/{KEPT_KEYS}"


def trust_files(paths: Paths) -> TrustFiles:
    """The keys that may sign releases for this device, and those that no longer may."""
    signers = [paths.vendor / "allowed_signers"]
    signers += sorted((paths.etc / "allowed_signers.d").glob("*"))
    revoked = [own_revoked(paths), kept_revoked(paths), paths.etc / "revoked"]
    return TrustFiles(
        allowed_signers=tuple(path for path in signers if path.is_file()),
        # Also a link to nothing: what was to be revoked is not known then.
        revoked=tuple(path for path in revoked if _is_there(path)),
    )


def own_revoked(paths: Paths) -> Path:
    """The keys that the running release revokes."""
    return paths.vendor / "revoked"


def kept_revoked(paths: Paths) -> Path:
    """The keys that releases revoked which were confirmed here."""
    return paths.revocations


def missing_revocations(paths: Paths) -> bytes | None:
    """What the list on data must hold for the running release's revocations; None: it does.

    Raises `TagRefusedError` where one of the two is damaged or binary.
    """
    own, kept = own_revoked(paths), kept_revoked(paths)
    if not _is_there(own):
        return None
    return with_revoked(kept if _is_there(kept) else None, own)


def keep_revocations(paths: Paths) -> None:
    """Add what the running release revokes, which is confirmed, to the list on data.

    So it stays revoked in every slot, whatever runs. Raises as `missing_revocations`.
    """
    text = missing_revocations(paths)
    if text is not None:
        replace_file(kept_revoked(paths), text)


def keep_keys(paths: Paths) -> None:
    """Keep the keys of the running release, which is confirmed, on data: for rescue.

    That may be older than they are, and takes what the slots would take.
    """
    own, kept = paths.vendor / "allowed_signers", paths.state / _CONFIRMED_KEYS
    text = own.read_bytes()
    if not kept.is_file() or kept.read_bytes() != text:
        replace_file(kept, text)


def not_before(paths: Paths) -> int:
    """The time, in seconds since the epoch, that a signature is judged at, at least.

    The highest tagger date ever accepted and the build time of the running
    release: neither a clock at 1970 nor a backdated tag gets below it.
    """
    running = _running_release(paths)
    return max(_newest(paths), running.created if running else 0)


def remember_signature(paths: Paths, tagger_time: int) -> None:
    """Keep the highest tagger date that was accepted."""
    if tagger_time > _newest(paths):
        replace_file(paths.state / "trust" / "newest", f"{tagger_time}\n".encode())


def floor(paths: Paths) -> Version | None:
    """The lowest version that may be installed, None when nothing set one yet."""
    path = paths.state / "trust" / "floor"
    text = _read_small(path)
    try:
        return Version.parse(text) if text else None
    except UsageError as error:
        raise _rotten(path, "a version", text) from error


def raise_floor(paths: Paths, version: Version) -> None:
    """Raise the floor; it never falls."""
    current = floor(paths)
    if current is None or version > current:
        replace_file(paths.state / "trust" / "floor", f"{version}\n".encode())


def check_policy(paths: Paths, version: Version, compatible: str, product: str) -> None:
    """Refuse a release for another product or below the floor. Raises `RefusedError`."""
    if compatible != product:
        raise RefusedError(
            f"This device takes releases for '{product}', "
            f"and release {version} is for '{compatible}'.",
            "Take the release for this product, or correct device.compatible in config.toml.",
        )
    check_floor(paths, version)


def check_floor(paths: Paths, version: Version) -> None:
    """Refuse a release below the floor. Raises `RefusedError`."""
    lowest = floor(paths)
    if lowest is not None and version < lowest:
        raise RefusedError(
            f"Release {version} is older than {lowest}, the oldest that this device may run.",
            "The floor was set by a release that was confirmed here; take a newer release.",
        )


def refuse_devices(entries: Iterable[Entry]) -> None:
    """Raise `RefusedError` with the first device node, and how many there are."""
    found = [entry.path for entry in entries if entry.kind in DEVICES]
    if found:
        raise RefusedError(
            f"trust.allow_devices of this device is false, and the release has "
            f"{len(found)} device node{'s' * (len(found) > 1)}, the first {shown(found[0])}.",
            "The kernel makes what is in /dev by itself: publish the release without, or set "
            "trust.allow_devices in config.toml.",
        )


def check_step(
    paths: Paths, stated: ReleaseToml, *, allow_downgrade: bool = False
) -> Version | None:
    """The running release's version when `stated` is older, and that is allowed; else None.

    Raises `RefusedError` for a downgrade that is not allowed, or when the running release
    is too old to update from.
    """
    running = _running_release(paths)
    if running is None or running.compatible != stated.compatible:
        return None  # rescue and the slots have versions of their own
    if stated.version < running.version:
        if allow_downgrade:
            return running.version
        raise RefusedError(
            f"Release {stated.version} is older than release {running.version}, which runs here.",
            "`abupdate install --allow-downgrade` takes it all the same; what the newer one has "
            "written to data may be more than it can read.",
        )
    if stated.min_from is not None and running.version < stated.min_from:
        raise RefusedError(
            f"Release {stated.version} can be installed from {stated.min_from} or newer, "
            f"and {running.version} runs here.",
            f"Install release {stated.min_from} first.",
        )
    return None


def _newest(paths: Paths) -> int:
    path = paths.state / "trust" / "newest"
    text = _read_small(path)
    if not text:
        return 0
    if not text.isdecimal() or int(text) > LAST_SECOND:
        raise _rotten(path, "seconds since 1970", text)
    return int(text)


def _rotten(path: Path, wanted: str, text: str) -> DeviceFaultError:
    return DeviceFaultError(
        f"{path} should hold {wanted}, found {text[:80]!r}: the disk does not keep what it holds.",
        "Without it nothing tells how old a release may be. Where you trust what you install, "
        "remove the file.",
    )


def _running_release(paths: Paths) -> ReleaseToml | None:
    """What the running slot says of itself, None when it was not made by abupdate."""
    try:
        return parse_release_toml((paths.root / ".abupdate" / "release.toml").read_bytes())
    except OSError:
        return None


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _read_small(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SMALL_FILE).decode("ascii", "replace").strip()
    except OSError:
        return ""
