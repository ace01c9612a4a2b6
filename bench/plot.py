"""The results as a picture: `python -m bench.plot RESULTS.json OUT.svg`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import GROUPS

_OURS, _OTHERS = "#1b6ca8", "#b8bec4"


def draw(results: Mapping[str, Any], to: Path) -> None:
    """Bars of medians, with the fastest and slowest round; one field a group."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "abupdate"  # the same picture for the same figures
    from matplotlib import pyplot

    groups = [
        (title, [row for row in results["methods"] if row["group"] == group])
        for group, (_, title) in GROUPS.items()
    ]
    groups = [(title, rows) for title, rows in groups if rows]
    heights = [len(rows) for _, rows in groups]
    figure, fields = pyplot.subplots(
        len(groups), 1, figsize=(8, 0.34 * sum(heights) + 0.7 * len(groups)), sharex=True,
        height_ratios=heights, squeeze=False,
    )  # fmt: skip
    for field, (title, rows) in zip(fields[:, 0], groups, strict=True):
        names = [row["name"] for row in rows]
        medians = [row["seconds"] for row in rows]
        less = [row["seconds"] - min(row["rounds"]) for row in rows]
        more = [max(row["rounds"]) - row["seconds"] for row in rows]
        colours = [_OURS if name.startswith("abupdate") else _OTHERS for name in names]
        field.barh(names, medians, color=colours, xerr=[less, more],
                   error_kw={"ecolor": "#555555", "elinewidth": 0.8, "capsize": 2})  # fmt: skip
        field.invert_yaxis()
        field.set_title(title, loc="left", fontsize=10)
        field.tick_params(labelsize=8)
        field.spines[["top", "right"]].set_visible(False)
    fields[-1, 0].set_xlabel("seconds; the line is from the fastest to the slowest round",
                             fontsize=8)  # fmt: skip
    figure.tight_layout()
    figure.savefig(to, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
