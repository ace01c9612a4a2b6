"""Which rules GRUB runs: the format of `rules.env`, of the two rules files and of their sums.

The boot partition holds the rules twice, as `rules-a.cfg` and `rules-b.cfg`, and
`grub.cfg` (the switch) runs one of them, as `rules.env` says. That is an
environment block in one sector, like `grubenv`: `use` names what runs, `try`
what GRUB runs once before it goes back to `use` (docs/compatibility.md).

A rules file states its number, by which newer is told from older, and which
formats of the boot state it reads (`fmt` of `grubenv`, one character each). On
the boot partition each has the same length, filled up with comments, so that
one can be replaced without any change of the FAT.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from abupdate.boot.envblock import SIZE, format_block, parse_block
from abupdate.boot.inplace import SECTOR
from abupdate.boot.state import NONE
from abupdate.errors import DeviceFaultError

SWITCH, SOURCE, CHOICE = "grub.cfg", "rules.cfg", "rules.env"
NAMES = ("a", "b")
# What `abupdate.boot.grubenv` writes.
FORMAT = "1"

# Each file on the boot partition is a multiple of this, in bytes.
ROOM = 32 * 1024
_FILLING = b"#" * 63 + b"\n"
# Where the number and the formats stand, in bytes from the beginning.
_HEAD = 4096
_NUMBER = re.compile(rb"^set rules=([1-9][0-9]{0,5})$", re.MULTILINE)
_FORMATS = re.compile(rb"^set rules_formats=([0-9]{1,10})$", re.MULTILINE)

# Every value that may be, in the order of the file. `grub.cfg` checks the same.
_VALUES: Mapping[str, str] = {"fmt": "1", "use": "[ab]", "try": "[abx]", "end": "1"}


class ChoiceLostError(DeviceFaultError):
    """`rules.env` is not whole; GRUB does not go by it either."""


@dataclass(frozen=True)
class Choice:
    """What `rules.env` says. `use`: a or b; `tried`: a, b, or x for none (the variable `try`)."""

    use: str
    tried: str = NONE

    @property
    def tried_or_use(self) -> str:
        """What the next boot begins with."""
        return self.use if self.tried == NONE else self.tried


@dataclass(frozen=True)
class Rules:
    """A rules file as it is on the boot partition.

    `number` is 0 and `formats` empty where it says none; `digest` is its SHA-256 in hex.
    """

    content: bytes
    number: int
    formats: str
    digest: str

    @property
    def readable(self) -> bool:
        """Whether these rules read the boot state that this abupdate writes."""
        return FORMAT in self.formats


def other_name(name: str) -> str:
    """The rules that these are not."""
    return "b" if name == "a" else "a"


def config_name(name: str) -> str:
    """The file of rules `name`."""
    return f"rules-{name}.cfg"


def sums_name(name: str) -> str:
    """The file with their checksum."""
    return f"rules-{name}.sha256"


def decode(raw: bytes) -> Choice:
    """The choice in a block. Raises `ChoiceLostError` exactly where GRUB takes it as lost."""
    found = parse_block(raw)
    if found is None:
        raise ChoiceLostError(f"not a GRUB environment block ({len(raw)} bytes)")
    for name, pattern in _VALUES.items():
        value = found.get(name)
        if value is None or not re.fullmatch(pattern, value):
            raise ChoiceLostError(f"'{name}' should be {pattern}, found {value!r:.40}")
    return Choice(found["use"], found["try"])


def encode(choice: Choice) -> bytes:
    """The 1024 bytes of a block. Raises ValueError for a choice that GRUB would not take."""
    raw = format_block({"fmt": "1", "use": choice.use, "try": choice.tried, "end": "1"})
    if len(raw) != SIZE or raw[SECTOR:].strip(b"#") or decode(raw) != choice:
        raise ValueError(f"{choice} does not fit into one sector")
    return raw


def parse(content: bytes) -> Rules:
    """What a rules file says of itself; never raises."""
    number, formats = _NUMBER.search(content[:_HEAD]), _FORMATS.search(content[:_HEAD])
    return Rules(
        content,
        int(number[1]) if number else 0,
        formats[1].decode() if formats else "",
        hashlib.sha256(content).hexdigest(),
    )


def filled(source: bytes) -> Rules:
    """The rules of a release (`rules.cfg`) as they go on the boot partition: filled up."""
    text = source if source.endswith(b"\n") else source + b"\n"
    missing = -len(text) % ROOM
    lines, rest = divmod(missing, len(_FILLING))
    return parse(text + _FILLING[len(_FILLING) - rest :] + _FILLING * lines)


def sums(name: str, rules: Rules) -> bytes:
    """The checksum of rules `name`, as `hashsum --check` of GRUB and `sha256sum -c` read it."""
    return f"{rules.digest}  {config_name(name)}\n".encode()


class Fit(StrEnum):
    """How the rules that a release brings stand to those that GRUB uses (docs/compatibility.md)."""

    SAME = "same"
    NEWER = "newer"  # they take the place of the others
    OLDER = "older"  # the others stay: a release from before runs by them as well
    DIFFERENT = "different"  # of one number, and not the same
    FORGETFUL = "forgetful"  # newer, and do not read a format that the others read
    UNKNOWN = "unknown"  # they do not say what they are


def fit(own: Rules, used: Rules) -> Fit:
    """How `own` stands to `used`."""
    if own.content == used.content:
        return Fit.SAME
    if not own.number or not own.readable:
        return Fit.UNKNOWN
    if own.number == used.number:
        return Fit.DIFFERENT
    if own.number < used.number:
        return Fit.OLDER
    return Fit.NEWER if set(used.formats) <= set(own.formats) else Fit.FORGETFUL


@dataclass(frozen=True)
class Switched:
    """One run of the switch: the rules that it runs in turn, while they return, and the choice
    that `rules.env` holds afterwards.
    """

    order: tuple[str, ...]
    choice: Choice | None


def switch(
    choice: Choice | None,
    there: Collection[str],
    whole: Collection[str],
    *,
    waits: bool = False,
    hashes: bool = True,
    saves: bool = True,
) -> Switched:
    """What `grub/grub.cfg` does; the tests boot the real one and compare.

    `there`: the files that are not missing or empty, `whole`: those that match their checksum.
    `waits`: a slot is armed or on trial, or rescue is asked for. `hashes`: this GRUB can tell
    which. `saves`: it can write.
    """
    use, tried = (choice.use, choice.tried) if choice is not None else (NAMES[0], NONE)
    order = (use, other_name(use))
    run = []
    if tried in there and not waits and saves and (tried in whole or not hashes):
        run.append(tried)
        choice = Choice(use)
    if hashes:
        run += [name for name in order if name in there and name in whole]
    run += [name for name in order if name in there]
    return Switched(tuple(dict.fromkeys(run)), choice)
