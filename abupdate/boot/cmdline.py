"""What GRUB and a slot tell each other: kernel arguments, `abupdate.env`, `SHA256SUMS`.

A slot describes itself in `/boot/abupdate.env`, a GRUB environment block with
the names `kernel`, `initrd` and `cmdline`, which GRUB's rules load with a
whitelist: nothing of a slot is ever run as a script. `/boot/SHA256SUMS` lists
what GRUB checks before it starts the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from abupdate.boot.envblock import format_block, parse_block
from abupdate.errors import UsageError

SlotName = Literal["A", "B", "R"]
How = Literal["normal", "trial", "fallback", "rescue"]
RulesName = Literal["a", "b"]

_PATH = re.compile(r"/boot/[A-Za-z0-9][A-Za-z0-9._+~-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# GRUB would expand the first four and put a backslash before the others.
_NOT_IN_CMDLINE = set("*?[]\"'\\")
# x86 kernels take 2047 bytes; the rest is for what GRUB's rules add.
_CMDLINE_LIMIT = 1792
_OWN = ("abupdate.slot=", "abupdate.boot=", "abupdate.etc=", "abupdate.rules=")


@dataclass(frozen=True)
class BootArguments:
    """What GRUB told the kernel; None where it said nothing, or nothing known.

    `rules`: which of the two rules files started it; `rules_lost`: none of them did
    (grub/lost.cfg), and GRUB saved nothing.
    """

    slot: SlotName | None
    how: How | None
    root_partuuid: str | None
    etc_clean: bool
    rules: RulesName | None = None
    rules_lost: bool = False


@dataclass(frozen=True)
class SlotBoot:
    """What `/boot/abupdate.env` says. Paths are from the slot's root, below `/boot`."""

    kernel: str
    initrd: str
    cmdline: str


def parse(text: str) -> BootArguments:
    """Read `/proc/cmdline`. The last word of a name counts, as for the kernel; never raises."""
    found: dict[str, str] = {}
    for word in text.split():
        if word == "--":
            break  # what follows is for init
        name, _, value = word.partition("=")
        found[name] = value
    slot, how = found.get("abupdate.slot"), found.get("abupdate.boot")
    rules = found.get("abupdate.rules")
    kind, _, uuid = found.get("root", "").partition("=")
    return BootArguments(
        slot=cast(SlotName, slot) if slot in ("A", "B", "R") else None,
        how=cast(How, how) if how in ("normal", "trial", "fallback", "rescue") else None,
        root_partuuid=uuid.lower() if kind == "PARTUUID" and uuid else None,
        etc_clean=found.get("abupdate.etc") == "clean",
        rules=cast(RulesName, rules) if rules in ("a", "b") else None,
        rules_lost=rules == "lost",
    )


def abupdate_env(kernel: str, initrd: str, cmdline: str) -> bytes:
    """The bytes of `/boot/abupdate.env`. Raises `UsageError` for what GRUB would not read right.

    `root=`, `ro` and every `abupdate.` argument come from GRUB's rules.
    """
    boot = SlotBoot(kernel, initrd, " ".join(cmdline.split()))
    _check(boot)
    return format_block({"kernel": boot.kernel, "initrd": boot.initrd, "cmdline": boot.cmdline})


def parse_abupdate_env(raw: bytes) -> SlotBoot:
    """Read `/boot/abupdate.env` as GRUB does. Raises `UsageError`."""
    values = parse_block(raw)
    if values is None:
        raise UsageError("/boot/abupdate.env should be a GRUB environment block; it is not one.")
    missing = [name for name in ("kernel", "initrd") if not values.get(name)]
    if missing:
        raise UsageError(f"/boot/abupdate.env should say {' and '.join(missing)}; it does not.")
    boot = SlotBoot(values["kernel"], values["initrd"], values.get("cmdline", ""))
    _check(boot)
    return boot


def _check(boot: SlotBoot) -> None:
    for what, path in (("kernel", boot.kernel), ("initrd", boot.initrd)):
        if not _PATH.fullmatch(path):
            raise UsageError(
                f"The {what} in /boot/abupdate.env should be a file in /boot with a plain name, "
                f"found {path!r}."
            )
    bad = sorted({c for c in boot.cmdline if c in _NOT_IN_CMDLINE or not " " <= c <= "~"})
    if bad:
        raise UsageError(
            "The kernel command line should be plain ASCII that GRUB hands on unchanged, found "
            f"{' '.join(map(repr, bad))}."
        )
    if len(boot.cmdline) > _CMDLINE_LIMIT:
        raise UsageError(
            f"The kernel command line should have at most {_CMDLINE_LIMIT} characters, "
            f"found {len(boot.cmdline)}."
        )
    for word in boot.cmdline.split():
        name = word.partition("=")[0]
        own = word.startswith(_OWN)
        if name in ("root", "--") or own:
            raise UsageError(
                f"The kernel command line of a release may not say '{word}': GRUB's rules "
                "decide that."
            )


def sha256sums(digests: Mapping[str, str]) -> bytes:
    """The text of `/boot/SHA256SUMS`: name relative to `/boot` → SHA-256 in hex.

    GRUB reads it with `hashsum --check --prefix`; so does `sha256sum -c`.
    """
    for name, digest in digests.items():
        if not _NAME.fullmatch(name) or not _SHA256.fullmatch(digest):
            raise UsageError(
                f"A line of SHA256SUMS should be 64 hex digits and a plain name, "
                f"found {digest!r} {name!r}."
            )
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def parse_sha256sums(raw: bytes) -> dict[str, str]:
    """Read `/boot/SHA256SUMS`. Raises `UsageError`."""
    found: dict[str, str] = {}
    for line in raw.decode("ascii", "replace").splitlines():
        digest, _, name = line.partition("  ")
        if not _SHA256.fullmatch(digest) or not _NAME.fullmatch(name) or name in found:
            raise UsageError(f"A line of /boot/SHA256SUMS is not as expected: {line[:120]!r}.")
        found[name] = digest
    return found
