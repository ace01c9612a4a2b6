"""The page's figures in words: what was aimed at, and what was reached."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.web_upload import Figures

_MB = 1e6
_RATIO, _MEMORY, _LISTENERS, _PAGE = 0.8, 64 * _MB, 200, 0.100


def text(found: Figures) -> str:
    """The whole page."""
    ratios = [dd / upload for dd, upload in zip(found.dd, found.plain, strict=True)]
    ratio = statistics.median(found.dd) / statistics.median(found.plain)
    busy = statistics.median(found.busy_page)
    size = f"{found.size / (1 << 30):g} GiB" if found.size >= 1 << 30 else f"{found.size >> 20} MiB"
    megabytes = found.size / _MB
    worked, sent = statistics.median(found.worked), statistics.median(found.sent)
    return f"""# How fast the page is

`make bench-web`, which is `python -m bench.web_upload`. The server is the command that a device
runs, a process of its own without root's rights; password and token are checked as ever, the
engine behind it is the real socket with a device of the tests'. curl uploads {size} over loopback,
`dd bs=1M conv=fsync` copies the same file to the same disk; the file is in {found.source} for both.
Rounds: {len(found.dd)}, in each all four in turn.

{_machine(found)}

| aim | wanted | found | |
|---|---|---|---|
| upload, as fast as `dd` with fsync | ≥ {_RATIO:g} of its speed | {ratio:.2f} (rounds: {_span(ratios, 1, 2)}) | {_said(ratio >= _RATIO)} |
| highest resident memory (VmHWM) of all uploads, with pages and listeners beside them | ≤ {_MEMORY / _MB:.0f} MB | {found.highest / _MB:.1f} MB | {_said(found.highest <= _MEMORY)} |
| listeners that were told what is new | {_LISTENERS} | {found.told} of {found.listeners} | {_said(found.told >= _LISTENERS)} |
| a page during an upload, median | ≤ {_PAGE * 1000:.0f} ms | {busy * 1000:.0f} ms | {_said(busy <= _PAGE)} |

| {size} | median, s | fastest to slowest | MB/s |
|---|---|---|---|
| `dd bs=1M conv=fsync` | {_row(found.dd, megabytes)} |
| upload, with fsync and rename | {_row(found.plain, megabytes)} |
| the same, its digest announced and so compared | {_row(found.hashed, megabytes)} |
| an upload by https | {_row(found.tls, megabytes)} |

{_why(found.size / statistics.median(found.dd) / _MB, worked, sent, found.size)}

| server | |
|---|---|
| from its start to the first page | {found.started:.2f} s |
| memory when idle, RSS (PSS) | {found.idle_rss / _MB:.1f} MB ({found.idle_pss / _MB:.1f} MB) |
| PSS after an upload | {found.highest_pss / _MB:.1f} MB |
| highest RSS with a login, for which scrypt takes 17 MB | {found.highest_login / _MB:.1f} MB |
| highest RSS, https | {found.highest_tls / _MB:.1f} MB |
| RSS with {found.listeners} listeners | {found.listening_rss / _MB:.1f} MB |
| until the last of {found.listeners} was told (it looks once a second) | {found.told_after:.2f} s |
| an upload beside {found.listeners} listeners | {found.beside:.2f} s |
| processor's time for an upload, median: the server's; curl's | {worked:.2f} s; {sent:.2f} s |
| overview, idle: median, 95th percentile | {_page(found.idle_page)} |
| overview, during uploads ({len(found.busy_page)} asked for) | {_page(found.busy_page)} |
"""


def _machine(found: Figures) -> str:
    told = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    # An upload alone keeps a core and a half busy.
    shared = ""
    if found.load[0] > 1:
        shared = " Others worked on the machine meanwhile, so the times scatter."
    return (
        f"{os.cpu_count()} processors ({model[1] if model else platform.machine()}), "
        f"{found.filesystem}, Linux {platform.release().split('-')[0]}, Python "
        f"{platform.python_version()}. Load before and after: {found.load[0]:.1f}, "
        f"{found.load[1]:.1f}.{shared}"
    )


def _why(disk: float, worked: float, sent: float, size: int) -> str:
    """What bounds an upload, from `disk` in MB/s and two programs' seconds of processor time."""
    cores = os.cpu_count() or 1
    least = (worked + sent) / min(cores, 3)  # curl, and the server's two threads
    return f"""An upload is work for the processors: two copies in the server, a SHA-256 where a digest was
announced, and curl beside it. Were they shared out evenly, {least:.2f} s would be the time of one
without a digest, {size / least / _MB:.0f} MB/s. A disk or a network slower than that is what an upload
waits for; this disk takes {disk:.0f} MB/s."""


def _row(seconds: Sequence[float], megabytes: float) -> str:
    middle = statistics.median(seconds)
    return f"{middle:.2f} | {_span(seconds, 1, 2)} | {megabytes / middle:.0f}"


def _span(values: Sequence[float], unit: float, digits: int) -> str:
    return f"{min(values) * unit:.{digits}f} to {max(values) * unit:.{digits}f}"


def _page(seconds: Sequence[float]) -> str:
    late = sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * 0.95))]
    return f"{statistics.median(seconds) * 1000:.1f} ms, {late * 1000:.1f} ms"


def _said(reached: bool) -> str:
    return "reached" if reached else "**not reached**"
