"""The inside of an isolated run: started by `isolation`, in new namespaces, as a script.

It makes the root that its argument (JSON) describes, puts itself into it, gives up
what could lead out, and runs one program there. As process 1 of its namespace it
takes everything that the program left running with it when it ends.

Imports nothing of abupdate: it runs with `python -I -S`, and starts within 20 ms.
System call numbers are those of all architectures since Linux 5.2 (`open_tree`,
`move_mount`) and 5.12 (`mount_setattr`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import stat
import struct
import sys
from typing import Any

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_HERE, _EMPTY_PATH, _RECURSIVE = -100, 0x1000, 0x8000
_CLONE, _CLOSE_ON_EXEC = 1, os.O_CLOEXEC
_FROM_EMPTY_PATH = 4
_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_PROGRAMS = 1, 2, 4, 8
_DETACH = 2
_DROP_FROM_BOUNDS, _NO_NEW_PRIVILEGES = 24, 38

# What root needs for files of a root filesystem, and to become somebody else: CHOWN,
# DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETFCAP. Not: to mount, to make
# devices, to open files by handle, to leave a chroot, to trace, to load modules.
_KEPT = {0, 1, 3, 4, 5, 6, 7, 31}
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8),
            "urandom": (1, 9), "tty": (5, 0)}  # fmt: skip
_LINKS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
# Filesystems of our own, in memory: mode and bytes at most.
_PRIVATE = {"/dev": ("755", 1 << 20), "/run": ("755", 16 << 20), "/tmp": ("1777", 64 << 20)}  # noqa: S108
FAILED = 125
UNPREPARED = "the isolated run cannot be prepared"

_libc = ctypes.CDLL(None, use_errno=True)


def main(text: str) -> int:
    """Run one program; its exit code, 128 and the signal that ended it, `FAILED` of ours."""
    wanted: dict[str, Any] = json.loads(text)
    try:
        _enter(wanted)
        _give_up_privileges()
    except OSError as error:
        _tell(f"{UNPREPARED}: {error}")
        return FAILED
    child = os.fork()
    if child == 0:
        _become(wanted)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _enter(wanted: dict[str, Any]) -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:  # noqa: PTH123
        file.write(b"1000")  # when memory runs out, it goes first
    root = _tree(wanted["root"], read_only=wanted["read_only"], recursive=wanted["read_only"])
    shown = [(path, _tree(path, read_only=True)) for path in wanted["shown"]]
    _attach(root, wanted["stage"])
    os.chdir(wanted["stage"])
    # The old root comes to lie over the new one, and is taken away.
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _DETACH), "umount")
    os.chdir("/")
    _mount("proc", "/proc", _READ_ONLY | _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS)
    for place, (mode, size) in _PRIVATE.items():
        devices = 0 if place == "/dev" else _NO_DEVICES
        _mount("tmpfs", place, _NO_SETUID | devices, f"mode={mode},size={size}")
    _make_devices()
    for path, tree in shown:
        if not os.path.lexists(path):
            _attach(tree, _made(path, folder=stat.S_ISDIR(os.fstat(tree).st_mode)))


def _tree(path: str, *, read_only: bool, recursive: bool = False) -> int:
    """A detached copy of what is mounted at a path: nothing reaches it until it is attached."""
    flags = _RECURSIVE if recursive else 0
    tree = _libc.syscall(_OPEN_TREE, _HERE, os.fsencode(path), _CLONE | _CLOSE_ON_EXEC | flags)
    _check(tree, path)
    attributes = _NO_SETUID | _NO_DEVICES | (_READ_ONLY if read_only else 0)
    words = struct.pack("QQQQ", attributes, 0, 0, 0)
    flags |= _EMPTY_PATH
    _check(_libc.syscall(_MOUNT_SETATTR, tree, b"", flags, words, len(words)), path)
    return int(tree)


def _attach(tree: int, target: str) -> None:
    done = _libc.syscall(
        _MOVE_MOUNT, tree, b"", _HERE, os.fsencode(target), _FROM_EMPTY_PATH
    )  # fmt: skip
    _check(done, target)


def _mount(kind: str, target: str, flags: int, options: str = "") -> None:
    if not _is_folder(target):
        return  # this root has no place for it
    name = kind.encode()
    _check(_libc.mount(name, target.encode(), name, flags, options.encode()), target)


def _is_folder(path: str) -> bool:
    """A symlink is none: what it points to is not what it says."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _make_devices() -> None:
    if not _is_folder("/dev"):
        return
    os.umask(0)
    for name, number in _DEVICES.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(*number))
    os.umask(0o022)
    for name, target in _LINKS.items():
        os.symlink(f"/proc/self/{target}", f"/dev/{name}")  # noqa: PTH211


def _made(path: str, *, folder: bool) -> str:
    """A place to show something at, which what lies over /run and /tmp may have hidden."""
    os.makedirs(path if folder else os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    if not folder:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    return path


def _give_up_privileges() -> None:
    for number in range(64):
        if number not in _KEPT and _libc.prctl(_DROP_FROM_BOUNDS, number, 0, 0, 0) != 0:
            break  # the kernel knows no more
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")


def _become(wanted: dict[str, Any]) -> None:
    program = wanted["program"]
    if wanted["terminal"]:
        _take_terminal()
    try:
        os.execve(program[0], program, wanted["env"])  # noqa: S606 - no shell is wanted
    except OSError as error:
        _tell(f"{program[0]} cannot be started: {error.strerror}")
    os._exit(FAILED)


def _take_terminal() -> None:
    """A shell gives the terminal back to who had it, and must be able to name that group."""
    os.setpgid(0, 0)
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, before)


def _tell(text: str) -> None:
    """It goes where the program's output goes, which is kept."""
    os.write(2, f"{text}\n".encode(errors="replace"))


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
