"""docs/web.md: the table of calls is made of them (`python -m tests.web.docs`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from abupdate.web import openapi
from abupdate.web.api import calls

PAGE = Path(__file__).parents[2] / "docs/web.md"
_TABLE = re.compile(r"(?<=<!-- calls: `make docs` -->\n).*(?=<!-- end of calls -->)", re.DOTALL)


def table() -> str:
    """The calls, a row each, as the OpenAPI document has them."""
    rows = ["", "| call | what it gives or does | takes |", "|---|---|---|"]
    for path, methods in openapi.document(calls())["paths"].items():
        for method, told in methods.items():
            if method == "head":  # the row of GET has it
                continue
            body = told.get("requestBody", {}).get("content", {})
            takes = ["JSON" if kind == "application/json" else "bytes" for kind in body]
            takes += [
                f"`{one['name']}`" for one in told.get("parameters", ()) if not one["required"]
            ]
            call = f"`{method.upper()} {path.removeprefix('/api/v1')}`"
            rows.append(f"| {call} | {told['summary']} | {', '.join(takes)} |")
    return "\n".join([*rows, "", ""])


def with_table(text: str) -> str:
    """The page with the table as it should be."""
    return _TABLE.sub(lambda _: table(), text)


def examples() -> list[str]:
    """The blocks of the part "With curl", the first of which sets `DEVICE` and `TOKEN`."""
    part = PAGE.read_text(encoding="utf-8").split("\n## With curl\n", 1)[1]
    return re.findall(r"^```\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
