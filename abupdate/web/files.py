"""Small files of the server: JSON that is whole or not there, and that nobody else reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_LONGEST = 1 << 20  # bytes


def read_json(path: Path) -> Any:
    """What the file holds; None without one. Raises `json.JSONDecodeError`, `OSError`."""
    try:
        with path.open("rb") as file:
            return json.loads(file.read(_LONGEST))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError(str(error), "", 0) from error


def write_json(path: Path, content: Any) -> None:
    """Replace the file by one move, after its content is on the disk. Raises `OSError`."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # whatever it is, it is not followed
    number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as file:
        file.write(json.dumps(content).encode())
        file.flush()
        os.fsync(number)
        if os.geteuid() == 0:  # the command, run by root: the server must read it
            owner = path.parent.stat()
            os.fchown(number, owner.st_uid, owner.st_gid)
    new.rename(path)
