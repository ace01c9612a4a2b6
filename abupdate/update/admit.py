"""From a source that nobody trusts to a release in the store that everybody may.

quarantine → signature → policy → content hashed from the tag down → join the
store. Whatever fails, the quarantine is deleted and the device is as before.
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
from abupdate.release.bundle import Received, receive
from abupdate.release.metadata import ReleaseToml, Version, parse_release_toml
from abupdate.release.signature import Verified
from abupdate.release.signature import verify as verify_signature
from abupdate.store.content import CommitContent, open_commit
from abupdate.update import trust
from abupdate.update.slots import Machine


@dataclass(frozen=True)
class Release:
    """A release that is signed, fits the policy, and lies in the store."""

    version: Version
    commit: str
    manifest_sha256: str
    tag: str
    signer: str
    floor: Version | None
    transferred: int
    fixups_write: tuple[str, ...] = ()


# Asked before a release joins the store; raises when the device cannot take it.
Accept = Callable[[CommitContent], None]


@dataclass(frozen=True)
class Examined:
    """A release in quarantine whose signature is good, and what is inside it."""

    received: Received
    verified: Verified
    stated: ReleaseToml
    content: CommitContent


@contextmanager
def examined(
    machine: Machine, source: BinaryIO, settings: Settings, events: Events
) -> Iterator[Examined]:
    """Read a bundle from `source` and check its signature; the quarantine lasts for the block.

    Raises `SourceError`, `NotTrustedError`.
    """
    trusted = trust.trust_files(machine.paths)
    trusted.require_keys()
    failpoint("source-opened")
    with events.step("receive", "Receive the bundle"):
        received = receive(source, machine.store(), settings.store.max_bundle, events)
    with received:
        failpoint("quarantined")
        with events.step("trust", "Check its signature"):
            verified = verify_signature(
                received.raw_tag, received.version, trusted, trust.not_before(machine.paths)
            )
        commit, manifest = verified.commit, verified.manifest_sha256
        with open_commit(received.repository, commit, manifest) as content:
            stated = parse_release_toml(content.release_toml)
            if (stated.version, stated.compatible) != (verified.version, verified.compatible):
                raise NotTrustedError(
                    f"The signed tag is for {verified.compatible} {verified.version}, but the "
                    f"release inside says {stated.compatible} {stated.version}."
                )
            yield Examined(received, verified, stated, content)


def check_policy(machine: Machine, settings: Settings, found: Examined) -> None:
    """Raise `RefusedError` when this device does not take the release."""
    verified = found.verified
    product = settings.device.compatible
    trust.check_policy(machine.paths, verified.version, verified.compatible, product)
    trust.check_step(machine.paths, found.stated)


def admit(
    machine: Machine, source: BinaryIO, settings: Settings, accept: Accept, events: Events
) -> Release:
    """Read a bundle from `source` and bring its release into the store.

    `accept` sees the content before anything joins the store. Raises `SourceError`,
    `NotTrustedError`, `RefusedError`, `NoSpaceError`.
    """
    with examined(machine, source, settings, events) as found:
        check_policy(machine, settings, found)
        accept(found.content)
        failpoint("trusted")
        received, verified = found.received, found.verified
        with events.step("store", "Take the release into the store"):
            received.join()
            trust.remember_signature(machine.paths, verified.tagger_time)
            failpoint("joined")
        return Release(
            version=verified.version,
            commit=verified.commit,
            manifest_sha256=verified.manifest_sha256,
            tag=received.tag_oid,
            signer=verified.signer,
            floor=found.stated.floor,
            transferred=received.transferred,
            fixups_write=found.stated.fixups_write,
        )
