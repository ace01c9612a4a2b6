"""`make docs`: the JSON schemas in docs/, from the classes that they describe."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from abupdate.provision.layout import Layout
from abupdate.provision.plan import Plan
from abupdate.release.metadata import ReleaseToml
from abupdate.update.status import StatusReport

DOCS = Path(__file__).parent.parent / "docs"
DESCRIBED: dict[str, type] = {
    "layout.schema.json": Layout,
    "provision-plan.schema.json": Plan,
    "release.schema.json": ReleaseToml,
    "status.schema.json": StatusReport,
}


def schema(name: str) -> str:
    """The text of a schema file."""
    return json.dumps(TypeAdapter(DESCRIBED[name]).json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    for name in DESCRIBED:
        (DOCS / name).write_text(schema(name))
