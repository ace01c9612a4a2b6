"""Every state of the rules on the boot partition, and what the switch makes of it in real GRUB.

python -m tests.grub.switchbox                 every state, under BIOS
python -m tests.grub.switchbox --firmware uefi --count 40
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from abupdate.boot import rules
from abupdate.boot.grubenv import encode
from abupdate.boot.rules import Choice, Rules
from abupdate.boot.state import arm, begin, provision
from tests.grub.grubbox import GRUB, Booted, Disk, Firmware, boot, build_disk
from tests.grub.sweep import no_wait

SEED = 20261123
NO_RULES = "abupdate: no rules decide what boots"

OWN = rules.filled((GRUB / rules.SOURCE).read_bytes())
# Ends, with all that it can leave behind: a kernel that is loaded, functions, variables.
RETURNING = rules.filled(
    b"""\
set rules=2
function load { false; }
function start { false; }
function probe { false; }
set copy=grubenv.bak
set root=(hd7)
export copy
for name in "" -probe; do
  if linux (hd0,gpt4)/boot/vmlinuz$name left=behind; then initrd (hd0,gpt4)/boot/initrd$name; fi
done
} ) fi done
if true; then
"""
)

# A file's condition: whether it is there, matches its checksum, and decides what boots.
FILES = {
    "sound": (True, True, True),
    "missing": (False, False, False),
    "empty": (False, False, False),
    "cut": (True, False, False),
    "cut in the last statement": (True, False, False),
    "returns": (True, True, False),
    "other sum": (True, False, True),
    "no sum": (True, False, True),
    "empty sum": (True, False, True),
}
CHOICES: dict[str, Choice | None] = {
    **{f"{use}, try {tried}": Choice(use, tried) for use in "ab" for tried in "abx"},
    **dict.fromkeys(("missing", "empty", "43 bytes", "other format", "no end", "random")),
}


@dataclass(frozen=True)
class SwitchCase:
    """One start: what `rules.env` says, how the two files are, whether a slot is on trial."""

    choice: str
    a: str
    b: str
    armed: bool = False

    def __str__(self) -> str:
        return f"{self.choice}; a {self.a}; b {self.b}{'; armed' if self.armed else ''}"

    @property
    def _tried(self) -> str:
        choice = CHOICES[self.choice]
        return choice.tried if choice is not None and not self.armed else "x"

    def expected(self, *, hashes: bool = True, saves: bool = True) -> tuple[str | None, bytes]:
        """Which rules start a system, and what `rules.env` holds then."""
        conditions = {name: FILES[text] for name, text in (("a", self.a), ("b", self.b))}
        done = rules.switch(
            CHOICES[self.choice],
            [name for name, (there, _, _) in conditions.items() if there],
            [name for name, (_, whole, _) in conditions.items() if whole],
            waits=self.armed,
            hashes=hashes,
            saves=saves,
        )
        runs = next((name for name in done.order if conditions[name][2]), None)
        if not hashes and saves and done.order[:1] == (self._tried,) and runs != self._tried:
            runs = None  # the machine starts anew
        return runs, rules.encode(done.choice) if done.choice else block(self.choice) or b""


def every() -> list[SwitchCase]:
    """All: each choice with each pair of files; on trial, where something is to be tried."""
    found = [SwitchCase(*row) for row in itertools.product(CHOICES, FILES, FILES)]
    tries = [name for name, choice in CHOICES.items() if choice and choice.tried != "x"]
    return found + [SwitchCase(name, a, "sound", True) for name in tries for a in FILES]


def spread(count: int) -> list[SwitchCase]:
    """That many of them, the same in each run."""
    return random.Random(SEED).sample(every(), count)


def block(name: str) -> bytes | None:
    """The bytes of `rules.env`."""
    choice = CHOICES[name]
    if choice is not None:
        return rules.encode(choice)
    whole = rules.encode(Choice("b", "a"))
    return {
        "missing": None,
        "empty": b"",
        "43 bytes": whole[:43],
        "other format": whole.replace(b"fmt=1", b"fmt=2"),
        "no end": whole.replace(b"end=1", b"#####"),
        "random": random.Random(SEED).randbytes(1024),
    }[name]


def prepare(disk: Disk, case: SwitchCase) -> None:
    """Make the boot partition so."""
    state = provision(3, 8)
    if case.armed:
        state = arm(begin(state, "B", "A"), "B")
    files = {"grubenv": encode(state), rules.CHOICE: block(case.choice)}
    for name, condition in (("a", case.a), ("b", case.b)):
        files |= _files(name, condition)
    there = disk.list_boot("grub")
    for path, content in files.items():
        if content is not None or path in there:
            disk.write_boot(f"grub/{path}", content)


def put_tried(disk: Disk, new: Rules) -> None:
    """Rules that the next boot is to try, beside sound ones."""
    disk.write_boot("grub/rules-b.cfg", new.content)
    disk.write_boot("grub/rules-b.sha256", rules.sums("b", new))
    disk.write_boot(f"grub/{rules.CHOICE}", rules.encode(Choice("a", "b")))


def _files(name: str, condition: str) -> dict[str, bytes | None]:
    own: Rules = RETURNING if condition == "returns" else OWN
    end = OWN.content.rstrip(b"#\n")
    content = {
        "missing": None,
        "empty": b"",
        "cut": end[: len(end) // 2],
        "cut in the last statement": end[:-3],
    }.get(condition, own.content)
    stated = {
        "other sum": rules.sums(name, RETURNING),
        "no sum": None,
        "empty sum": b"",
    }.get(condition, rules.sums(name, own))
    return {rules.config_name(name): content, rules.sums_name(name): stated}


def check(
    disk: Disk,
    case: SwitchCase,
    firmware: Firmware = "bios",
    *,
    hashes: bool = True,
    saves: bool = True,
) -> Booted:
    """Boot it; raises AssertionError where it differs from the rules."""
    prepare(disk, case)
    found = boot(disk, firmware, readonly=not saves, until=NO_RULES)
    runs, choice = case.expected(hashes=hashes, saves=saves)
    assert found.arguments.rules == runs, f"{case}: {found.arguments.rules}\n{found.text}"
    if runs is not None:
        wanted = "B" if case.armed and saves else "A"
        assert found.kernel == f"kernel-{wanted}" and "left=behind" not in found.cmdline, found.text
    left = disk.read_boot(f"grub/{rules.CHOICE}") if block(case.choice) is not None else b""
    assert left == choice, f"{case}: {left!r}\n{found.text}"
    return found


_disks: list[Disk] = []


def _start(image: Path, scratch: Path) -> None:
    _disks.append(Disk(image).copy(Path(tempfile.mkdtemp(dir=scratch)) / "disk.img"))


def _check(case: SwitchCase, firmware: Firmware) -> str:
    try:
        check(_disks[0], case, firmware)
    except AssertionError as error:
        return str(error)
    return ""


def sweep(cases: Sequence[SwitchCase], sound: Disk, firmware: Firmware = "bios") -> list[str]:
    """Boot all of them, side by side; what differs."""
    with tempfile.TemporaryDirectory(prefix="abupdate-switch-") as name:
        words = (sound.image, Path(name))
        with ProcessPoolExecutor(2, initializer=_start, initargs=words) as pool:
            told = pool.map(_check, cases, itertools.repeat(firmware))
            return [text for text in told if text]


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, help="some of them (default: all)")
    parser.add_argument("--firmware", choices=("bios", "uefi"), default="bios")
    parser.add_argument("--only", default="", help="states whose name has this text")
    options = parser.parse_args()
    cases = spread(options.count) if options.count else every()
    cases = [case for case in cases if options.only in str(case)]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="abupdate-switch-") as name:
        build_disk(Path(name) / "disk.img")
        found = sweep(cases, no_wait(Disk(Path(name) / "disk.img")), options.firmware)
    print("".join(f"DIFFERS: {text}\n" for text in found), end="")
    print(
        f"{len(cases)} states of the rules booted, {options.firmware}: {len(found)} differences, "
        f"{time.monotonic() - start:.0f} s"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
