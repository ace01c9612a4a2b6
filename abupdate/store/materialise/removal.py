"""Removing what a slot holds, whatever it is: deep trees, and what `chattr` protects."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat

from abupdate.store.paths import DIRECTORY, FILE

# linux/fs.h
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_APPEND, _IMMUTABLE = 0x20, 0x10


def remove(fd: int, name: bytes) -> int:
    """Remove a path with all below it, however deep or protected; how many paths that were."""
    pending, removed = [name], 0
    while pending:
        current = pending.pop()
        removed += 1
        if not _is_folder(fd, current):
            unlink(fd, current)
            continue
        inner = os.open(current, DIRECTORY, dir_fd=fd)
        try:
            unprotect(inner)
            for child in map(os.fsencode, os.listdir(inner)):  # noqa: PTH208 - a descriptor
                if not _is_folder(inner, child):
                    unlink(inner, child)
                    removed += 1
                    continue
                # Moved up instead of gone down into: no depth can use up our descriptors.
                unprotect_folder(inner, child)
                beside = b".abupdate-removed-" + secrets.token_hex(8).encode()
                os.rename(child, beside, src_dir_fd=inner, dst_dir_fd=fd)
                pending.append(beside)
        finally:
            os.close(inner)
        os.rmdir(current, dir_fd=fd)
    return removed


def _is_folder(fd: int, name: bytes) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)


def unlink(fd: int, name: bytes) -> None:
    """Remove a path that is no folder, even one that `chattr` protects."""
    try:
        os.unlink(name, dir_fd=fd)
    except PermissionError:
        unprotect_file(fd, name)
        os.unlink(name, dir_fd=fd)


def unprotect_file(fd: int, name: bytes) -> None:
    """`unprotect` for a regular file by name."""
    file = os.open(name, FILE, dir_fd=fd)
    try:
        unprotect(file)
    finally:
        os.close(file)


def unprotect_folder(fd: int, name: bytes) -> None:
    """`unprotect` for a folder by name."""
    folder = os.open(name, DIRECTORY, dir_fd=fd)
    try:
        unprotect(folder)
    finally:
        os.close(folder)


def unprotect(fd: int) -> None:
    """Take the immutable and append-only flags (`chattr +i +a`) from an open file or folder."""
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, _GET_FLAGS, bytes(8))[:4], "little")
    except OSError:
        return  # a filesystem without such flags
    if flags & (_APPEND | _IMMUTABLE):
        wanted = flags & ~(_APPEND | _IMMUTABLE)
        fcntl.ioctl(fd, _SET_FLAGS, wanted.to_bytes(8, "little"))
