"""From a source that nobody trusts to a release in the store that everybody may.

quarantine → signature → policy → content hashed from the tag down → join the
store. Whatever fails, the quarantine is deleted and the device is as before. A
release that the store has goes the same way, without quarantine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from abupdate.config import Settings
from abupdate.errors import NotTrustedError
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.release.bundle import receive
from abupdate.release.candidate import Candidate, stored
from abupdate.release.metadata import ReleaseToml, Version, parse_release_toml
from abupdate.release.quarantine import clear_quarantines
from abupdate.release.signature import Verified
from abupdate.release.signature import verify as verify_signature
from abupdate.store.content import CommitContent, open_commit
from abupdate.update import trust
from abupdate.update.prepare import room
from abupdate.update.slots import Machine, require_store


@dataclass(frozen=True)
class Release:
    """A release that is signed, fits the policy, and lies in the store.

    `downgrade_from`: the newer version that runs here.
    """

    version: Version
    commit: str
    manifest_sha256: str
    tag: str
    signer: str
    floor: Version | None
    transferred: int
    fixups_write: tuple[str, ...] = ()
    downgrade_from: Version | None = None


# A bundle, or the version of a release that the store has.
Source = BinaryIO | Version


@dataclass(frozen=True)
class Examined:
    """A release whose signature is good, and what is inside it."""

    candidate: Candidate
    verified: Verified
    stated: ReleaseToml
    content: CommitContent


# Asked before a release joins the store; raises when the device cannot take it.
Accept = Callable[[Examined], None]


@contextmanager
def examined(
    machine: Machine, source: Source, settings: Settings, events: Events
) -> Iterator[Examined]:
    """Read a release and check its signature; a bundle's quarantine lasts for the block.

    Raises `SourceError`, `NotTrustedError`.
    """
    require_store(machine)
    trusted = trust.trust_files(machine.paths)
    trusted.require_keys()
    with _opened(machine, source, settings, events) as candidate:
        failpoint("quarantined")
        with events.step("trust", "Check its signature"):
            verified = verify_signature(
                candidate.raw_tag, candidate.version, trusted, trust.not_before(machine.paths)
            )
        commit, manifest = verified.commit, verified.manifest_sha256
        with open_commit(candidate.repository, commit, manifest) as content:
            stated = parse_release_toml(content.release_toml)
            if (stated.version, stated.compatible) != (verified.version, verified.compatible):
                raise NotTrustedError(
                    f"The signed tag is for {verified.compatible} {verified.version}, but the "
                    f"release inside says {stated.compatible} {stated.version}.",
                    "Get the release again from its publisher.",
                )
            yield Examined(candidate, verified, stated, content)


def _opened(machine: Machine, source: Source, settings: Settings, events: Events) -> Candidate:
    failpoint("source-opened")
    if isinstance(source, Version):
        clear_quarantines(machine.store())
        return stored(machine.store(), source)
    with events.step("receive", "Receive the bundle"):
        limit = settings.store.max_bundle
        return receive(source, machine.store(), limit, events, room=room(machine))


def check_policy(
    machine: Machine, settings: Settings, found: Examined, *, allow_downgrade: bool = False
) -> Version | None:
    """The newer version that runs here, if any, where a downgrade is allowed.

    Raises `RefusedError` when this device does not take the release.
    """
    verified = found.verified
    product = settings.device.compatible
    trust.check_policy(machine.paths, verified.version, verified.compatible, product)
    if not settings.trust.allow_devices:
        trust.refuse_devices(found.content.entries())
    return trust.check_step(machine.paths, found.stated, allow_downgrade=allow_downgrade)


def admit(
    machine: Machine,
    source: Source,
    settings: Settings,
    accept: Accept,
    events: Events,
    *,
    allow_downgrade: bool = False,
) -> Release:
    """Read a release and bring it into the store.

    `accept` sees the content before anything joins the store. Raises `SourceError`,
    `NotTrustedError`, `RefusedError`, `NoSpaceError`.
    """
    with examined(machine, source, settings, events) as found:
        newer = check_policy(machine, settings, found, allow_downgrade=allow_downgrade)
        accept(found)
        failpoint("trusted")
        candidate, verified = found.candidate, found.verified
        with events.step("store", "Take the release into the store"):
            candidate.join()
            trust.remember_signature(machine.paths, verified.tagger_time)
            failpoint("joined")
        return Release(
            version=verified.version,
            commit=verified.commit,
            manifest_sha256=verified.manifest_sha256,
            tag=candidate.tag_oid,
            signer=verified.signer,
            floor=found.stated.floor,
            transferred=candidate.transferred,
            fixups_write=found.stated.fixups_write,
            downgrade_from=newer,
        )
