"""Results: medians, and ratios to the method that each group is measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.measure import Sample, median
from bench.methods import FULL, INSTALL, UPDATE, Method

_MEASURE = {FULL: "tar x", UPDATE: "rsync --delete", INSTALL: "RAUC, gzip bundle"}


def collect(
    wanted: Sequence[Method], samples: Mapping[str, Sequence[Sample]], memory: Mapping[str, int]
) -> list[dict[str, Any]]:
    """One record a method, ready for JSON. Seconds, bytes."""
    seconds = {m.name: median(samples[m.name], lambda sample: sample.seconds) for m in wanted}
    return [
        {
            "group": method.group,
            "name": method.name,
            "seconds": round(seconds[method.name], 3),
            "rounds": [round(sample.seconds, 3) for sample in samples[method.name]],
            "ratio": _ratio(seconds, method),
            "written": int(median(samples[method.name], lambda sample: sample.written)),
            "memory": memory[method.name],
            "lost": method.lost,
        }
        for method in wanted
    ]


def _ratio(seconds: Mapping[str, float], method: Method) -> float | None:
    base = seconds.get(_MEASURE[method.group])
    return round(seconds[method.name] / base, 3) if base else None


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = []
    for group, measure in _MEASURE.items():
        rows = [row for row in results if row["group"] == group]
        if not rows:
            continue
        lines += ["", f"| {group} | s | ÷ {measure} | MB written | peak MB | not written |",
                  "|---|---|---|---|---|---|"]  # fmt: skip
        for row in rows:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            lines.append(
                f"| {row['name']} | {row['seconds']:.2f} | {ratio} | {row['written'] / 1e6:.0f} "
                f"| {row['memory'] / 1e6:.0f} | {row['lost']} |"
            )
    return "\n".join(lines)
