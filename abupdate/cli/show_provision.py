"""The plan of a provision as a picture."""

from __future__ import annotations

from abupdate.provision.plan import DiskFacts, Plan, PlannedPartition, size_text

_WIDTH = 76
_LEAST = 3


def plan_text(plan: Plan) -> str:
    """The disk, what is on it, what will be on it, drawn and as a list."""
    lines = [disk_text(plan.disk), ""]
    lines += picture(plan.partitions)
    lines += ["", f"  {'':>3} {'name':<10} {'size':>10}  {'filesystem':<16} for"]
    lines += [_line(one) for one in plan.partitions]
    lines += ["", f"  release   {plan.release} for {plan.compatible}, signed by {plan.signer}"]
    lines += [f"            from {plan.source}, commit {plan.commit[:12]}"]
    lines += [f"  starts    with {' and '.join(name.upper() for name in plan.firmware)}"]
    lines += [f"  warning   {text}" for text in plan.warnings]
    return "\n".join(lines)


def disk_text(disk: DiskFacts) -> str:
    """One disk: what it is, and what it holds."""
    words = [disk.model or "", f"serial {disk.serial}" if disk.serial else "", disk.transport or ""]
    words += [size_text(disk.size), f"sectors of {disk.sector} bytes"]
    lines = [f"{disk.path}: {', '.join(word for word in words if word)}"]
    lines += [f"  on it now {text}" if not number else f"            {text}"
              for number, text in enumerate(disk.holds or ("nothing that is known",))]  # fmt: skip
    return "\n".join(lines)


def picture(partitions: tuple[PlannedPartition, ...]) -> list[str]:
    """A box each, in the order of the disk; wider for a larger one, though not by as much."""
    room = _WIDTH - len(partitions) - 1
    weights = [max(one.size, 1) ** 0.4 for one in partitions]
    widths = [
        max(_LEAST, len(_title(one)), int(room * weight / sum(weights)))
        for one, weight in zip(partitions, weights, strict=True)
    ]
    while sum(widths) > room and max(widths) > _LEAST:
        widths[widths.index(max(widths))] -= 1
    edge = "  +" + "+".join("-" * width for width in widths) + "+"
    middle = "  |" + "|".join(
        _title(one)[:width].center(width) for one, width in zip(partitions, widths, strict=True)
    )
    return [edge, f"{middle}|", edge]


def _title(one: PlannedPartition) -> str:
    return f"={one.name or one.number}=" if one.kept else one.name


def _line(one: PlannedPartition) -> str:
    kind = f"{one.filesystem} {one.label or ''}".strip() if one.filesystem else "-"
    return f"  {one.number:>3} {one.name:<10} {size_text(one.size):>10}  {kind:<16} {one.purpose}"
