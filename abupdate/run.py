"""The one door to other programs.

`run` starts a command, waits for it within a time limit and gives its output; `stream`
opens one with pipes, for bulk data; `run_untrusted` bounds one that somebody else wrote,
`run_attached` leaves one to a person, `start_apart` lets one go on, `run_small` is `sh`.
All take argument lists only, never a shell string, start with a scrubbed environment, and
put the program's own error text into ours. With a `Sandbox` the program runs as another
user, within limits on memory, time and file size.

`sh` forks from Python with threads of its own around it, and needs 17 ms for what the
standard library does in two: an install runs forty programs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import selectors
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from abupdate.errors import (
    OUT_OF_MEMORY_HINT,
    AbupdateError,
    DeviceFaultError,
    MissingProgramError,
    ProgramError,
    is_out_of_memory,
)

Argument = str | bytes | os.PathLike[str]
# A process that was started by `start_apart`.
Process = subprocess.Popen[bytes]

# Where the programs come from that an update needs: the package's name in Debian.
PACKAGES = {
    **dict.fromkeys(("e2fsck", "mke2fs", "tune2fs"), "e2fsprogs"),
    **dict.fromkeys(("chown", "mv", "rm", "sync", "tee"), "coreutils"),
    **dict.fromkeys(("mount", "umount"), "mount"),
    **dict.fromkeys(("prlimit", "setpriv", "unshare"), "util-linux"),
    **dict.fromkeys(("diff", "diff3"), "diffutils"),
    "git": "git",
    "grub-editenv": "grub-common",
    "ssh-keygen": "openssh-client",
}
# What making a disk needs as well.
DISK_PACKAGES = {
    **PACKAGES,
    **dict.fromkeys(("debugfs", "dumpe2fs"), "e2fsprogs"),
    **dict.fromkeys(("blkid", "lsblk"), "util-linux"),
    **dict.fromkeys(("mcopy", "mformat", "mmd"), "mtools"),
}
# And those that only some sources need.
OPTIONAL_PACKAGES = {
    "cryptsetup": "cryptsetup-bin", "curl": "curl", "grub-mkimage": "grub-common",
    "python3": "python3", "ssh": "openssh-client", "zstd": "zstd",
}  # fmt: skip

_IDLE_LOOK = 1.0  # seconds

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def own_memory_limit() -> int | None:
    """Bytes that this process, and so each program that it starts, may have at most."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    return None if hard == resource.RLIM_INFINITY else hard


@dataclass(frozen=True)
class Sandbox:
    """Who a program runs as, and what it may use up.

    `memory` and `file_size` are bytes, `cpu` seconds. Not able to gain
    privileges, no supplementary groups, no capabilities kept.
    """

    user: str
    memory: int = 600_000_000
    cpu: int = 3600
    file_size: int | None = None

    def prefix(self) -> tuple[str, ...]:
        """The arguments that come before the program's own."""
        # Who has a hard limit may not be able to raise it, and so not to set a larger one.
        hard = own_memory_limit()
        memory = self.memory if hard is None else min(self.memory, hard)
        limits = [f"--as={memory}", f"--cpu={self.cpu}", "--nofile=256", "--core=0"]
        if self.file_size is not None:
            limits.append(f"--fsize={self.file_size}")
        return (
            "prlimit",
            *limits,
            "setpriv",
            f"--reuid={self.user}",
            f"--regid={self.user}",
            "--clear-groups",
            "--no-new-privs",
            "--inh-caps=-all",
        )


@dataclass(frozen=True)
class Result:
    """What a finished program left: exit code and output."""

    code: int
    stdout: bytes
    stderr: str


