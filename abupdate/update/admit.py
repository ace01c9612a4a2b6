"""From a source that nobody trusts to a release in the store that everybody may.

its first kilobytes → signature → quarantine → policy → content hashed from the tag
down → join the store. Whatever fails, the quarantine is deleted and the device is as
before. A release that the store has goes the same way, without quarantine. Of several
sources the next is taken where one does not give what it should.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from abupdate.bundle.branch import Unsigned
from abupdate.bundle.candidate import Candidate, Signed
from abupdate.bundle.quarantine import clear_quarantines
from abupdate.config import Settings
from abupdate.errors import (
    AbupdateError,
    BehindError,
    MissingProgramError,
    NoSpaceError,
    NotTrustedError,
    ProgramError,
    RefusedError,
    SourceError,
)
from abupdate.events import Events
from abupdate.failpoints import failpoint
from abupdate.release.channel import ChannelTag
from abupdate.release.metadata import ReleaseToml, parse_release_toml
from abupdate.release.tag import Statement
from abupdate.release.version import Version
from abupdate.signing.signature import Verified, verify_text
from abupdate.signing.signers import Signer
from abupdate.signing.threshold import believe
from abupdate.source.source import Into, Source
from abupdate.store.content import CommitContent, open_commit
from abupdate.update import channels, trust
from abupdate.update.job import unstoppable
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
    source: str
    floor: Version | None
    transferred: int
    fixups_write: tuple[str, ...] = ()
    downgrade_from: Version | None = None


@dataclass(frozen=True)
class Examined:
    """A release whose signature is good, and what is inside it."""

    candidate: Candidate
    verified: Verified
    stated: ReleaseToml
    content: CommitContent
    source: str


# Asked as soon as the signature is good; raises when the device does not take the release.
Early = Callable[[Verified], None]

# Told of a channel's tag that is believed, and who signed it.
Heard = Callable[[ChannelTag, Signer], None]

# Asked before a release joins the store; raises when the device cannot take it.
Accept = Callable[[Examined], None]


# What another source may not be at fault of. How large a bundle says that it is, nobody has
# signed; and a program that is missing is one that this kind of source needs.
_OF_THE_SOURCE = (
    SourceError, NotTrustedError, NoSpaceError, BehindError, ProgramError, MissingProgramError,
)  # fmt: skip


@contextmanager
def examined(
    machine: Machine,
    sources: Sequence[Source],
    settings: Settings,
    events: Events,
    early: Early = lambda _: None,
    heard: Heard = lambda _channel, _signer: None,
) -> Iterator[Examined]:
    """Read a release from the first source that gives it, and check its signature.

    What came into quarantine lasts for the block. Raises `SourceError`, `NotTrustedError`.
    """
    require_store(machine)
    clear_quarantines(machine.store())
    judge = _Judge(machine, settings, events, early, heard)
    with _nothing_left(machine), ExitStack() as stack:
        for number, source in enumerate(sources, start=1):
            try:
                with ExitStack() as attempt:
                    found = judge.examine(source, attempt)
                    stack.push(attempt.pop_all())
                    break
            except _OF_THE_SOURCE as error:
                if number == len(sources):
                    raise
                events.warning(f"{source.name}: {error.message} The next source is asked.")
        yield found


@contextmanager
def _nothing_left(machine: Machine) -> Iterator[None]:
    """A signal may stop the deleting itself: what is left of quarantines then goes at last."""
    try:
        yield
    except BaseException:
        with unstoppable(), suppress(AbupdateError):  # the first error is the one to tell
            clear_quarantines(machine.store())
        raise


class _Judge:
    """What is asked of each source."""

    def __init__(
        self, machine: Machine, settings: Settings, events: Events, early: Early, heard: Heard
    ) -> None:
        self._trusted = replace(trust.trust_files(machine.paths), sandbox=machine.sandbox)
        self._trusted.require_keys()
        self._not_before = trust.not_before(machine.paths)
        self._machine = machine
        self._settings = settings
        self._events = events
        self._early = early
        self._heard = heard

    def examine(self, source: Source, stack: ExitStack) -> Examined:
        """A release whose signature is good; what it needs stays open as long as `stack`."""
        store, settings = self._machine.store(), self._settings
        into = Into(
            store, settings.store.max_bundle, room(self._machine), settings.source, self._events
        )
        with self._events.step("open", "Read its beginning"):
            arriving = stack.enter_context(source.opened(into))
        failpoint("source-opened")
        signer = self._follow(arriving.channel) if arriving.channel is not None else None
        if arriving.branch is not None:
            self._refuse_branch(arriving.branch)
        verified = self._believe(arriving.statement) if arriving.statement else None
        if arriving.channel is not None and signer is not None:
            # Kept once enough signers stand for its release: one alone must not end a channel.
            self._heard(arriving.channel, signer)
        with self._events.step("receive", "Receive the release"):
            candidate = stack.enter_context(arriving.receive())
        failpoint("quarantined")
        if isinstance(candidate, Unsigned):
            return self._unsigned(candidate, stack, source)
        assert isinstance(candidate, Signed)
        if verified is None:
            verified = self._believe(candidate.statement)
        content = stack.enter_context(
            open_commit(candidate.repository, verified.commit, verified.manifest_sha256)
        )
        stated = parse_release_toml(content.release_toml)
        if (stated.version, stated.compatible) != (verified.version, verified.compatible):
            raise NotTrustedError(
                f"The signed tag is for {verified.compatible} {verified.version}, but the "
                f"release inside says {stated.compatible} {stated.version}.",
                "Get the release again from its publisher.",
            )
        return Examined(candidate, verified, stated, content, source.name)

    def _refuse_branch(self, name: str) -> None:
        """Before anything of it is fetched: only the device's owner can want that."""
        allowed = self._settings.source.unsigned_branches
        if name not in allowed:
            raise RefusedError(
                f"Nobody signs a branch, and this device takes {_list(allowed)} without a "
                f"signature; found branch {name!r}.",
                "For development only: source.unsigned_branches of config.toml.",
            )
        self._events.warning(f"NOBODY HAS SIGNED branch {name}: whoever serves it is root here.")

    def _unsigned(self, candidate: Unsigned, stack: ExitStack, source: Source) -> Examined:
        content = stack.enter_context(open_commit(candidate.repository, candidate.commit))
        stated = parse_release_toml(content.release_toml)
        verified = Verified(
            signer=f"NOBODY (branch {candidate.branch})",
            fingerprint="",
            commit=candidate.commit,
            manifest_sha256=content.manifest_sha256,
            version=stated.version,
            compatible=stated.compatible,
            tagger_time=0,
        )
        self._early(verified)
        return Examined(candidate, verified, stated, content, source.name)

    def _follow(self, channel: ChannelTag) -> Signer:
        """Believe what a channel says of its release, before that is fetched; who says so."""
        paths = self._machine.paths
        with self._events.step("channel", f"Check channel {channel.name}"):
            signer = verify_text(channel, self._trusted, self._not_before)
            channels.check(paths, channel, self._settings.device.compatible, self._trusted)
            if channels.is_stale(paths, channel.valid_until):
                self._events.warning(
                    f"Channel {channel.name} is stale: it was valid until "
                    f"{time.strftime('%Y-%m-%d', time.gmtime(channel.valid_until))}."
                )
        return signer

    def _believe(self, statement: Statement) -> Verified:
        with self._events.step("trust", "Check its signature"):
            least = self._settings.trust.min_signers
            verified = believe(statement, self._trusted, self._not_before, least)
        self._early(verified)
        return verified


