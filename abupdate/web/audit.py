"""Who tried to change what: a line of JSON each, in a bounded file and in the journal."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

LARGEST = 1 << 20  # bytes; then the file becomes the old one
_LOG = logging.getLogger("abupdate.web.audit")


class Audit:
    """The audit log at `path`; the one before it is `path`.1."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock

    def note(self, who: str, address: str, action: str, status: int, detail: str = "") -> None:
        """Write one line. A full disk is no reason to refuse what was asked."""
        entry = {"time": round(self._clock(), 3), "who": who, "address": address,
                 "action": action[:200], "status": status}  # fmt: skip
        if detail:
            entry["detail"] = detail[:200]
        line = json.dumps(entry)  # ASCII: nothing in it can steer a terminal or forge a line
        _LOG.info("%s", line)
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, line.encode() + b"\n")
                size = os.fstat(file).st_size
            finally:
                os.close(file)
            if size > LARGEST:
                self._path.rename(self._path.with_name(f"{self._path.name}.1"))
        except OSError as error:
            _LOG.warning("The audit log cannot be written: %s", error.strerror)
