"""`python -m tests.cuts.switch`: GRUB's rules are replaced, and the power goes at any write.

A small device gets newer rules, keeps them, gets others that do not work, and
has a file mended; userland's part runs on a real vfat (`fat.py`), GRUB's is GRUB.
Each content of the disk that a cut may leave is booted by real GRUB. It must
start the slot, by rules that are whole, and as `abupdate/boot/rules.py` says; the
boot state and the rules in use are whole in each.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "qemu"))

import cache
import write_log

from abupdate.boot import rules
from abupdate.boot.grubenv import BACKUP, PRIMARY, LostError, decode
from abupdate.boot.rules import Rules
from abupdate.boot.rulesfiles import RulesFiles, RulesReading
from tests.cuts import fat
from tests.cuts.record import Boot, Phase, Step
from tests.cuts.states import Content, Cut, cuts
from tests.grub.grubbox import NOTHING_BOOTS, Disk, boot, build_disk
from tests.grub.sweep import no_wait
from tests.grub.switchbox import NO_RULES, OWN, RETURNING, SwitchCase, prepare

SEED = 20261123
_TEXT = OWN.content.rstrip(b"#\n") + b"\n"
_NUMBER = b"set rules=%d\n"
# Other bytes in each sector: a line more here and there.
NEW = b"".join(
    line + (b"# line %d of newer rules\n" % number if number % 4 == 0 else b"")
    for number, line in enumerate(
        _TEXT.replace(_NUMBER % OWN.number, _NUMBER % (OWN.number + 1)).splitlines(keepends=True)
    )
)
BAD = (RETURNING.content.rstrip(b"#\n") + b"\n").replace(
    _NUMBER % 2, _NUMBER % (OWN.number + 2) + b"set rules_formats=%s\n" % OWN.formats.encode()
)
_ESP, _SLOT = 2, "A"
_A_BOOT = Boot("A", "normal")
_OURS = (*(rules.config_name(name) for name in rules.NAMES), rules.CHOICE)
_SUMS = tuple(rules.sums_name(name) for name in rules.NAMES)


@dataclass
class Replayed:
    """What a phase came to: cuts tried, states that differ, and how many of each outcome."""

    phase: Phase
    tried: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    unbootable: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def distinct(self) -> int:
        """How many different states were booted."""
        return self.outcomes.total()


class Life:
    """A device on which rules are replaced; `phases` are what was written to its disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        build_disk(folder / "disk.img")
        self.disk = no_wait(Disk(folder / "disk.img"))
        prepare(self.disk, SwitchCase("a, try x", "sound", "sound"))
        self.disk.write_boot(f"grub/{BACKUP}", self.disk.read_boot(f"grub/{PRIMARY}"))
        self._data: Mapping[str, str] = {}
        self.phases: list[Phase] = []

    def userland(
        self, name: str, release: bytes, runs: str, says: str, *, doctor: bool = False,
        broken: str = "",
    ) -> None:  # fmt: skip
        """A healthy boot's part, or a doctor's."""
        before, log = self._before()
        told = fat.userland(
            self.disk,
            log,
            release=release,
            runs=runs,
            data=self._data,
            doctor=doctor,
            broken=broken,
        )
        # A failure is a warning as well.
        assert says in (told.said or "") and told.warnings in ([], [told.said]), told
        self._data = told.data
        self._keep(name, before, log)

    def grub(self, name: str, runs: str) -> None:
        """A start of the machine."""
        before, log = self._before()
        found = boot(self.disk, log=log)
        assert (found.kernel, found.arguments.rules) == ("kernel-A", runs), found.text
        self._keep(name, before, log)

    def _before(self) -> tuple[Path, Path]:
        number = len(self.phases)
        before = self.disk.copy(self._folder / f"{number}.img").image
        return before, self._folder / f"{number}.log"

    def _keep(self, name: str, before: Path, log: Path) -> None:
        step = Step("switch", name, _A_BOOT)
        epochs = write_log.epochs(log) if log.stat().st_size else []  # nothing was written
        self.phases.append(Phase(step, before, epochs))
        log.unlink()


