"""A release of a git repository elsewhere: over https, ssh, from any static web server, a stick.

git fetches what the store lacks into a repository of its own, as the user of the store.
From there the release takes the road of a bundle: the same pack, the same checks. What a
channel names is known, and who says so, before any of its content is asked for.
"""

from __future__ import annotations

import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from abupdate.bundle.branch import Unsigned, check_branch
from abupdate.bundle.candidate import cosignatures, signed_releases
from abupdate.bundle.header import BundleHeader, CountedSource, format_header
from abupdate.bundle.intake import take_in
from abupdate.bundle.quarantine import drop_quarantine, open_quarantine
from abupdate.bundle.read import Incoming, Received
from abupdate.errors import NoSpaceError, ProgramError, SourceError, UsageError
from abupdate.events import Events
from abupdate.release.channel import MAX_TAGS, ChannelTag, check_channel, parse_channel, split_tags
from abupdate.release.tag import MAX_COSIGNERS, MAX_TAG, Statement, is_cosigner, parse_tag
from abupdate.release.version import Version
from abupdate.source.source import LEAST_RATE, Arriving, Into, is_graphic
from abupdate.store.readable import Readable
from abupdate.store.repository import Repository, Way

_RELEASE, _CHANNEL, _BRANCH = "release/", "channel/", "branch/"
_SCHEMES = ("http", "https", "ssh", "git", "file")
_SCP = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^:].*")
_ROOM = 64 * 1024 * 1024
# Releases of the store that the new one is taken to be like, the newest ones.
_BASES = 8
# git's servers say so often, in seconds, that they are at work (uploadpack.keepAlive).
_KEEP_ALIVE = 5.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class RemoteSource:
    """A release or a channel (`ref`: release/VERSION, channel/NAME) of a git repository."""

    url: str
    ref: str

    def __post_init__(self) -> None:
        if self.ref.startswith(_RELEASE):
            Version.parse(self.ref.removeprefix(_RELEASE))
        elif self.ref.startswith(_CHANNEL):
            check_channel(self.ref.removeprefix(_CHANNEL))
        elif self.ref.startswith(_BRANCH):
            check_branch(self.ref.removeprefix(_BRANCH))
        else:
            raise UsageError(
                f"A release or channel of {self.url[:200]} was expected, found {self.ref[:80]!r}.",
                "Write REMOTE#release/VERSION or REMOTE#channel/NAME.",
            )
        remote = is_graphic(self.url) and not self.url.startswith("-")
        scheme = self.url.partition("://")[0] if "://" in self.url else None
        known = scheme in _SCHEMES if scheme else _SCP.fullmatch(self.url) or self._local
        if not (known and (remote or self._local)):
            raise UsageError(
                f"A git repository was expected, found {self.url[:200]!r}.",
                "Write https://…, ssh://…, git://…, user@host:path or a folder.",
            )

    @property
    def _local(self) -> bool:
        return "://" not in self.url and Path(self.url).is_dir()

    @property
    def name(self) -> str:
        """The address without a password, and what is asked for there."""
        shown = self.url
        with suppress(ValueError):
            parts = urlsplit(self.url)
            # A name alone is a token, where it is not for ssh.
            if parts.password or (parts.username and parts.scheme in ("http", "https")):
                user = f"{parts.username}@" if parts.username and parts.password else ""
                host = parts.netloc.rpartition("@")[2]
                shown = parts._replace(netloc=f"{user}{host}").geturl()
        return f"{shown}#{self.ref}"

    @contextmanager
    def opened(self, into: Into) -> Iterator[Arriving]:
        """Ask what is there. Raises `SourceError`."""
        scratch = open_quarantine(into.store, into.max_bytes + _ROOM, borrow=True)
        try:
            remote = _Remote(self, into, scratch)
            if self.ref.startswith(_CHANNEL):
                yield remote.by_channel(self.ref.removeprefix(_CHANNEL))
            elif self.ref.startswith(_BRANCH):
                yield _Head(remote, self.ref.removeprefix(_BRANCH))
            else:
                yield _Fetched(remote, Version.parse(self.ref.removeprefix(_RELEASE)), None, None)
        finally:
            drop_quarantine(into.store, scratch.path)

    def way(self, into: Into, scratch: Repository) -> Way:
        """How git gets there."""
        settings = into.settings
        told = {
            "http.lowSpeedLimit": str(LEAST_RATE),
            "http.lowSpeedTime": f"{settings.stall:.0f}",
        }
        if settings.proxy:
            told["http.proxy"] = settings.proxy
        known = Path(settings.known_hosts)
        words = ["ssh", "-F", "none", "-oBatchMode=yes", f"-oConnectTimeout={settings.stall:.0f}"]
        words += [f"-oServerAliveInterval={settings.stall:.0f}", "-oServerAliveCountMax=2"]
        if known.is_file():
            words += [f"-oUserKnownHostsFile={known}", "-oStrictHostKeyChecking=yes"]
        else:
            # Nothing is believed for coming from the right host: a signature is asked for.
            words += ["-oUserKnownHostsFile=/dev/null", "-oStrictHostKeyChecking=no"]
            words += ["-oLogLevel=ERROR"]
        if Path(settings.ssh_key).is_file():
            words += ["-i", settings.ssh_key, "-oIdentitiesOnly=yes"]
        environment = {
            "GIT_ALLOW_PROTOCOL": ":".join(_SCHEMES),
            # git takes a shell's string here, and nothing else.
            "GIT_SSH_COMMAND": shlex.join(words),
        }
        if self._local or self.url.startswith("file://"):
            # A stick's files belong to somebody else. Hooks and the like of it do not run here.
            path = scratch.path / "safe.config"
            scratch.as_owner("tee", path, stdin=b"[safe]\n\tdirectory = *\n")
            environment["GIT_CONFIG_GLOBAL"] = str(path)
        # To http git itself looks.
        idle = None if self.url.startswith(("http://", "https://")) else settings.stall
        return Way(
            str(Path(self.url).resolve()) if self._local else self.url,
            told,
            environment,
            idle and idle + _KEEP_ALIVE,
        )


