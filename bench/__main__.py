"""`make bench`: every method in turn, round after round; a table at the end."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cache

from bench import device, growth, methods, parts, plot, report
from bench.measure import Sample, peak_memory, timed
from bench.methods import Method
from bench.slot import slot

_SLOT = 2400 << 20
_GROWTH = "growth"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each method")
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help=f"a method, or a group ({', '.join(report.GROUPS)}, {_GROWTH}); "
                        "may be given again")  # fmt: skip
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    parser.add_argument("--plot", type=Path, help="file for them as a picture (SVG)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("one round at least")
    if missing := methods.missing_programs():
        parser.error(f"not installed: {', '.join(missing)}; `make bench` installs them")
    results = _measure(set(arguments.only), arguments.rounds)
    print(report.text(results))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.plot is not None and results["methods"]:
        plot.draw(results, arguments.plot)
    return 0


def _measure(only: set[str], rounds: int) -> dict[str, Any]:
    made = parts.build(_say)
    folder = cache.directory() / "bench-run"
    folder.mkdir(exist_ok=True)
    with slot(folder, "target", _SLOT) as target, device.device(made.device) as installing:
        every = methods.all_of(made, target, installing)
        if unknown := only - {word for m in every for word in (m.name, m.group)} - {_GROWTH}:
            raise SystemExit(f"no such method: {', '.join(sorted(unknown))}")
        wanted = [m for m in every if not only or {m.name, m.group} & only]
        samples = _rounds(wanted, rounds)
        memory = {}
        for method in wanted:
            _say(f"memory of {method.name}")
            with method.ready() as service:
                memory[method.name] = peak_memory(method.commands, service)
        results: dict[str, Any] = {
            "changed": made.changed,
            "methods": report.collect(wanted, samples, memory),
        }
        if not only or _GROWTH in only:
            results["growth"] = growth.measure(target, rounds, _say)
    return results


def _say(what: str) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)


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
