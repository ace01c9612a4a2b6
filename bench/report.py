"""Results as tables: medians, ratios within the run, and the figures that were aimed at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measure import Sample, median
from bench.methods import FULL, INSTALL, UPDATE, Method

# What each group is measured by, and how its table begins.
GROUPS = {
    FULL: ("tar x", "onto an empty slot"),
    UPDATE: ("rsync --delete", "over the older release"),
    INSTALL: ("RAUC, gzip bundle", "bundle file → installed"),
}
_MEMORY = 96_000_000
_BEGIN, _END = "<!-- figures: `make docs` -->", "<!-- end of figures -->"
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Put the figures of docs/benchmarks.json into docs/benchmarks.md."""
    path = DOCS / "benchmarks.md"
    results = json.loads((DOCS / "benchmarks.json").read_text())
    path.write_text(page(path.read_text(), results))


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
    base = seconds.get(GROUPS[method.group][0])
    return round(seconds[method.name] / base, 3) if base else None


def page(old: str, results: Mapping[str, Any]) -> str:
    """docs/benchmarks.md with the tables of these results in it."""
    before, _, rest = old.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n\n{text(results)}\n{_END}{after}"


def text(results: Mapping[str, Any]) -> str:
    """All tables, in Markdown."""
    parts = [*_methods(results["methods"])]
    if growth := results.get("growth"):
        parts.append(_growth(growth))
    parts.append(_bars(results))
    return "\n".join(parts)


def _methods(records: Sequence[Mapping[str, Any]]) -> list[str]:
    tables = []
    for group, (measure, title) in GROUPS.items():
        rows = [row for row in records if row["group"] == group]
        if not rows:
            continue
        lines = [f"| {title} | s | fastest to slowest | ÷ {measure} | MB written | peak MB "
                 "| not written |", "|---|---|---|---|---|---|---|"]  # fmt: skip
        for row in rows:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            lines.append(
                f"| {row['name']} | {row['seconds']:.2f} "
                f"| {min(row['rounds']):.2f} to {max(row['rounds']):.2f} | {ratio} "
                f"| {row['written'] / 1e6:.0f} | {row['memory'] / 1e6:.0f} | {row['lost']} |"
            )
        tables.append("\n".join(lines) + "\n")
    return tables


def _growth(growth: Mapping[str, Any]) -> str:
    lines = ["| small files | full, s | update, s | plan, full | plan, update | peak MB |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for files, found in growth.items():
        if files == "chmods":
            continue
        peak = max(found["memory_full"], found["memory_update"])
        lines.append(
            f"| {int(files):,} | {found['full']:.2f} | {found['update']:.2f} "
            f"| {found['plan_full']:.2f} | {found['plan_update']:.2f} | {peak / 1e6:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _bars(results: Mapping[str, Any]) -> str:
    lines = ["| figure | aim | reached |", "|---|---|---|"]
    for name, aim, value, show in _aims(results):
        verdict = "yes" if value <= aim else f"no, {value / aim if aim else value:.2f} times that"
        lines.append(f"| {name} | ≤ {show.format(aim)} | {show.format(value)}: {verdict} |")
    return "\n".join(lines) + "\n"


def _aims(results: Mapping[str, Any]) -> list[tuple[str, float, float, str]]:
    """What is aimed at: a name, the most that it may be, what it is, and how to write it."""
    methods = {row["name"]: row for row in results["methods"]}
    aims: list[tuple[str, float, float, str]] = []

    def ratio(name: str, aim: float, ours: str, theirs: str) -> None:
        if ours in methods and theirs in methods:
            found = methods[ours]["seconds"] / methods[theirs]["seconds"]
            aims.append((name, aim, found, "{:.2f}"))

    ratio("full write ÷ `tar x`", 1.0, "abupdate", "tar x")
    ratio("update ÷ `rsync -aHAX --delete`", 0.45, "abupdate update", "rsync --delete")
    if "abupdate update" in methods:
        written = methods["abupdate update"]["written"] / results["changed"]
        aims.append(("update, bytes written ÷ changed content", 1.1, written, "{:.2f}"))
    ratio("install of a delta ÷ RAUC's of its image (gzip)", 1.0, "abupdate, delta bundle",
          "RAUC, gzip bundle")  # fmt: skip
    ratio("install of a delta ÷ RAUC's of its image (zstd)", 1.0, "abupdate, delta bundle",
          "RAUC, zstd bundle")  # fmt: skip
    ratio("update ÷ OSTree's pull + checkout", 0.6, "abupdate update",
          "ostree pull + checkout, update")  # fmt: skip
    ratio("install of a delta ÷ OSTree's static delta + checkout", 0.6, "abupdate, delta bundle",
          "OSTree static delta + checkout")  # fmt: skip
    ours = [row["memory"] for name, row in methods.items() if name.startswith("abupdate")]
    if ours:
        aims.append(("peak memory, MB", _MEMORY / 1e6, max(ours) / 1e6, "{:.0f}"))
    growth = results.get("growth")
    if growth:
        small, large = (growth[files] for files in sorted(growth.keys() - {"chmods"}, key=int))
        peak = max(large["memory_full"], large["memory_update"])
        aims.append(("peak memory at 200,000 files, MB", _MEMORY / 1e6, peak / 1e6, "{:.0f}"))
        aims.append(("plan of an update of 200,000 files, s", 1.0, large["plan_update"], "{:.2f}"))
        times = large["full"] / small["full"]
        aims.append(("200,000 files ÷ 20,000, full write", 10.0, times, "{:.1f}"))
        aims.append(("content written for 10,000 changed modes, bytes", 0.0,
                     float(growth["chmods"]["bytes"]), "{:.0f}"))  # fmt: skip
    return aims


if __name__ == "__main__":
    main()