def check_policy(
    machine: Machine, settings: Settings, found: Examined, *, allow_downgrade: bool = False
) -> Version | None:
    """The newer version that runs here, if any, where a downgrade is allowed.

    Raises `RefusedError` when this device does not take the release.
    """
    _check_tag(machine, settings, found.verified)
    if not settings.trust.allow_devices:
        trust.refuse_devices(found.content.entries())
    return trust.check_step(machine.paths, found.stated, allow_downgrade=allow_downgrade)


def _check_tag(machine: Machine, settings: Settings, verified: Verified) -> None:
    """What the tag alone tells: a release for another product, or below the floor."""
    product = settings.device.compatible
    trust.check_policy(machine.paths, verified.version, verified.compatible, product)


def admit(
    machine: Machine,
    sources: Sequence[Source],
    settings: Settings,
    accept: Accept,
    events: Events,
    *,
    allow_downgrade: bool = False,
) -> Release:
    """Read a release from the first source that gives it, and bring it into the store.

    `accept` sees the content before anything joins the store. Raises `SourceError`,
    `NotTrustedError`, `RefusedError`, `NoSpaceError`.
    """

    def early(verified: Verified) -> None:
        _check_tag(machine, settings, verified)

    def heard(channel: ChannelTag, signer: Signer) -> None:
        channels.remember(machine.paths, channel, signer, trust.trust_files(machine.paths))

    with examined(machine, sources, settings, events, early, heard) as found:
        newer = check_policy(machine, settings, found, allow_downgrade=allow_downgrade)
        accept(found)
        failpoint("trusted")
        candidate, verified = found.candidate, found.verified
        if isinstance(candidate, Signed):
            # One that is not believed takes nothing away, and so replaces none that is.
            there = candidate.cosigned
            candidate.cosigned = {one: there[one] for one in verified.cosigners if one in there}
        with events.step("store", "Take the release into the store"):
            candidate.join()
            trust.remember_signature(machine.paths, verified.tagger_time)
            failpoint("joined")
        return release_of(found, newer)


def release_of(found: Examined, downgrade_from: Version | None = None) -> Release:
    """A release that was examined and let in."""
    candidate, verified = found.candidate, found.verified
    return Release(
        version=verified.version,
        commit=verified.commit,
        manifest_sha256=verified.manifest_sha256,
        tag=candidate.tag_oid,
        signer=verified.signers,
        source=found.source,
        floor=found.stated.floor,
        transferred=candidate.transferred,
        fixups_write=found.stated.fixups_write,
        downgrade_from=downgrade_from,
    )


def _list(names: Sequence[str]) -> str:
    return " and ".join(names) or "none"
