"""The name of the product that a release is made for; release.toml and the signed tag have it."""

from __future__ import annotations

import re

from abupdate.errors import UsageError

COMPATIBLE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._,+:-]{0,127}"
_COMPATIBLE = re.compile(COMPATIBLE_PATTERN, re.ASCII)


def check_compatible(text: str) -> str:
    """`text`, if it can name a product. Raises `UsageError`."""
    if not _COMPATIBLE.fullmatch(text):
        raise UsageError(
            "compatible must be 1 to 128 letters, digits and . _ , + : - that begin with a "
            f"letter or digit; found {text[:140]!r}."
        )
    return text