def short_life(folder: Path, broken: str = "") -> list[Phase]:
    """Newer rules are put beside those in use, and nothing more."""
    life = Life(folder)
    life.userland("newer rules", NEW, "a", "tries its new rules", broken=broken)
    return life.phases


def whole_life(folder: Path) -> list[Phase]:
    """All that there is: kept, failed, mended."""
    life = Life(folder)
    life.userland("newer rules", NEW, "a", "tries its new rules")
    life.grub("GRUB: they are tried", "b")
    life.userland("they are kept", NEW, "b", "are kept")
    life.grub("GRUB: normal boot", "b")
    life.userland("rules that fail", BAD, "b", "tries its new rules")
    life.grub("GRUB: they return", "b")
    life.userland("the failure is told", BAD, "b", "failed")
    life.disk.write_boot("grub/rules-a.cfg", None)
    life.disk.write_boot("grub/rules-a.sha256", b"")
    life.disk.write_boot(f"grub/{rules.CHOICE}", None)
    life.userland("doctor mends", NEW, "b", "written again", doctor=True)
    life.grub("GRUB: after that", "b")
    return life.phases


def recorded(folder: Path) -> list[Phase]:
    """The whole life that is kept in a folder; lived and kept there first if none is."""
    kept = folder / "switch.pickle"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(pickle.dumps(whole_life(folder)))
    found: list[Phase] = pickle.loads(kept.read_bytes())
    return found


class Judge:
    """Boots states of one phase."""

    def __init__(self, phase: Phase, folder: Path, *, mends: bool) -> None:
        self._folder = folder
        self.disk = Disk(phase.before).copy(folder / "disk.img")
        self._file = self.disk.image.open("r+b")
        extent = self.disk.extents[_ESP - 1]
        esp = {"esp": range(extent.start, extent.start + extent.size)}
        self.content = Content(mmap.mmap(self._file.fileno(), 0), esp)
        self._grubenv = self._boot_file(PRIMARY)
        self._by_grub = phase.step.name.startswith("GRUB")  # which counts its boots
        self._mends = mends

    def look(self) -> tuple[str, list[str]]:
        """What the content as it is now boots, and what is wrong; leaves it so."""
        reading = self._reading()
        faults = self._faults(reading)
        expected = self._expected(reading)
        before = self.content.read("esp")
        try:
            found = boot(self.disk, until=NO_RULES)
        except AssertionError as error:
            return "no boot", [*faults, f"GRUB stopped: {error}"]
        finally:
            self.disk.write_partition(_ESP, before)
        if found.kernel != f"kernel-{_SLOT}" or NOTHING_BOOTS in found.text:
            return "no boot", [*faults, f"it booted {found.kernel}: {found.text[-500:]}"]
        if found.arguments.rules != expected:
            faults.append(f"rules {found.arguments.rules} ran, expected {expected}")
        kept = reading.files[found.arguments.rules or "a"]
        number = kept.rules.number if kept is not None else None
        return f"rules {found.arguments.rules}, number {number}", faults

    def _expected(self, reading: RulesReading) -> str | None:
        there = [name for name in rules.NAMES if reading.files[name] is not None]
        whole = [name for name in there if reading.whole(name) is not None]
        for name in rules.switch(reading.choice, there, whole).order:
            found = reading.whole(name)
            if found is not None and not _returns(found):
                return name
        return None

    def _faults(self, reading: RulesReading) -> list[str]:
        faults = []
        for name in (PRIMARY, BACKUP):
            try:
                state = decode(self._boot_file(name))
                if name == PRIMARY and not self._by_grub and state != decode(self._grubenv):
                    faults.append(f"{name} changed")
            except (LostError, AssertionError) as error:
                faults.append(f"{name}: {error}")
        if self._mends:
            return faults
        if reading.choice is None:
            faults.append("the choice is lost")
        elif reading.whole(reading.choice.use) is None:
            faults.append(f"rules {reading.choice.use} are in use, and damaged")
        elif reading.choice.tried != "x" and reading.whole(reading.choice.tried) is None:
            faults.append(f"rules {reading.choice.tried} are to be tried, and damaged")
        return faults

    def _reading(self) -> RulesReading:
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            there = self.disk.list_boot("grub")
            for file in (*_OURS, *_SUMS):
                if file in there:
                    (Path(name) / file).write_bytes(self._boot_file(file))
            return RulesFiles(Path(name)).read()

    def _boot_file(self, name: str) -> bytes:
        return self.disk.read_boot(f"grub/{name}")


