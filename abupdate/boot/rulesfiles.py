"""The rules on the boot partition: both files, their sums, and which one GRUB runs.

Only what GRUB does not use is ever written, and `rules.env`, whose change is one
sector, decides. A cut at any write leaves what runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from abupdate.boot import inplace, rules
from abupdate.boot.rules import CHOICE, NAMES, Choice, ChoiceLostError, Rules
from abupdate.failpoints import failpoint


@dataclass(frozen=True)
class RulesFile:
    """Rules on the boot partition. `whole`: they match their checksum."""

    rules: Rules
    whole: bool


@dataclass(frozen=True)
class RulesReading:
    """What GRUB would find now.

    `choice` is None when `rules.env` is lost; `files` holds None where there is no file, or an
    empty one. `problems` says what is wrong, for a person.
    """

    choice: Choice | None
    files: Mapping[str, RulesFile | None]
    problems: tuple[str, ...]

    def whole(self, name: str) -> Rules | None:
        """These rules, if they are there and match their checksum."""
        found = self.files[name]
        return found.rules if found is not None and found.whole else None

    @property
    def first(self) -> str | None:
        """What GRUB runs when nothing is to be tried: `use`, or what else is whole."""
        use = self.choice.use if self.choice is not None else NAMES[0]
        order = (use, rules.other_name(use))
        return next((name for name in order if self.whole(name) is not None), None)


class RulesFiles:
    """All of them, in `directory` (`grub/` of the boot partition).

    `writable` is entered for the time of a write, for a boot partition that is
    mounted read-only.
    """

    def __init__(
        self,
        directory: Path,
        writable: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._directory = directory
        self._writable = writable

    def read(self) -> RulesReading:
        """What GRUB would find now. Never writes; what is lost is a problem, not an error."""
        problems: list[str] = []
        choice = None
        raw = self._content(CHOICE, problems)
        if raw is not None:
            try:
                choice = rules.decode(raw)
            except ChoiceLostError as error:
                problems.append(f"{self._directory / CHOICE}: {error.message}")
        return RulesReading(
            choice, {name: self._file(name, problems) for name in NAMES}, tuple(problems)
        )

    def write(self, name: str, new: Rules) -> None:
        """Put rules in the place of `name`, which must not be what GRUB uses; read back.

        A cut leaves them damaged; their checksum then tells GRUB. Raises `DeviceFaultError`.
        """
        with inplace.locked(self._directory), self._writable():
            self._put(rules.config_name(name), new.content)
            failpoint("rules-written")
            self._put(rules.sums_name(name), rules.sums(name, new))
            failpoint("rules-summed")

    def write_sums(self, name: str, right: Rules) -> None:
        """The checksum alone, of rules that are known to be whole."""
        with inplace.locked(self._directory), self._writable():
            self._put(rules.sums_name(name), rules.sums(name, right))

    def choose(self, choice: Choice) -> None:
        """Say which rules GRUB runs: the old choice or this one, wherever the power goes."""
        raw = rules.encode(choice)
        with inplace.locked(self._directory), self._writable():
            path = self._directory / CHOICE
            inplace.put(path, raw, "choice of rules", over=inplace.changes_one_sector(path, raw))
            failpoint("rules-chosen")

    def _file(self, name: str, problems: list[str]) -> RulesFile | None:
        content = self._content(rules.config_name(name), problems)
        if content is None:
            return None
        found = rules.parse(content)
        stated = self._content(rules.sums_name(name), problems)
        whole = stated == rules.sums(name, found)
        if stated is not None and not whole:
            path = self._directory / rules.config_name(name)
            problems.append(f"{path}: does not match {rules.sums_name(name)}")
        return RulesFile(found, whole)

    def _content(self, name: str, problems: list[str]) -> bytes | None:
        path = self._directory / name
        try:
            found = inplace.read_from_disk(path, inplace.LIMIT)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            return None
        if not found:
            problems.append(f"{path}: empty")
        return found or None

    def _put(self, name: str, raw: bytes) -> None:
        path = self._directory / name
        inplace.put(path, raw, "boot rules", over=inplace.keeps_length(path, raw))
