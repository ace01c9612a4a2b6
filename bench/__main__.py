"""`make bench`: every method in turn, round after round; a table at the end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cache

from bench import methods, parts, report
from bench.measure import Sample, peak_memory, timed
from bench.methods import Method
from bench.slot import Slot, slot

_SLOT = 2400 << 20


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each method")
    parser.add_argument("--only", default="", help="methods to run, separated by commas")
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    arguments = parser.parse_args()
    only = set(filter(None, arguments.only.split(",")))
    made = parts.build(lambda text: print(f"{text} …", file=sys.stderr, flush=True))
    folder = cache.directory() / "bench-run"
    folder.mkdir(exist_ok=True)
    with slot(folder, "target", _SLOT) as target:
        wanted = [m for m in methods.all_of(made, target) if not only or m.name in only]
        images = {m.start: _start(m, target, folder) for m in wanted}
        samples: dict[str, list[Sample]] = {method.name: [] for method in wanted}
        for number in range(arguments.rounds):
            for method in wanted:
                with _ready(method, target, images[method.start]):
                    sample = timed(target, method.commands, method.mounted)
                samples[method.name].append(sample)
                print(f"{number + 1}/{arguments.rounds}  {method.name:<32} {sample.seconds:6.2f} s "
                      f"{sample.written / 1e6:8.1f} MB", file=sys.stderr, flush=True)  # fmt: skip
        memory = {}
        for method in wanted:
            with _ready(method, target, images[method.start]):
                memory[method.name] = peak_memory(method.commands)
    result = report.collect(wanted, samples, memory)
    print(report.table(result))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _start(method: Method, target: Slot, folder: Path) -> Path | None:
    """An image of what the slot holds before a method runs."""
    if method.start is None:
        return None
    image = folder / f"{method.start.name}.start"
    if not image.exists():
        target.clear("rootB")
        with target.mounted():
            method.start.fill(target.mountpoint)
            target.sync()
        target.save(image)
    return image


@contextmanager
def _ready(method: Method, target: Slot, image: Path | None) -> Iterator[None]:
    if image is None:
        target.clear()
    else:
        target.fill(image)
    if not method.mounted:
        yield
        return
    with target.mounted():
        yield


if __name__ == "__main__":
    started = time.monotonic()
    code = main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(code)
