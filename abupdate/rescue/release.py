"""Which releases are rescue systems: their product, and what must be in them."""

from __future__ import annotations

from abupdate.boot.cmdline import parse_abupdate_env
from abupdate.errors import RefusedError
from abupdate.release.fixups import fixups
from abupdate.update.admit import Examined

_ENV = b"boot/abupdate.env"
_LIMIT = 4096
_NEEDED = (
    _ENV,
    b"boot/SHA256SUMS",
    b"usr/bin/abupdate",
    b"usr/lib/abupdate/abupdate-mount",
    b"usr/lib/systemd/system-generators/abupdate-rescue-generator",
)


def product(compatible: str) -> str:
    """What rescue systems of a product are made for."""
    return f"{compatible}:rescue"


def refuse_unfit(found: Examined) -> None:
    """Raise `RefusedError` where a release could not do what rescue has to."""
    content, version = found.content, found.verified.version
    there = {entry.path for entry in content.entries()}
    missing = [path.decode() for path in _NEEDED if path not in there]
    if missing:
        raise RefusedError(
            f"Release {version} should be a rescue system, and has no {missing[0]}.",
            "docs/rescue.md tells how one is made.",
        )
    if fixups(content.manifest):
        raise RefusedError(
            f"A rescue system is the same on each device, and release {version} has fixups.",
            "Publish it without .git-fixups.",
        )
    text = content.file(_ENV, _LIMIT)
    if text is None:
        raise RefusedError(f"/boot/abupdate.env of release {version} should be a small file.")
    parse_abupdate_env(text)
