"""What `abupdate doctor` says to a person: repairs while they are done, then what is left."""

from __future__ import annotations

from abupdate.cli.show import printable
from abupdate.doctor.examine import Report, Told


def tell(one: Told) -> None:
    """Before a repair what it will do, and after it how that went."""
    match one.outcome:
        case "begun":
            _say(f"{one.id}: {one.says}")
        case "asked":
            _say(_asked(one))
        case outcome:
            _say(f"    {outcome}: {one.result}")


def doctor_text(report: Report, *, dry_run: bool = False) -> str:
    """What was found and is left; with `dry_run` also what would be done about it."""
    lines = []
    if dry_run:
        for one in report.repairs:
            would = f"{one.id}: {one.says}" if one.outcome == "planned" else _asked(one)
            lines.append(would)
        lines.append("Nothing was changed.")
    for found in report.findings:
        lines += [f"{found.severity}: {found.message} [{found.id}]", f"    {found.advice}"]
    if not report.findings:
        lines.append("Nothing is wrong.")
    return printable("\n".join(lines))


def _asked(one: Told) -> str:
    return f"{one.id}: not done: {one.says}\n    {one.risk} To have it done: --also {one.id}"


def _say(text: str) -> None:
    print(printable(text), flush=True)