def run(
    argv: Sequence[Argument],
    *,
    stdin: bytes | None = None,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    sandbox: Sandbox | None = None,
    cwd: Path | None = None,
    ok: Collection[int] = (0,),
) -> Result:
    """Run a program to its end.

    `timeout` is in seconds. `env` is added to a minimal environment. An exit
    code outside `ok`, a signal, a time-out or a program that is missing raises
    `ProgramError` with the program's error text.
    """
    shown, words, program = _command(argv, sandbox)
    try:
        done = subprocess.run(
            words,
            executable=program,
            input=stdin or b"",
            capture_output=True,
            timeout=timeout,
            env=_environment(env),
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramError(shown, None, f"not finished after {timeout:g} seconds") from error
    except OSError as error:
        raise _not_started(shown, error) from error
    said = done.stderr.decode(errors="replace")
    if done.returncode not in ok:
        raise ProgramError(shown, done.returncode, said, _killed(done.returncode))
    return Result(done.returncode, done.stdout, said)


def run_small(*argv: Argument, timeout: float = 60.0) -> None:
    """Run a program that reads and prints nothing, through `sh`; raises as `run` does."""
    import sh  # takes 50 ms

    shown, words, program = _command(argv, None)
    late = threading.Event()
    try:
        running = sh.Command(program)(
            # sh takes text only: latin-1 both ways keeps every byte of a file name.
            *[os.fsencode(word).decode("latin-1") for word in words[1:]],
            _encoding="latin-1",
            _in=b"",
            _tty_in=False,
            _tty_out=False,
            _env=_environment(None),
            _bg=True,
            _bg_exc=False,
        )

        def end() -> None:
            late.set()
            kill()

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                running.kill()

        # sh's own time limit looks ten times a second only, and so takes that long.
        timer = threading.Timer(timeout, end)
        try:
            timer.start()
            running.wait()
        except sh.ErrorReturnCode:
            raise
        except BaseException:  # a signal to us: do not leave it behind
            kill()
            raise
        finally:
            timer.cancel()
    except sh.ErrorReturnCode as error:
        if late.is_set():
            raise ProgramError(shown, None, f"not finished after {timeout:g} seconds") from error
        # Its own text is cut.
        said = error.stderr.decode(errors="replace")
        raise ProgramError(shown, error.exit_code, said, _killed(error.exit_code)) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceFaultError(
            "There is not enough memory to run another program.", OUT_OF_MEMORY_HINT
        ) from error


def _not_started(shown: tuple[str, ...], error: OSError) -> AbupdateError:
    if error.errno == errno.ENOMEM:
        return DeviceFaultError(
            "There is not enough memory to run another program.", OUT_OF_MEMORY_HINT
        )
    return ProgramError(shown, None, f"cannot be started: {error.strerror}")


@dataclass(frozen=True)
class Ended:
    """How a program of somebody else's ended. `code` is None when its time was up.

    A negative code is a signal. `stdout` is the end of what it printed, errors too.
    `idle`: it was ended because it did nothing any more.
    """

    code: int | None
    stdout: bytes
    idle: bool = False


def run_untrusted(
    argv: Sequence[Argument],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    tail: int = 4000,
    sandbox: Sandbox | None = None,
    idle: float | None = None,
) -> Ended:
    """Run a program that may print without end, hang, or leave others behind.

    The last `tail` bytes of its output are kept. When it ends, `timeout` seconds are
    over, or nothing of its session has read, written or computed for `idle` seconds, all
    of its session is killed. Raises `ProgramError` when it cannot be started.
    """
    _, words, program = _command(argv, sandbox)
    try:
        process = subprocess.Popen(
            words,
            executable=program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(env),
            start_new_session=True,
        )
    except OSError as error:  # no interpreter, or no program at all
        raise _not_started(words, error) from error
    printed = _Tail(process, tail)
    try:
        in_time = printed.follow(timeout, idle)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        printed.close()
    return Ended(code if in_time else None, printed.text, printed.idle)


def start_apart(argv: Sequence[Argument], *, held: Collection[int], log: IO[bytes]) -> Process:
    """Start a program in a session of its own, which goes on when this process ends.

    It gets the descriptors of `held`, and `log` for all that it prints. Whoever starts it waits
    for it at times, so that it does not stay in the table of processes. Raises as `run` does.
    """
    shown, words, program = _command(argv, None)
    try:
        return subprocess.Popen(
            words,
            executable=program,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=tuple(held),
            env=_environment(None),
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(shown, error) from error


def run_attached(argv: Sequence[Argument], *, env: Mapping[str, str] | None = None) -> int:
    """Run a program that a person talks to, on our own terminal; its exit code.

    It has all the time that it wants, and what is typed there is for it: Ctrl-C does
    not stop us meanwhile. Raises `ProgramError` when it cannot be started.
    """
    _, words, program = _command(argv, None)
    # A handler of ours is none of the program's, other than one that ignores the signal.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        process = subprocess.Popen(words, executable=program, env=_environment(env))
        try:
            return process.wait()
        finally:
            process.kill()
            process.wait()
            _take_terminal_back()
    except OSError as error:
        raise _not_started(words, error) from error
    finally:
        signal.signal(signal.SIGINT, before)


def _take_terminal_back() -> None:
    """A shell that was killed leaves the terminal to a process group that is gone."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        with contextlib.suppress(OSError):  # it is no terminal of ours
            os.tcsetpgrp(0, os.getpgrp())
    finally:
        signal.signal(signal.SIGTTOU, before)


class _Tail:
    """The end of what a process prints, read until the process ends: its children may go on."""

    def __init__(self, process: subprocess.Popen[bytes], size: int) -> None:
        assert process.stdout is not None
        self.text = b""
        self.idle = False
        self._session = process.pid
        self._pipe, self._size = process.stdout, size
        self._ended = os.pidfd_open(process.pid)
        os.set_blocking(self._pipe.fileno(), False)

    def follow(self, seconds: float, idle: float | None = None) -> bool:
        """Read until the process ends (True), or the time does, or it is idle for so long."""
        end = time.monotonic() + seconds
        work, since, look = None, 0.0, 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                now = end - left
                if idle is not None and now >= look:
                    found, look = _work(self._session), now + _IDLE_LOOK
                    if found is None or found != work:
                        work, since = found, now
                    elif now - since > idle:
                        self.idle = True
                        return False
                wait = left if idle is None else min(left, _IDLE_LOOK)
                ready = {key.fileobj for key, _ in selector.select(wait)}
                if self._pipe in ready and not self._read():
                    selector.unregister(self._pipe)
                if self._ended in ready:
                    self._read()
                    return True
        return False

    def _read(self) -> bool:
        try:
            chunk = os.read(self._pipe.fileno(), 1 << 20)
        except BlockingIOError:
            return True
        self.text = (self.text + chunk)[-self._size :]
        return bool(chunk)

    def close(self) -> None:
        self._pipe.close()
        os.close(self._ended)


def _work(session: int) -> int | None:
    """What the processes of a session have read, written and computed; None: not known.

    Format: proc_pid_stat(5), proc_pid_io(5).
    """
    total = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            # The name before the bracket may have blanks and brackets itself.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session:
                moved = (folder / "io").read_text().split()
                total += int(fields[11]) + int(fields[12]) + int(moved[1]) + int(moved[3])
        except ProcessLookupError:
            continue  # it has just ended
        except FileNotFoundError:
            if folder.exists():
                return None  # a kernel that does not count
        except PermissionError:
            return None  # nor may everybody know
    return total


# Larger than the 64 KiB that are usual: fewer turns between us and the program. What the kernel
# gives every process (fs.pipe-max-size).
PIPE_SIZE = 1024 * 1024


class Stream:
    """A running program with its pipes; made by `stream`."""

    def __init__(self, process: subprocess.Popen[bytes], argv: tuple[str, ...], log: IO[bytes]):
        self._process = process
        self._argv = argv
        self._log = log

    @property
    def stdin(self) -> IO[bytes]:
        """The program's standard input; opened with `stdin=True` only."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The program's standard output; opened with `stdout=True` only."""
        assert self._process.stdout is not None
        return self._process.stdout

    def finish(self, ok: Collection[int] = (0,), timeout: float = 60.0) -> Result:
        """Close its input, wait, and raise `ProgramError` unless the exit code is in `ok`.

        What is left on its output is returned (read it before, if it is large), unless that
        is closed, which is how it is handed over to another program.
        """
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        pipe = self._process.stdout
        rest = pipe.read() if pipe is not None and not pipe.closed else b""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise ProgramError(self._argv, None, f"not finished after {timeout:g} s") from error
        if code not in ok:
            raise ProgramError(self._argv, code, self.error_text(), _killed(code))
        return Result(code, rest, self.error_text())

    def error_text(self) -> str:
        """What the program wrote to standard error so far (the last 64 KiB)."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 65536))
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        """End the program if it still runs, and free its pipes."""
        try:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        except BaseException:  # another signal to us
            self._process.kill()
            raise
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@contextlib.contextmanager
def stream(
    argv: Sequence[Argument],
    *,
    stdin: bool | IO[bytes] = False,
    stdout: bool | IO[bytes] = False,
    env: Mapping[str, str] | None = None,
    sandbox: Sandbox | None = None,
    cwd: Path | None = None,
) -> Iterator[Stream]:
    """A program with pipes for bulk data; ended when the block is left.

    `stdin` and `stdout`: True for a pipe of ours, a file to use it directly,
    False for none. Standard error is kept for error messages. Call
    `Stream.finish` for the verdict: leaving the block without it ends the program.
    """
    shown, words, program = _command(argv, sandbox)
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                words,
                executable=program,
                stdin=_pipe(stdin),
                stdout=_pipe(stdout),
                stderr=log,
                env=_environment(env),
                cwd=cwd,
                bufsize=1024 * 1024,
            )
        except OSError as error:
            raise _not_started(shown, error) from error
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # a user has so many large ones
                    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        handle = Stream(process, shown, log)
        try:
            yield handle
        finally:
            handle.close()


def _pipe(wanted: bool | IO[bytes]) -> int | IO[bytes]:
    if wanted is True:
        return subprocess.PIPE
    return subprocess.DEVNULL if wanted is False else wanted


def _argv(argv: Sequence[Argument], sandbox: Sandbox | None) -> tuple[str, ...]:
    words = tuple(os.fsdecode(word) for word in argv)
    return words if sandbox is None else (*sandbox.prefix(), *words)


def require_programs(names: Iterable[str]) -> None:
    """Raise `MissingProgramError` unless all of these programs are installed."""
    missing = sorted(name for name in names if shutil.which(name, path=SEARCH_PATH) is None)
    if missing:
        known = {**DISK_PACKAGES, **OPTIONAL_PACKAGES}
        packages = sorted({known.get(name, name) for name in missing})
        raise MissingProgramError(
            f"This needs {' and '.join(missing)}, and found none in {SEARCH_PATH}.",
            f"Install what has it (in Debian: {' '.join(packages)}).",
        )


def _command(
    argv: Sequence[Argument], sandbox: Sandbox | None
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """A command as it is told of, as it is run, and the path of what is run."""
    shown, words = _argv(argv, None), _argv(argv, sandbox)
    for program in (shown[0], *(("prlimit", "setpriv") if sandbox else ())):
        if shutil.which(program, path=SEARCH_PATH) is None:
            packages = {**DISK_PACKAGES, **OPTIONAL_PACKAGES}
            where = f" (in Debian: {packages[program]})" if program in packages else ""
            raise ProgramError(
                shown,
                None,
                f"{program} not found",
                f"Install the package that has '{program}'{where}.",
            )
    path = shutil.which(words[0], path=SEARCH_PATH)
    assert path is not None
    return shown, words, path


def _killed(code: int) -> str | None:
    """What to do when a program was killed, which the kernel does when memory runs out."""
    return "Was it out of memory? Run it again." if code == -signal.SIGKILL else None


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """A minimal environment: no locale, no home, nothing that steers a program."""
    base = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    return {**base, **(extra or {})}