def _returns(found: Rules) -> bool:
    return found.number == OWN.number + 2


def replay(phase: Phase, scratch: Path, count: int, seed: int, jobs: int | None) -> Replayed:
    """Boot about `count` cuts of a phase, each different state once."""
    jobs = jobs or os.cpu_count() or 1
    done = Replayed(phase)
    with ProcessPoolExecutor(jobs) as pool:
        parts = [
            pool.submit(_part, phase, scratch, count, seed, number, jobs) for number in range(jobs)
        ]
        for part in parts:
            done.tried, found = part.result()
            for outcome, faults in found:
                done.outcomes[outcome] += 1
                done.unbootable += outcome == "no boot"
                done.faults += [f"{phase.step.name}: {fault}" for fault in faults]
    return done


def _part(
    phase: Phase, scratch: Path, count: int, seed: int, mine: int, of: int
) -> tuple[int, list[tuple[str, list[str]]]]:
    """One process's share."""
    found: dict[int, tuple[str, list[str]]] = {}
    tried = 0
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        judge = Judge(phase, Path(name), mends=phase.step.name == "doctor mends")
        for cut in _applied(judge, phase, cuts(phase, count, seed)):
            tried += 1
            (key,) = judge.content.keys().values()
            if key % of == mine and key not in found:
                outcome, faults = judge.look()
                told = f"{cut.epoch} flushes, then {len(cut.sectors)} sectors: "
                found[key] = outcome, [told + fault for fault in faults]
    return tried, list(found.values())


def _applied(judge: Judge, phase: Phase, wanted: Iterator[Cut]) -> Iterator[Cut]:
    """Each cut, with the disk as it leaves it for as long as the caller looks at it."""
    put, flushed = judge.content.put, 0
    for cut in wanted:
        while flushed < cut.epoch:
            for write in phase.epochs[flushed]:
                put(write.at, write.data)
            flushed += 1
        before = [(at, put(at, data)) for at, data in cut.sectors.items()]
        yield cut
        for at, data in before:
            put(at, data)


def main(words: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cuts of each phase (about)")
    parser.add_argument("--minimum", type=int, default=0, help="states that there must be")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", default="", help="phases whose name has this text")
    parser.add_argument("--keep", type=Path, help="a folder to keep what was recorded in")
    parser.add_argument("--jobs", type=int, help="at a time (default: one a processor)")
    options = parser.parse_args(words)
    start = time.monotonic()
    states = unbootable = faults = 0
    with tempfile.TemporaryDirectory(dir=cache.directory(), prefix=".switch-") as name:
        scratch = Path(name)
        print(
            "| phase | sectors | flushes | cuts | states | what runs |\n|---|---|---|---|---|---|"
        )
        for phase in recorded((options.keep or scratch).absolute()):
            if options.only not in phase.step.name:
                continue
            done = replay(phase, scratch, options.count, options.seed, options.jobs)
            ran = ", ".join(f"{count:,} x {what}" for what, count in done.outcomes.most_common())
            numbers = (phase.writes, len(phase.epochs), done.tried, done.distinct)
            print("|", " | ".join([phase.step.name, *(f"{n:,}" for n in numbers), ran]), "|")
            print("".join(f"  {fault}\n" for fault in done.faults[:10]), end="", flush=True)
            states += done.distinct
            unbootable += done.unbootable
            faults += len(done.faults)
    seconds = time.monotonic() - start
    print(f"\nswitch: {states:,} states, {unbootable} unbootable, {faults} faults, {seconds:.0f} s")
    return 1 if unbootable or faults or states < options.minimum else 0


if __name__ == "__main__":
    sys.exit(main())
