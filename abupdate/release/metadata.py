"""What a release says about itself: its `release.toml`.

Format and rules: docs/release-format.md; its JSON schema, docs/release.schema.json, is made
from the model here. The text comes from outside, so its size and depth are bounded and every
value is checked. pydantic takes long to import: what must start fast does without this, and
has versions from `release.version`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from abupdate.errors import RefusedError, SourceError, UsageError
from abupdate.release.compatible import COMPATIBLE_PATTERN, check_compatible
from abupdate.release.toml import key_text, value_text
from abupdate.release.version import MAX_VERSION, VERSION_PATTERN, Version

FORMAT: Final = 1
MAX_TOML = 64 * 1024
# Tables and lists in each other. Python's own limit depends on who calls; this one is the same
# for every reader.
MAX_DEPTH = 32
# First parts of paths that no fixup may write: what describes the slot, what runs in it, what
# GRUB reads, and what is the filesystem's own.
NEVER_WRITTEN = (".abupdate", ".git-fixups", "boot", "lost+found")

_MAX_COUNT: Final = 1 << 62
_MAX_PATTERN = 4096
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z
_MAKE = "Make releases with `abupdate publish commit`."


def _check_pattern(pattern: str) -> str:
    parts = pattern.split("/")
    odd = any(part in {"", ".", ".."} or ("**" in part and part != "**") for part in parts)
    if odd or len(pattern) > _MAX_PATTERN or not pattern.isprintable():
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
    return pattern


def _read_version(value: object, info: ValidationInfo) -> Version:
    if isinstance(value, Version):
        return value
    if not isinstance(value, str):
        raise ValueError  # in words by `_wrong`
    try:
        return Version(value)
    except UsageError as error:
        raise UsageError(f"{info.field_name}: {error.message}", error.hint) from error


def _as_in_a_file(schema: dict[str, Any]) -> None:
    """What has a default here and not in a file: `format` is there, and TOML has no null."""
    schema["required"].insert(0, "format")
    for field in schema["properties"].values():
        if field.get("default", ...) in (None, FORMAT):
            del field["default"]


_VersionText = Annotated[
    Version,
    PlainValidator(_read_version),
    PlainSerializer(str, return_type=str, when_used="unless-none"),
    WithJsonSchema({"type": "string", "maxLength": MAX_VERSION, "pattern": f"^{VERSION_PATTERN}$"}),
]
_Compatible = Annotated[
    str,
    AfterValidator(check_compatible),
    WithJsonSchema({"type": "string", "pattern": f"^{COMPATIBLE_PATTERN}$"}),
]
_Pattern = Annotated[
    str,
    AfterValidator(_check_pattern),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": _MAX_PATTERN}),
]


class ReleaseToml(BaseModel):
    """The content of .abupdate/release.toml. Keys that are not listed here are let be."""

    # Fields in the order in which they are written. `model_extra` has the unknown keys.
    model_config = ConfigDict(
        extra="allow", frozen=True, strict=True, json_schema_extra=_as_in_a_file
    )

    format: Literal[1] = Field(
        default=FORMAT, description="Rises when a reader must understand what is new."
    )
    needs_abupdate: _VersionText | SkipJsonSchema[None] = Field(
        default=None,
        description="The lowest abupdate that reads this format; told by one that does not.",
    )
    version: _VersionText = Field(description="The release's version.")
    compatible: _Compatible = Field(
        description="The product that it is made for, compared byte by byte."
    )
    floor: _VersionText | SkipJsonSchema[None] = Field(
        default=None,
        description="The lowest version that a device may run once this release is confirmed; "
        "not above `version`.",
    )
    min_from: _VersionText | SkipJsonSchema[None] = Field(
        default=None, description="The lowest version to update from; not above `version`."
    )
    bytes: int = Field(
        ge=0, le=_MAX_COUNT, description="Bytes of content that a slot must have room for."
    )
    inodes: int = Field(
        ge=0, le=_MAX_COUNT, description="Files, directories and other nodes of the content."
    )
    created: int = Field(
        ge=0,
        le=_LAST_SECOND,
        description="Seconds since the epoch: SOURCE_DATE_EPOCH, else the newest modification "
        "time of the content.",
    )
    fixups_write: tuple[_Pattern, ...] = Field(
        default=(),
        strict=False,  # TOML has lists, a frozen value has none
        description="Patterns of the paths that fixups may change; docs/release-format.md.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            release = handler(values)
        except ValidationError as error:
            raise _wrong(error) from error
        for name, limit in (("floor", release.floor), ("min_from", release.min_from)):
            if limit is not None and limit > release.version:
                raise UsageError(
                    f"{name} {limit} is above the release's own version {release.version}.",
                    f"Choose a {name} of {release.version} or lower.",
                )
        return release


def parse_release_toml(raw: bytes) -> ReleaseToml:
    """Read a `release.toml`. Raises `SourceError`, `RefusedError` for a newer format."""
    if len(raw) > MAX_TOML:
        raise SourceError(f"release.toml may have {MAX_TOML} bytes, found {len(raw)}.", _MAKE)
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourceError(f"release.toml is not TOML in UTF-8: {error}.", _MAKE) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(
            "release.toml has a number of thousands of digits, or hundreds of lists and tables "
            "in each other.",
            _MAKE,
        ) from error
    try:
        _check_format(table)
        _check_depth(table)
        return ReleaseToml.model_validate(table)
    except UsageError as error:
        raise SourceError(f"release.toml: {error.message}", _MAKE) from error


def format_release_toml(release: ReleaseToml) -> bytes:
    """The one text of a release's description: same values, same bytes."""
    values = release.model_dump(exclude_none=True)
    unknown = sorted(values.keys() - ReleaseToml.model_fields.keys())
    known = [key for key in ReleaseToml.model_fields if key in values]
    lines = [f"{key_text(key)} = {value_text(values[key])}" for key in known + unknown]
    raw = ("\n".join(lines) + "\n").encode("utf-8")
    if len(raw) > MAX_TOML:
        raise UsageError(
            f"release.toml may have {MAX_TOML} bytes; this would have {len(raw)}.",
            "Declare fewer or shorter patterns of fixups_write.",
        )
    return raw


