"""What `doctor` sees of who may sign releases: signers, revocations, and who can change them.

One line that allows too much refuses the whole list, a list whose keys have all
expired lets no release in, and both show only when the next release comes. Keys
are judged at the time that a release signed now would be: that of the clock, but
never before what `trust.not_before` tells.
"""

from __future__ import annotations

import math
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from abupdate.doctor.findings import Finding, finding
from abupdate.errors import AbupdateError, ProgramError
from abupdate.paths import Paths
from abupdate.release.tag import Reason, TagRefusedError
from abupdate.signing.keys import key_sizes, revoked_among
from abupdate.signing.signers import Signer, check_krl, check_revoked, read_signers
from abupdate.update import trust

_SOON = 30 * 86400
_RSA, _LEAST_RSA = "ssh-rsa", 2048
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_NOTHING_COMES = "Until then no release can be installed."


def trust_findings(paths: Paths, *, confirmed: bool) -> list[Finding]:
    """All of it. `confirmed`: the release that runs is, so that data has its revocations."""
    found = [*_rotten(paths), *_writable(paths)]
    files = trust.trust_files(paths)
    damaged = list(_damaged(files.revoked))
    found += damaged or _not_kept(paths, confirmed=confirmed)
    try:
        signers = read_signers(files.allowed_signers)
    except TagRefusedError as error:
        if error.reason == Reason.NO_KEY:
            found.append(finding("signers-none", error.message, error.hint or ""))
        else:
            found.append(finding("signers-refused", error.message, _hint(error)))
        return found
    try:
        lists = () if damaged else files.revoked
        revoked = {path: revoked_among(signers, path) for path in lists}
        found += _signers(signers, key_sizes(signers), revoked, _moment(paths), paths)
    except ProgramError as error:
        found.append(
            finding(
                "signers-unchecked",
                f"ssh-keygen should tell of the listed keys, found: {error.message}",
                error.hint or _NOTHING_COMES,
            )
        )
    return found


def _hint(error: AbupdateError) -> str:
    return f"{error.hint} {_NOTHING_COMES}" if error.hint else f"Correct it. {_NOTHING_COMES}"


def _moment(paths: Paths) -> float:
    """The time that a release signed now is judged at, as far as the clock is right."""
    try:
        return max(time.time(), trust.not_before(paths))
    except AbupdateError:
        return time.time()


def _rotten(paths: Paths) -> Iterator[Finding]:
    looks: tuple[Callable[[Paths], object], ...] = (trust.floor, trust.not_before)
    for look in looks:
        try:
            look(paths)
        except AbupdateError as error:
            yield finding("trust-rotten", error.message, error.hint or "")


def _damaged(revoked: Iterable[Path]) -> Iterator[Finding]:
    for path in revoked:
        try:
            check_revoked(path)
            check_krl(path)
        except TagRefusedError as error:
            yield finding("revocations-damaged", error.message, _hint(error))


def _not_kept(paths: Paths, *, confirmed: bool) -> Iterator[Finding]:
    """Whether what the running release revokes outlives it."""
    try:
        missing = trust.missing_revocations(paths)
    except TagRefusedError as error:
        yield finding("revocations-binary", error.message, error.hint or "")
        return
    if missing is not None and confirmed:
        yield finding(
            "revocations-missing",
            f"{trust.kept_revoked(paths)} should name each key in {trust.own_revoked(paths)}, "
            "found some missing: they would be believed again once another release runs.",
            "The next healthy boot adds them: reboot. If it is still so, data takes no writes.",
        )


def _writable(paths: Paths) -> Iterator[Finding]:
    """Files of trust, and the folders on the way to them, that others than root can change."""
    files = trust.trust_files(paths)
    kept = trust.kept_revoked(paths).parent
    wanted = [*files.allowed_signers, *files.revoked, paths.vendor, kept]
    wanted += [paths.etc / "allowed_signers.d", kept / "floor", kept / "newest"]
    tops = (paths.root, paths.data)
    ways = {step for path in wanted for step in _way(path, tops)}
    for path in sorted(ways):
        try:
            status = path.lstat()
        except OSError:
            continue
        if status.st_uid != 0:
            what, mend = f"user {status.st_uid} as its owner", f"chown root: {path}"
        elif status.st_mode & _OTHERS and not stat.S_ISLNK(status.st_mode):
            what, mend = f"mode {stat.S_IMODE(status.st_mode):04o}", f"chmod go-w {path}"
        else:
            continue
        yield finding(
            "trust-writable",
            f"{path} should be root's, and writable for nobody else, found {what}: "
            "who can change it can decide which releases are believed.",
            f"See that it says what it should, then: {mend}",
        )


