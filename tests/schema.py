"""`make docs`: the JSON schema of `abupdate status --json`, from its classes."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from abupdate.update.status import StatusReport

PATH = Path(__file__).parent.parent / "docs" / "status.schema.json"


def schema() -> str:
    """The text of the schema file."""
    return json.dumps(TypeAdapter(StatusReport).json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(schema())
