"""The error tree and the exit codes that it stands for.

A fault of the input, the machine or the situation is an `AbupdateError`: its
message says what was expected and what was found, its hint what to do next.
Anything else that escapes is a bug of ours. Only `cli/main.py` turns either
into an exit code.
"""

from __future__ import annotations

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command (documented in docs/exit-codes.md)."""

    OK = 0
    BUG = 1
    USAGE = 2
    NOTHING_TO_DO = 3
    REBOOT_NEEDED = 4
    BUSY = 5
    NOT_TRUSTED = 6
    REFUSED = 7
    NO_SPACE = 8
    SOURCE = 9
    CONTENT_DIFFERS = 10
    DEVICE_FAULT = 11
    INTERRUPTED = 130
    TERMINATED = 143


class AbupdateError(Exception):
    """Root of all faults that are not bugs of ours."""

    exit_code = ExitCode.BUG

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class UsageError(AbupdateError):
    """The command line or the configuration is wrong."""

    exit_code = ExitCode.USAGE


class NothingToDoError(AbupdateError):
    """What was asked for is already so."""

    exit_code = ExitCode.NOTHING_TO_DO


class BusyError(AbupdateError):
    """Another job holds the lock."""

    exit_code = ExitCode.BUSY


class NotTrustedError(AbupdateError):
    """A signature, a key or an object's hash is not what it must be."""

    exit_code = ExitCode.NOT_TRUSTED


class RefusedError(AbupdateError):
    """Policy or the state of the device forbids it."""

    exit_code = ExitCode.REFUSED


class BehindError(RefusedError):
    """A source is older than what another one has said here; a third may not be."""


class NoSpaceError(AbupdateError):
    """Bytes or inodes do not suffice."""

    exit_code = ExitCode.NO_SPACE


class SourceError(AbupdateError):
    """A bundle, file or remote cannot be read or is not what it claims to be."""

    exit_code = ExitCode.SOURCE


class ContentDiffersError(AbupdateError):
    """Content was compared and is not equal."""

    exit_code = ExitCode.CONTENT_DIFFERS


class DeviceFaultError(AbupdateError):
    """A disk, a filesystem or a program of the device does not work."""

    exit_code = ExitCode.DEVICE_FAULT


class InterruptedByUserError(AbupdateError):
    """Stopped by SIGINT."""

    exit_code = ExitCode.INTERRUPTED


class TerminatedError(AbupdateError):
    """Stopped by SIGTERM or SIGHUP."""

    exit_code = ExitCode.TERMINATED


class MissingProgramError(DeviceFaultError):
    """What this needs is not installed."""


# More of its arguments tells nobody anything.
_LONGEST_COMMAND = 300


class ProgramError(DeviceFaultError):
    """Another program failed; callers translate it where they know better."""

    def __init__(
        self, argv: tuple[str, ...], code: int | None, stderr: str, hint: str | None = None
    ) -> None:
        outcome = "failed" if code is None else _outcome(code)
        detail = f": {stderr.strip()}" if stderr.strip() else ""
        command = " ".join(argv)
        if len(command) > _LONGEST_COMMAND:
            command = f"{command[:_LONGEST_COMMAND]}…"
        super().__init__(f"'{command}' {outcome}{detail}", hint)
        self.argv = argv
        self.code = code
        self.stderr = stderr


def fault_of(error: OSError | MemoryError) -> AbupdateError:
    """A fault of the machine that nobody below could say more about."""
    if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
        return DeviceFaultError("There is not enough memory for this.", OUT_OF_MEMORY_HINT)
    where = f"{error.filename}: " if error.filename else ""
    told = f"{where}{error.strerror or error}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(told, "Free space on the disk that is written to.")
    if error.errno == errno.EROFS:
        return RefusedError(told, "Nothing can be written there; make it writable first.")
    if error.errno == errno.EIO:
        return DeviceFaultError(told, "The disk may be failing: `dmesg` tells what the kernel saw.")
    return DeviceFaultError(told)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python failed for lack of memory: it has other words for it where it loads or starts.

    A library that cannot be mapped is an `ImportError`, a thread without a stack a `RuntimeError`.
    """
    words = ("failed to map segment", "cannot allocate memory", "can't start new thread")
    return isinstance(error, MemoryError) or any(each in str(error).lower() for each in words)


OUT_OF_MEMORY_HINT = (
    "End what else uses much memory, or raise the limit that this process has (ulimit -v, "
    "MemoryMax= of its unit), and run it again."
)


def _outcome(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
