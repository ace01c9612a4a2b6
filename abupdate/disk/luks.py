"""An encrypted partition (LUKS2), made and opened with a key file of its owner's, by cryptsetup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abupdate.run import run

KIND = "crypto_LUKS"  # blkid's name
_MAGIC = b"LUKS\xba\xbe"
_SECONDS = 300.0


def is_encrypted(device: Path) -> bool:
    """Whether a partition says so itself. Format: LUKS1 and LUKS2, first bytes of the header."""
    try:
        with device.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def encrypt(device: Path, key: Path) -> None:
    """Make a partition an encrypted one, everything on it lost. `key`: a file."""
    words = ["cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode"]
    run([*words, "--key-file", key, device], timeout=_SECONDS)


@contextmanager
def opened(device: Path, key: Path) -> Iterator[Path]:
    """What an encrypted partition holds, as a device, for the time of the block."""
    name = f"abupdate-{device.name}"
    run(["cryptsetup", "open", "--type", "luks", "--key-file", key, device, name], timeout=_SECONDS)
    try:
        yield Path("/dev/mapper") / name
    finally:
        run(["cryptsetup", "close", name], timeout=_SECONDS)
