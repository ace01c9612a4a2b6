"""How the difference of two releases looks."""

from __future__ import annotations

from abupdate.publish.difference import Difference, Paths
from abupdate.release.difference import PackageChange

_SHOWN = 20


def difference_text(found: Difference, *, full: bool) -> str:
    """For a person; `full`: with every path and package, and not the first of them."""
    limit = None if full else _SHOWN
    lines = [f"release   {found.old} -> {found.new} for {found.compatible}"]
    lines += _section("packages", [_package(one) for one in found.packages], limit)
    for name, paths in (("/boot", found.boot), ("/etc", found.etc), ("paths", found.paths)):
        lines += _section(name, _paths(paths), limit if name != "/boot" else None)
    lines += [
        f"to fetch  {_mb(found.fetch)} as a delta, {_mb(found.fetch_full)} in full",
        f"to write  {_mb(found.write)} in {found.write_files} files",
    ]
    return "\n".join(lines)


def _section(name: str, texts: list[str], limit: int | None) -> list[str]:
    shown = texts if limit is None else texts[:limit]
    more = len(texts) - len(shown)
    lines = [f"{name:<9} {len(texts) or 'none'}"]
    lines += [f"          {text}" for text in shown]
    return [*lines, f"          and {more} more (--full)"] if more else lines


def _package(one: PackageChange) -> str:
    if one.old is None:
        return f"+ {one.name} {one.new}"
    if one.new is None:
        return f"- {one.name} {one.old}"
    return f"  {one.name} {one.old} -> {one.new}"


def _paths(paths: Paths) -> list[str]:
    """`+` added, `-` removed, `~` other content, `:` other owner, mode, time or attributes."""
    marked = [
        *((path, "+") for path in paths.added),
        *((path, "-") for path in paths.removed),
        *((path, "~") for path in paths.changed),
        *((path, ":") for path in paths.attributes),
    ]
    return [f"{mark} {path}" for path, mark in sorted(marked)]


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
