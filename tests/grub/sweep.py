"""Boots many cases side by side, and says how many differ from the rules.

python -m tests.grub.sweep --all            every case, under BIOS
python -m tests.grub.sweep --count 100 --firmware uefi
python -m tests.grub.sweep --all --other    with the other Debian's GRUB
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from abupdate.boot.envblock import format_block
from abupdate.disk.grubimage import GRUB_LIBRARY
from tests.grub import cases, other_grub
from tests.grub.bench import Bench
from tests.grub.cases import Case
from tests.grub.grubbox import Disk, Firmware, build_disk

# Each worker boots on a disk of its own.
_benches: list[Bench] = []


@dataclass(frozen=True)
class Difference:
    """A case that did not go by the rules, and what was seen."""

    case: Case
    seen: str


def sweep(
    wanted: Sequence[Case],
    sound: Disk,
    firmware: Firmware = "bios",
    jobs: int | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Generator[Difference, None, None]:
    """Boot all of them on copies of a sound disk; `report` is told how many are done.

    What is left is not booted when the caller has seen enough.
    """
    with _scratch() as scratch:
        words = (sound.image, scratch, firmware)
        pool = ProcessPoolExecutor(jobs or os.cpu_count(), initializer=_start, initargs=words)
        try:
            for done, difference in enumerate(pool.map(_check, wanted), 1):
                report(done)
                if difference is not None:
                    yield difference
        finally:
            pool.shutdown(cancel_futures=True)


def no_wait(disk: Disk) -> Disk:
    """Tell its GRUB not to wait for a key."""
    disk.write_boot("grub/settings.env", format_block({"menu_wait": "0"}))
    return disk


def _start(image: Path, scratch: Path, firmware: Firmware) -> None:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    _benches.append(Bench(Disk(image), folder, firmware))


def _check(case: Case) -> Difference | None:
    try:
        _benches[0].check(case)
    except AssertionError as error:
        return Difference(case, str(error))
    return None


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="abupdate-grub-") as name:
        yield Path(name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="all cases instead of a spread")
    parser.add_argument("--count", type=int, default=300, help="cases of a spread (default: 300)")
    parser.add_argument("--firmware", choices=("bios", "uefi"), default="bios")
    parser.add_argument("--other", action="store_true", help="the other Debian's GRUB")
    parser.add_argument("--jobs", type=int, help="at a time (default: one a processor)")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--first", action="store_true", help="stop at the first difference")
    options = parser.parse_args()
    wanted = cases.every() if options.all else cases.spread(options.count)
    wanted = [case for case in wanted if options.only in str(case)]
    library = other_grub.library() if options.other else GRUB_LIBRARY
    start = time.monotonic()

    def report(done: int) -> None:
        if done % 200 == 0:
            print(f"{done} of {len(wanted)} boots, {time.monotonic() - start:.0f} s", flush=True)

    found = 0
    with _scratch() as scratch:
        build_disk(scratch / "disk.img", library)
        disk = no_wait(Disk(scratch / "disk.img"))
        differences = sweep(wanted, disk, options.firmware, options.jobs, report)
        with contextlib.closing(differences):
            for difference in differences:
                found += 1
                print(f"DIFFERS: {difference.case}\n{difference.seen}\n", flush=True)
                if options.first:
                    break
    version = other_grub.version(library)
    print(
        f"{len(wanted)} states booted with GRUB {version}, {options.firmware}: "
        f"{found} differences, {time.monotonic() - start:.0f} s"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