@dataclass(frozen=True)
class _Remote:
    """A repository elsewhere, and the one here that takes what comes from it."""

    source: RemoteSource
    into: Into
    scratch: Repository

    def by_channel(self, name: str) -> _Fetched:
        """The release that a channel names: the channel's tag is all that is fetched."""
        ref = f"refs/tags/{_CHANNEL}{name}"
        self.fetch(ref)
        oid = self.scratch.resolve(ref)
        if oid is None or self.scratch.kind(oid) != "tag":
            raise SourceError(f"{self.source.name} should be a signed tag, and is none.")
        with self.scratch.reader() as reader:
            channel = parse_channel(reader.read(oid, "tag", MAX_TAG), name)
            statement = split_tags(channel, reader.read(channel.tags, "blob", MAX_TAGS))
        return _Fetched(self, channel.release, statement, channel)

    def fetch(self, *refs: str, have: Sequence[str] = ()) -> None:
        """Have refs and what they need come here. Raises `SourceError`, `NoSpaceError`."""
        with _watched(self.scratch.path, self.into.events), self._telling():
            self.scratch.fetch(self.source.way(self.into, self.scratch), refs, have)

    def tags(self, version: Version) -> list[str]:
        """The refs of a release's tags there. Raises `SourceError`, `NoSpaceError`."""
        prefix = f"{version.ref}+"
        with self._telling():
            way = self.source.way(self.into, self.scratch)
            found = self.scratch.remote_refs(way, version.ref, f"{prefix}*")
        signers = [ref for ref in found if is_cosigner(ref.removeprefix(prefix))]
        if len(signers) > MAX_COSIGNERS:
            raise SourceError(
                f"{self.source.name} should have {MAX_COSIGNERS} further signers at most, "
                f"and has {len(signers)} or more.",
                "Ask its publisher, or take another source.",
            )
        return [version.ref, *signers]

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except NoSpaceError:
            raise
        except ProgramError as error:
            raise self.told(error) from error

    def told(self, error: ProgramError) -> SourceError:
        """What people are told of a fetch that failed."""
        if error.code == -signal.SIGXFSZ or "File too large" in error.stderr:
            return SourceError(
                f"{self.source.name} sends more than {self.into.max_bytes} bytes, the limit.",
                "The limit is store.max_bundle of config.toml.",
            )
        # Not the whole message: the address on git's command line may have a password.
        said = error.stderr.strip()[-600:] or f"git ended with {error.code}"
        # The other side chooses words, and with them what a terminal would do.
        said = "".join(c if c.isprintable() or c == "\n" else "?" for c in said)
        return SourceError(f"{self.source.name} cannot be fetched: {said}", "Is the address right?")


