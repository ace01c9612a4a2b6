"""A bare git repository as a store of root filesystems: the only caller of git.

git is a source of bytes, not of truth. On a device it runs as an unprivileged
user within limits (`Sandbox`); what it hands out is hashed by `ObjectReader`.
Never checkout, archive, filters or attributes; no hooks, no configuration from
outside, no background work.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from abupdate.errors import (
    OUT_OF_MEMORY_HINT,
    DeviceFaultError,
    NoSpaceError,
    NotTrustedError,
    ProgramError,
    SourceError,
)
from abupdate.run import (
    Argument,
    Ended,
    Result,
    Sandbox,
    Stream,
    own_memory_limit,
    run,
    run_untrusted,
    stream,
)
from abupdate.store.readable import Readable, chunks
from abupdate.store.reader import ObjectReader
from abupdate.store.tagged import TaggedPack

_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    # glibc would keep freed objects of some MB for the next ones: 17 MB for two of git, and
    # no time won.
    "MALLOC_MMAP_THRESHOLD_": "524288",
}
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsync": "all",
    # Larger files are no deltas and so need not be held whole, on the device least of all: 24 MB
    # less memory there for 3 % more of a delta bundle, and nothing of a full one. (Plain
    # integers, not 4m: other readers of git's configuration trip over suffixes.)
    "core.bigFileThreshold": "4194304",
    # git maps packs whole otherwise, and keeps 96 MB of delta bases: a few releases would not
    # fit the sandbox's address space. Small windows are no slower here; a small cache costs
    # 2 % of a full write, and saves 8 MB.
    "core.packedGitWindowSize": "1048576",
    "core.packedGitLimit": "4194304",
    "core.deltaBaseCacheLimit": "4194304",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "pack.threads": "1",
    "transfer.fsckObjects": "true",
}
# What comes from elsewhere is looked at by index-pack --strict later, on its way to the store.
_FETCHING = {**_SETTINGS, "transfer.fsckObjects": "false", "fetch.unpackLimit": "1"}


def _with_settings(environment: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """In the environment, not on git's command line, which an error of git's begins with."""
    return {
        **environment,
        "GIT_CONFIG_COUNT": str(len(settings)),
        **{f"GIT_CONFIG_KEY_{number}": key for number, key in enumerate(settings)},
        **{f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(settings.values())},
    }


_ENVIRONMENT = _with_settings(_ENVIRONMENT, _SETTINGS)
# git has many words for a full disk, and often none: less than this free is full.
_FULL = 64 * 1024
# One that lies on another, thinly, is full before it says so.
_FULL_WORDS = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
# git's words for what is no fault of what it was given, in the locale that it runs in.
_DISK_FAULTS = tuple(os.strerror(number) for number in (errno.EIO, errno.EROFS))
_NO_MEMORY = ("out of memory", "cannot allocate memory", "unable to create thread")
# pack-objects goes by the last 16 bytes of a path.
_HINT = 64
_LONGEST_PATH = 1024 * 1024
_LONG = 6 * 3600.0
_YEARS = 100_000_000
_LARGEST_TAG = 1024 * 1024
_MOST_SAID = 16 * 1024


@dataclass(frozen=True)
class Way:
    """How another repository is reached.

    `settings` are git's own, as `environment`. `idle`: seconds after which a peer of whom
    nothing comes is given up; None: git sees to that.
    """

    url: str
    settings: Mapping[str, str]
    environment: Mapping[str, str]
    idle: float | None = None


class Repository:
    """A bare repository at `path`; git runs in `sandbox` where there is one."""

    def __init__(self, path: Path, sandbox: Sandbox | None = None) -> None:
        self.path = path
        self.sandbox = sandbox

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        object_format: str = "sha256",
        alternates: Path | None = None,
        sandbox: Sandbox | None = None,
    ) -> Repository:
        """Make an empty repository in a folder that the sandbox's user can write.

        `alternates`: the `objects` folder of another repository to read from.
        """
        repository = cls(path, sandbox)
        repository.git(
            "init", "--quiet", "--bare", "--template=", f"--object-format={object_format}"
        )
        if alternates is not None:
            repository.borrow(alternates)
        return repository

    def borrow(self, objects: Path | None) -> None:
        """Read from the `objects` folder of another repository as well, from now on; or no more."""
        # Written down, not given to each git: a quarantine's store may have some itself.
        info = self.path / "objects" / "info" / "alternates"
        if objects is None:
            self.as_owner("rm", "-f", "--", info)
        else:
            self.as_owner("tee", info, stdin=f"{objects}\n".encode())

    @cached_property
    def object_format(self) -> str:
        """`sha256` or `sha1`."""
        return self.git("rev-parse", "--show-object-format").stdout.decode().strip()

    def resolve(self, ref: str) -> str | None:
        """The object that a ref names (a tag's own id, not its target), None when missing."""
        found = self.git("rev-parse", "--verify", "--quiet", "--end-of-options", ref, ok=(0, 1))
        return found.stdout.decode().strip() or None

    def refs(self, prefix: str) -> dict[str, str]:
        """All refs below a prefix with the objects that they name."""
        lines = self.git("for-each-ref", "--format=%(refname) %(objectname)", prefix).stdout
        return dict(line.split(" ") for line in lines.decode().splitlines())

    def set_ref(self, ref: str, oid: str, *, alone: bool = False) -> None:
        """Make a ref name an object; on the disk when this returns.

        `alone`: the caller holds a lock that keeps every other writer away, so that
        a lock file of git's is one that a killed git left, and is removed; so is a ref
        that names nothing, which git would not replace.
        """
        if alone:
            file, lock = self.path / ref, self.path / f"{ref}.lock"
            stale = [lock] if os.path.lexists(lock) else []
            stale += [file] if file.is_file() and self.resolve(ref) is None else []
            if stale:
                self.as_owner("rm", "-f", "--", *stale)
        self.git("update-ref", ref, oid)

    def delete_ref(self, ref: str) -> None:
        """Remove a ref; one that is missing is fine."""
        self.git("update-ref", "-d", ref)

    def list_for_static_servers(self) -> None:
        """Write down refs and packs, so that any web server can serve this repository."""
        self.git("update-server-info")

    def remote_refs(self, way: Way, *patterns: str) -> dict[str, str]:
        """Refs of another repository; of very many the last ones. Raises as `fetch` does."""
        ended = self._talk(way, "ls-remote", "--quiet", "--end-of-options", way.url, *patterns)
        lines = [line.split("\t") for line in ended.stdout.decode(errors="replace").splitlines()]
        return {line[1]: line[0] for line in lines if len(line) == 2}

    def fetch(self, way: Way, refs: Sequence[str], have: Sequence[str] = ()) -> None:
        """Get refs of another repository and what they need that is not here.

        `have`: commits that are here whole; this repository is then for this fetch and
        nothing else. Raises `ProgramError`, `NoSpaceError`.
        """
        if have:
            # A server leaves out what a commit has that is here, as long as the histories meet.
            # Releases have none; for those who say that theirs is cut off it looks at the trees.
            cut = "".join(f"{commit}\n" for commit in have).encode()
            self.as_owner("tee", self.path / "shallow", stdin=cut)
        self._talk(
            way,
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
            "--no-recurse-submodules", "--end-of-options", way.url,
            *(f"+{ref}:{ref}" for ref in refs),
        )  # fmt: skip

    def _talk(self, way: Way, *words: str) -> Ended:
        """A git that has to do with another one."""
        environment = _with_settings(
            {**_ENVIRONMENT, **way.environment}, {**_FETCHING, **way.settings}
        )
        arguments = self._argv(*words)
        # What the other side says is printed as it comes, and it may say things without end.
        ended = run_untrusted(
            arguments,
            env=environment,
            sandbox=self.sandbox,
            timeout=_LONG,
            idle=way.idle,
            tail=_MOST_SAID,
        )
        if ended.code != 0:
            said = ended.stdout.decode(errors="replace")
            if ended.code is None:
                said += f"nothing came for {way.idle:g} seconds" if ended.idle else "not finished"
            error = ProgramError(tuple(map(os.fsdecode, arguments)), ended.code, said)
            self._raise_if_full(error)
            raise error
        return ended

    def serve(self, address: str, port: int) -> None:
        """Offer it for reading to all who come (git's own protocol), until this is stopped.

        Nobody is asked who they are, nothing can be sent here. Raises `ProgramError`.
        """
        # The program itself, not git's front: that would leave it behind.
        program = Path(self.git("--exec-path").stdout.decode().strip()) / "git-daemon"
        arguments: list[Argument] = [
            program, "--export-all", "--strict-paths", f"--base-path={self.path.parent}",
            f"--listen={address}", f"--port={port}", "--reuseaddr", "--max-connections=4",
            "--init-timeout=10", "--timeout=60", "--disable=receive-pack",
            "--disable=upload-archive", self.path,
        ]  # fmt: skip
        # Its processor time is that of years; what a guest asks for is bounded by memory.
        sandbox = self.sandbox and replace(self.sandbox, cpu=_YEARS)
        with stream(arguments, env=_ENVIRONMENT, sandbox=sandbox) as daemon:
            daemon.finish(timeout=_YEARS)

    def has(self, oid: str) -> bool:
        """Whether the object is here."""
        return self.git("cat-file", "-e", oid, ok=(0, 1, 128)).code == 0

    def kind(self, oid: str) -> str | None:
        """`tag`, `commit`, `tree` or `blob`, None when the object is missing."""
        found = self.git("cat-file", "-t", oid, ok=(0, 1, 128))
        return found.stdout.decode().strip() or None

    def kinds(self, oids: Iterable[str]) -> dict[str, str | None]:
        """`kind` of many objects at once. An id must be whole."""
        wanted = list(dict.fromkeys(oids))
        stdin = "".join(f"{oid}\n" for oid in wanted).encode()
        lines = self.git("cat-file", "--batch-check", stdin=stdin).stdout.decode().splitlines()
        words = [line.split() for line in lines]
        found = {one[0]: one[1] for one in words if len(one) == 3}
        return {oid: found.get(oid) for oid in wanted}

    def write_object(self, kind: str, content: bytes) -> str:
        """Store one object as it is, without filters; its id."""
        written = self.git("hash-object", "-t", kind, "-w", "--stdin", stdin=content)
        return written.stdout.decode().strip()

    @contextmanager
    def reader(self) -> Iterator[ObjectReader]:
        """Objects by id, each hashed here. One git for all that is read in the block."""
        with self._stream(
            "cat-file", "--batch-command", "--buffer", stdin=True, stdout=True
        ) as git:
            yield ObjectReader(git)

    def fast_import(self) -> AbstractContextManager[Stream]:
        """git's bulk writer: blobs in, and a commit made of them."""
        return self._stream(
            "fast-import", "--quiet", "--done", "--force", "--date-format=raw",
            stdin=True, stdout=True,
        )  # fmt: skip

    def index_pack(self, source: Readable, max_bytes: int) -> None:
        """Take a pack (thin ones too) from a stream, each object checked.

        Raises `SourceError` with git's words when it is damaged or too large.
        """
        with self._stream(
            "index-pack", "--strict", "--fix-thin", f"--max-input-size={max_bytes}", "--stdin",
            "--threads=2",  # half a second less of three; what it writes is the same
            stdin=True,
        ) as git:  # fmt: skip
            with suppress(BrokenPipeError):  # its exit code and words tell why
                git.stdin.writelines(chunks(source))
            try:
                git.finish(timeout=_LONG)
            except ProgramError as error:
                self._raise_if_full(error)
                if error.code == -signal.SIGKILL or self._is_disk_fault(error):
                    raise
                hint = "Get the bundle again."
                if any(words in error.stderr.lower() for words in _NO_MEMORY):
                    if own_memory_limit() is not None:  # so it may be no fault of the bundle
                        raise DeviceFaultError(
                            f"There is not enough memory for git: {error.stderr.strip()}",
                            OUT_OF_MEMORY_HINT,
                        ) from error
                    hint = (
                        "What `abupdate publish bundle` makes needs little memory: take the bundle "
                        "from its publisher."
                    )
                raise SourceError(
                    f"The bundle's pack should be whole and sound, but git says: "
                    f"{error.stderr.strip() or error.message}",
                    hint,
                ) from error

    def unpacked_size(self) -> int:
        """The sizes of all objects here, and of those it borrows, added up: bytes."""
        with self._stream(
            "cat-file", "--batch-check=%(objectsize)", "--batch-all-objects", "--unordered",
            stdout=True,
        ) as git:  # fmt: skip
            size = sum(map(int, git.stdout))
            git.finish()
        return size

    @contextmanager
    def packing(
        self,
        tags: Sequence[str],
        commit: str,
        since: Sequence[str] = (),
        *,
        small: bool = False,
        count: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Readable]:
        """The pack of a bundle: tags, first of all and whole, their commit, and all of its tree.

        With `since` (commits that the receiver has) a thin pack of what they
        lack. The commits need no common history: the difference of the trees is
        taken here, and the old commits are offered as bases of deltas. `small`: look for
        them anew, which takes long. `count` is told how many paths were found so far, and
        raises where they are too many. A git that fails is told where the pack is read.
        """
        # Not --thin: that makes git list objects by itself, along a history that is not there.
        arguments = ["pack-objects", "--stdout", "--quiet", "--delta-base-offset"]
        if small and since:
            # What a capture has made is deltas to neighbours; those to the old release are
            # smaller, by a tenth of the bundle.
            arguments.append("--no-reuse-delta")
        with self.reader() as reader:
            found = [reader.read(oid, "tag", _LARGEST_TAG) for oid in tags]
        with self._stream(*arguments, stdin=True, stdout=True) as git:
            # git reads all of its list before it writes; where it ended, it is told at the end.
            wanted = self._pack_list(commit, since, count)
            with suppress(BrokenPipeError):
                git.stdin.write(wanted)
            with suppress(BrokenPipeError):
                git.stdin.close()
            pack = _Finished(git)
            yield TaggedPack(pack, found, self.object_format) if found else pack

    def _pack_list(
        self,
        commit: str,
        since: Sequence[str],
        count: Callable[[int], None],
    ) -> bytes:
        """What pack-objects is told: a release's objects but those of older ones."""
        wanted = self._objects(commit, count)
        for old in since:
            for oid in self._objects(old):
                wanted.pop(oid, None)
        lines = [f"-{old}".encode() for old in since]
        lines.append(commit.encode())
        lines += [oid.encode() + b" " + path for oid, path in wanted.items()]
        return b"".join(line + b"\n" for line in lines)

    def _objects(
        self, commit: str, count: Callable[[int], None] = lambda _: None
    ) -> dict[str, bytes]:
        """All trees and blobs of a commit, with the end of a path each as a hint for deltas.

        `count`: a few trees that name each other can stand for any number of paths.
        """
        root = self.git("rev-parse", "--verify", f"{commit}^{{tree}}").stdout.decode().strip()
        found = {root: b""}
        with self._stream("ls-tree", "-r", "-t", "-z", root, stdout=True) as git:
            for number, record in enumerate(_records(git.stdout), start=1):
                count(number)
                info, _, path = record.partition(b"\t")
                found.setdefault(info.split()[2].decode(), path[-_HINT:].replace(b"\n", b"?"))
            git.finish()
        return found

    def git(
        self,
        *arguments: Argument,
        stdin: bytes | None = None,
        timeout: float = 120.0,
        ok: Iterable[int] = (0,),
    ) -> Result:
        """One git command on this repository. Raises `ProgramError`, `NoSpaceError`."""
        try:
            return run(
                self._argv(*arguments),
                stdin=stdin,
                timeout=timeout,
                env=_ENVIRONMENT,
                sandbox=self.sandbox,
                ok=tuple(ok),
            )
        except ProgramError as error:
            self._raise_if_full(error)
            raise

    def _raise_if_full(self, error: ProgramError) -> None:
        disk = os.statvfs(next(path for path in (self.path, *self.path.parents) if path.exists()))
        said = any(words in error.stderr for words in _FULL_WORDS)
        if said or disk.f_bavail * disk.f_frsize < _FULL or disk.f_favail == 0 < disk.f_files:
            raise NoSpaceError(
                f"The disk of {self.path} is full.", "Free space on that disk."
            ) from error

    def _is_disk_fault(self, error: ProgramError) -> bool:
        return any(words in error.stderr for words in _DISK_FAULTS)

    def as_owner(self, *argv: Argument, stdin: bytes | None = None) -> Result:
        """Another program as the user that owns this repository (moving and syncing files).

        Raises `ProgramError`, `NoSpaceError`.
        """
        try:
            return run(argv, stdin=stdin, sandbox=self.sandbox, timeout=600)
        except ProgramError as error:
            self._raise_if_full(error)
            raise

    def _argv(self, *arguments: Argument) -> list[Argument]:
        return ["git", "--git-dir", self.path, *arguments]

    def _stream(
        self, *arguments: Argument, stdin: bool = False, stdout: bool = False
    ) -> AbstractContextManager[Stream]:
        """A git with pipes, for what is many or large."""
        return stream(
            self._argv(*arguments),
            stdin=stdin,
            stdout=stdout,
            env=_ENVIRONMENT,
            sandbox=self.sandbox,
        )


class _Finished:
    """The output of a git that ended well; raises `ProgramError` at its end where it did not."""

    def __init__(self, git: Stream) -> None:
        self._git = git

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""
        chunk = self._git.stdout.read(size)
        if not chunk:
            self._git.finish(timeout=_LONG)
        return chunk


def _records(stream: Readable) -> Iterator[bytes]:
    """What ends with a zero byte each."""
    rest = b""
    for chunk in chunks(stream):
        *records, rest = (rest + chunk).split(b"\0")
        yield from records
        if len(rest) > _LONGEST_PATH:
            raise NotTrustedError(f"A path has more than {_LONGEST_PATH} bytes.")