_COUNT = f"a whole number from 0 to {_MAX_COUNT}"
_WANTED = {
    "format": f"a whole number from {FORMAT} to {_MAX_COUNT}",
    "compatible": "a text in quotes",
    "bytes": _COUNT,
    "inodes": _COUNT,
    "created": f"a whole number from 0 to {_LAST_SECOND}",
    "fixups_write": "a list of texts",
}


def _check_format(table: Mapping[str, object]) -> None:
    found = table.get("format")
    if type(found) is not int or not FORMAT <= found <= _MAX_COUNT:
        raise _must_be("format", _found(found) if "format" in table else "nothing")
    if found == FORMAT:
        return
    needs = "a newer abupdate"
    wanted = table.get("needs_abupdate")
    if isinstance(wanted, str):
        with suppress(UsageError):
            needs = f"abupdate >= {Version(wanted)}"
    raise RefusedError(
        f"The release has format {found} and needs {needs}; this abupdate reads format {FORMAT}.",
        "Install a release in between that brings the newer abupdate.",
    )


def _check_depth(table: Mapping[str, object]) -> None:
    for key, value in table.items():
        level = _containers([value])
        for _ in range(MAX_DEPTH):
            level = [inner for outer in level for inner in _containers(outer)]
        if level:
            raise UsageError(
                f"{value_text(key)[:80]} has more than {MAX_DEPTH} tables and lists in each other."
            )


def _containers(values: Mapping[str, object] | list[object]) -> list[Any]:
    inside = values.values() if isinstance(values, Mapping) else values
    return [value for value in inside if isinstance(value, dict | list)]


def _wrong(error: ValidationError) -> UsageError:
    first = error.errors(include_url=False, include_context=False)[0]
    key, *within = first["loc"]
    found = "nothing" if first["type"] == "missing" else _found(first["input"])
    return _must_be(str(key), f"{found} in it" if within else found)


def _must_be(key: str, found: str) -> UsageError:
    return UsageError(f"{key} must be {_WANTED.get(key, 'a version in quotes')}, found {found}.")


def _found(value: object) -> str:
    """In few words, whatever it is: it may nest deep, and have more digits than Python writes."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return value_text(value)[:80]