def _way(path: Path, tops: Sequence[Path]) -> Iterator[Path]:
    """A file and its folders up to the first of `tops`, also where links on the way lead."""
    for name in {path, path.resolve()}:
        yield name
        for top in tops:
            if name.is_relative_to(top):
                yield from (one for one in name.parents if one.is_relative_to(top))
                break


@dataclass(frozen=True)
class _Key:
    """One line of the signers, and why it lets nobody sign at the time that counts, if so."""

    signer: Signer
    kind: str
    fault: str

    @property
    def name(self) -> str:
        return f"{self.signer.where}: key {self.signer.fingerprint} of {self.signer.principal}"


def _signers(
    signers: Sequence[Signer],
    sizes: dict[str, int],
    revoked: dict[Path, set[str]],
    moment: float,
    paths: Paths,
) -> Iterator[Finding]:
    keys = [_Key(one, *_fault(one, sizes, revoked, moment)) for one in signers]
    good = [key for key in keys if not key.kind]
    if not good:
        told = "; ".join(f"{key.name} {key.fault}" for key in keys)
        yield finding(
            "signers-invalid",
            f"A listed key should be valid at {_utc(moment)}, found none: {told}.",
            "If the clock is right, no release signed now is believed, nor one that brings a new "
            "key: put the line of a valid key into /etc/abupdate/allowed_signers.d/.",
        )
        return
    yield from _to_be_removed(keys, paths)
    yield from _weak(good, sizes)
    yield from _expiring(good, keys, moment)


def _fault(
    signer: Signer, sizes: dict[str, int], revoked: dict[Path, set[str]], moment: float
) -> tuple[str, str]:
    by = [str(path) for path, keys in revoked.items() if signer.fingerprint in keys]
    if signer.fingerprint not in sizes:
        return "unreadable", "is none that ssh-keygen can use (RSA needs 1024 bits at least)"
    if by:
        return "revoked", f"is revoked by {' and '.join(by)}"
    if signer.valid_before < moment:
        return "expired", f"has expired ({signer.validity})"
    if signer.valid_after > moment:
        return "early", f"is not valid yet ({signer.validity})"
    return "", ""


def _to_be_removed(keys: Sequence[_Key], paths: Paths) -> Iterator[Finding]:
    kinds = {
        "expired": ("signer-expired"),
        "revoked": ("signer-revoked"),
        "unreadable": ("signer-unreadable"),
    }
    first: dict[bytes, _Key] = {}
    for key in keys:
        vendor = key.signer.where.startswith(f"{paths.vendor}/")
        mend = "Leave it out of the next release." if vendor else "The line can be removed."
        if key.kind in kinds:
            yield finding(kinds[key.kind], f"{key.name} {key.fault}.", mend)
        earlier = first.setdefault(key.signer.public_key, key)
        # Rescue has what the last confirmed release lists beside its own.
        if earlier is not key and f"/{trust.KEPT_KEYS}:" not in key.signer.where:
            yield finding(
                "signer-doubled",
                f"{key.name} should be listed once, found it at {earlier.signer.where} too: "
                "either line lets it sign, whatever the other one says.",
                mend,
            )


def _weak(good: Sequence[_Key], sizes: dict[str, int]) -> Iterator[Finding]:
    for key in good:
        bits = sizes[key.signer.fingerprint]
        if key.signer.key_type == _RSA and bits < _LEAST_RSA:
            yield finding(
                "signer-weak",
                f"{key.name} should have {_LEAST_RSA} bits at least, found RSA with {bits}: "
                "ssh-keygen believes it, and who breaks it can sign releases.",
                "Make a new one (abupdate publish keygen), list that, and revoke this one.",
            )


def _expiring(good: Sequence[_Key], keys: Sequence[_Key], moment: float) -> Iterator[Finding]:
    last = max(good, key=lambda key: key.signer.valid_before)
    end = last.signer.valid_before
    followed = any(key.kind == "early" and key.signer.valid_after <= end for key in keys)
    if end - moment < _SOON and not followed:
        assert math.isfinite(end)
        yield finding(
            "signers-expiring",
            f"{last.name} is the last one that is valid, and should be so for 30 days more, "
            f"found that it expires on {_utc(end)}.",
            "Install a release that lists a new key, signed with this one, before that.",
        )


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
