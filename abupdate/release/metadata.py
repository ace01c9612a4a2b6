"""What a release says about itself: its `release.toml`.

Format and rules: docs/release-format.md. The text comes from outside, so its
size is bounded and every value is checked; pydantic is not used, because every
command that shows a slot reads it and must start fast.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from abupdate.errors import AbupdateError, RefusedError, SourceError, UsageError
from abupdate.release.compatible import check_compatible
from abupdate.release.version import Version

FORMAT = 1
MAX_TOML = 64 * 1024
_MAX_COUNT = 1 << 62
# First parts of paths that no fixup may write: what describes the slot, what runs in it, what
# GRUB reads, and what is the filesystem's own.
NEVER_WRITTEN = (".abupdate", ".git-fixups", "boot", "lost+found")
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z


@dataclass(frozen=True)
class ReleaseToml:
    """The content of `.abupdate/release.toml`.

    `floor`: the lowest version that a device may still run once this release is
    confirmed; `min_from`: the lowest version to update from. `bytes` and
    `inodes`: what a slot needs for the content. `fixups_write`: patterns of the
    paths that fixups may change. `created`: seconds since the epoch.
    `unknown`: names of keys that this reader does not know.
    """

    version: Version
    compatible: str
    bytes: int
    inodes: int
    created: int
    floor: Version | None = None
    min_from: Version | None = None
    fixups_write: tuple[str, ...] = ()
    unknown: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        check_compatible(self.compatible)
        for name, limit in (("floor", self.floor), ("min_from", self.min_from)):
            if limit is not None and limit > self.version:
                raise UsageError(
                    f"{name} {limit} is above the release's own version {self.version}.",
                    f"Choose a {name} of {self.version} or lower.",
                )
        for name in ("bytes", "inodes", "created"):
            value = getattr(self, name)
            highest = _LAST_SECOND if name == "created" else _MAX_COUNT
            if not 0 <= value <= highest:
                raise UsageError(f"{name} must be from 0 to {highest}, found {value}.")
        for pattern in self.fixups_write:
            _check_pattern(pattern)


def parse_release_toml(raw: bytes) -> ReleaseToml:
    """Read a `release.toml`. Raises `SourceError`, `RefusedError` for a newer format."""
    if len(raw) > MAX_TOML:
        raise SourceError(f"release.toml may have {MAX_TOML} bytes, found {len(raw)}.")
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"release.toml is not TOML in UTF-8: {error}.") from error
    _check_format(table)
    try:
        return ReleaseToml(
            version=Version(_text(table, "version")),
            compatible=_text(table, "compatible"),
            bytes=_integer(table, "bytes"),
            inodes=_integer(table, "inodes"),
            created=_integer(table, "created"),
            floor=_version(table, "floor"),
            min_from=_version(table, "min_from"),
            fixups_write=_patterns(table),
            unknown=tuple(sorted(table.keys() - _KEYS)),
        )
    except UsageError as error:
        raise SourceError(f"release.toml: {error.message}") from error


def format_release_toml(release: ReleaseToml) -> bytes:
    """The one text of a release's description: same values, same bytes."""
    lines = [
        f"format = {FORMAT}",
        f'version = "{release.version}"',
        f'compatible = "{release.compatible}"',
    ]
    if release.floor is not None:
        lines.append(f'floor = "{release.floor}"')
    if release.min_from is not None:
        lines.append(f'min_from = "{release.min_from}"')
    patterns = ", ".join(_quote(pattern) for pattern in release.fixups_write)
    lines += [
        f"bytes = {release.bytes}",
        f"inodes = {release.inodes}",
        f"created = {release.created}",
        f"fixups_write = [{patterns}]",
    ]
    raw = ("\n".join(lines) + "\n").encode("utf-8")
    if len(raw) > MAX_TOML:
        raise UsageError(f"release.toml may have {MAX_TOML} bytes; these patterns make {len(raw)}.")
    return raw


_REQUIRED = ("format", "version", "compatible", "bytes", "inodes", "created")
_OPTIONAL = ("floor", "min_from", "fixups_write", "needs_abupdate")
_KEYS = frozenset((*_REQUIRED, *_OPTIONAL))


def _check_format(table: Mapping[str, object]) -> None:
    found = _integer(table, "format")
    if found == FORMAT:
        return
    if found < FORMAT:
        raise SourceError(f"release.toml has format {found}; the lowest format is {FORMAT}.")
    needs = "a newer abupdate"
    try:
        wanted = _version(table, "needs_abupdate")
    except AbupdateError:
        wanted = None
    if wanted is not None:
        needs = f"abupdate >= {wanted}"
    raise RefusedError(
        f"The release has format {found} and needs {needs}; this abupdate reads format {FORMAT}.",
        "Install a release in between that brings the newer abupdate.",
    )


def _text(table: Mapping[str, object], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        _wrong(key, "a text", value)
    return value


def _integer(table: Mapping[str, object], key: str) -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MAX_COUNT:
        _wrong(key, f"a whole number up to {_MAX_COUNT}", value)
    return value


def _version(table: Mapping[str, object], key: str) -> Version | None:
    return Version(_text(table, key)) if key in table else None


def _patterns(table: Mapping[str, object]) -> tuple[str, ...]:
    value = table.get("fixups_write", [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        _wrong("fixups_write", "a list of texts", value)
    return tuple(value)


def _wrong(key: str, wanted: str, value: object) -> NoReturn:
    found = "nothing" if value is None else repr(value)[:80]
    raise SourceError(f"release.toml: {key} must be {wanted}, found {found}.")


def _check_pattern(pattern: str) -> None:
    parts = pattern.split("/")
    odd = any(part in {"", ".", ".."} or ("**" in part and part != "**") for part in parts)
    if odd or len(pattern) > 4096 or not pattern.isprintable():
        raise UsageError(
            "A pattern of fixups_write is a path below the root without a leading '/', empty "
            f"parts, '.' or '..', and '**' only as a whole part; found {pattern[:80]!r}.",
            "Example: etc/ld.so.cache or var/cache/**.",
        )
    if "*" in parts[0] or "?" in parts[0] or parts[0] in NEVER_WRITTEN:
        raise UsageError(
            "A pattern of fixups_write begins with the plain name of a folder or file of the root, "
            f"and not with {', '.join(NEVER_WRITTEN)}; found {pattern[:80]!r}.",
            "Example: etc/ld.so.cache or var/cache/**.",
        )


def _quote(text: str) -> str:
    # TOML basic string; patterns are printable, so these two are all there is to escape.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
