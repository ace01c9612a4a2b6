"""`make bench`: every method in turn, round after round; a table at the end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cache

from bench import device, methods, parts, report
from bench.measure import Sample, peak_memory, timed
from bench.methods import Method
from bench.slot import slot

_SLOT = 2400 << 20


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each method")
    parser.add_argument("--only", default="", help="methods or groups, separated by commas")
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    arguments = parser.parse_args()
    if missing := methods.missing_programs():
        parser.error(f"not installed: {', '.join(missing)}; `make bench` installs them")
    only = set(filter(None, arguments.only.split(",")))
    made = parts.build(lambda text: print(f"{text} …", file=sys.stderr, flush=True))
    folder = cache.directory() / "bench-run"
    folder.mkdir(exist_ok=True)
    with slot(folder, "target", _SLOT) as target, device.device(made.device) as installing:
        every = methods.all_of(made, target, installing, folder)
        wanted = [m for m in every if not only or {m.name, m.group} & only]
        samples = _rounds(wanted, arguments.rounds)
        memory = {}
        for method in wanted:
            with method.ready() as service:
                memory[method.name] = peak_memory(method.commands, service)
    result = report.collect(wanted, samples, memory)
    print(report.table(result))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _rounds(wanted: Sequence[Method], rounds: int) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {method.name: [] for method in wanted}
    for number in range(rounds):
        for method in wanted:
            with method.ready():
                sample = timed(method.slot, method.commands, method.synced)
            samples[method.name].append(sample)
            print(f"{number + 1}/{rounds}  {method.name:<32} {sample.seconds:6.2f} s "
                  f"{sample.written / 1e6:8.1f} MB", file=sys.stderr, flush=True)  # fmt: skip
    return samples


if __name__ == "__main__":
    started = time.monotonic()
    code = main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(code)
