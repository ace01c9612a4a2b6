"""Damage on a device beneath its filesystem, as a failing disk does it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path


def change(device: Path, at: int) -> None:
    """Change one byte, some bits of it."""
    with device.open("r+b", buffering=0) as raw:
        raw.seek(at)
        byte = raw.read(1)
        raw.seek(at)
        raw.write(bytes([byte[0] ^ 0x15]))


def change_content(device: Path, content: bytes) -> None:
    """Change one byte of a file; `content` is a part of it."""
    at = device.read_bytes().find(content)
    assert at >= 0
    change(device, at)


def inode(device: Path, path: str) -> int:
    """Where the inode of a path lies, in bytes."""
    found = _debugfs(device, f"imap /{path}")
    block, offset = re.findall(r"block (\d+), offset (0x[0-9a-f]+)", found)[0]
    return int(block) * _block_size(device) + int(offset, 16)


def mode(device: Path, path: str) -> int:
    """Where the kind and the mode of a path lie."""
    return inode(device, path) + 1


def content(device: Path, path: str) -> int:
    """Where the second byte of a file, long symlink or folder lies."""
    return int(_debugfs(device, f"bmap /{path} 0").split()[0]) * _block_size(device) + 1


def short_symlink(device: Path, path: str) -> int:
    """Where the target of a symlink lies that fits into its inode."""
    return inode(device, path) + 40


def attributes(device: Path, path: str) -> int:
    """Where the last attribute's value in an inode ends: at the end of its 256 bytes."""
    return inode(device, path) + 255


Place = Callable[[Path, str], int]


def _block_size(device: Path) -> int:
    return int(re.findall(r"Block size:\s+(\d+)", _run("dumpe2fs", "-h", device))[0])


def _debugfs(device: Path, request: str) -> str:
    return _run("debugfs", "-R", request, device)


def _run(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