@dataclass(frozen=True)
class _Fetched:
    """A release of a remote; its content comes with `receive`."""

    remote: _Remote
    version: Version
    statement: Statement | None
    channel: ChannelTag | None
    branch: None = None

    def receive(self) -> Received:
        """Fetch what the store lacks, and send it the way of a bundle."""
        remote, version = self.remote, self.version
        scratch, into = remote.scratch, remote.into
        bases = _bases(into.store, scratch)
        # Asked first: for any number of refs git would write as many files.
        remote.fetch(*remote.tags(version), have=list(bases))
        oid = scratch.resolve(version.ref)
        if oid is None or scratch.kind(oid) != "tag":
            raise SourceError(f"{remote.source.name} should be a signed tag, and is none.")
        with scratch.reader() as reader:
            raw = reader.read(oid, "tag", MAX_TAG)
        if self.statement is not None and raw != self.statement.tag:
            raise SourceError(
                f"Release {version} of {remote.source.name} is another one than its channel says.",
                "Its publisher promotes a release after it is signed.",
            )
        commit = parse_tag(raw, version).commit
        cosigned = {**cosignatures(scratch, version), **self._stated(scratch)}
        header = BundleHeader(
            scratch.object_format, version, oid, tuple(bases.items()), tuple(cosigned.items())
        )
        try:
            with scratch.packing(
                [oid, *cosigned.values()], commit, list(bases), count=_counted(into)
            ) as pack:
                joined = _Joined(format_header(header), pack)
                incoming = Incoming(joined, into.store, into.max_bytes, into.events, room=into.room)
                return incoming.receive()
        except ProgramError as error:
            raise remote.told(error) from error

    def _stated(self, scratch: Repository) -> dict[str, str]:
        """The tags of further signers that came with the channel: these were looked at."""
        if self.statement is None:
            return {}
        found = {}
        for signer, raw in self.statement.cosigned.items():
            with suppress(ProgramError):  # no tag at all, for git: it does not count either
                found[signer] = scratch.write_object("tag", raw)
        return found


@dataclass(frozen=True)
class _Head:
    """The newest commit of a branch of a remote."""

    remote: _Remote
    branch: str
    statement: None = None
    channel: None = None

    def receive(self) -> Unsigned:
        """Fetch what the store lacks, into a quarantine of its own."""
        remote, ref = self.remote, f"refs/heads/{self.branch}"
        scratch, into = remote.scratch, remote.into
        bases = _bases(into.store, scratch)
        remote.fetch(ref, have=list(bases))
        commit = scratch.resolve(ref)
        if commit is None or scratch.kind(commit) != "commit":
            raise SourceError(f"{remote.source.name} should be a branch, and is none.")
        try:
            with scratch.packing([], commit, list(bases), count=_counted(into)) as pack:
                source = CountedSource(pack, into.max_bytes, into.events)
                store, room = into.store, into.room
                quarantine = take_in(source, store, len(bases), into.max_bytes, room)
        except ProgramError as error:
            raise remote.told(error) from error
        found = Unsigned(self.branch, commit, quarantine, into.store)
        found.transferred = source.transferred
        return found


def _counted(into: Into) -> Callable[[int], None]:
    """Refuses more paths than a release for here can have."""
    room = into.room
    return room.check_objects if room is not None else lambda _: None


def _bases(store: Repository, scratch: Repository) -> Mapping[str, str]:
    """Commit → name of the store's newest releases; one that is damaged is none."""
    found = {}
    releases = sorted(signed_releases(store).items(), reverse=True)
    for version, oid in releases[:_BASES]:
        with suppress(ProgramError):
            commit = scratch.resolve(f"{oid}^{{commit}}")
            if commit is not None and scratch.resolve(f"{commit}^{{tree}}") is not None:
                found[commit] = version.tag
    return found


class _Joined:
    """A header, and then a pack."""

    def __init__(self, header: bytes, pack: Readable) -> None:
        self._header = header
        self._pack = pack

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""
        if self._header:
            found, self._header = self._header[:size], self._header[size:]
            return found
        return self._pack.read(size)


@contextmanager
def _watched(folder: Path, events: Events) -> Iterator[None]:
    """Tell how much has come while git fetches: the bytes of its growing packs."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            size = 0
            for path in (folder / "objects").glob("pack/*"):
                with suppress(OSError):
                    size += path.stat().st_size
            if size:
                events.progress(size, None)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
