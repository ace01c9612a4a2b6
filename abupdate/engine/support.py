"""The file for those who help: what the device says of itself, without secrets.

Nothing of the owner's own files is in it, and of settings nothing that opens a door: what stands
before an @ of an address, and every value whose key says that it is secret.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from abupdate.config import load
from abupdate.engine import device
from abupdate.engine.contract import SupportFile
from abupdate.engine.jobs import Jobs
from abupdate.errors import AbupdateError
from abupdate.run import run
from abupdate.update.slots import Machine

PAGE_USER = "abupdate-web"
_LOG_LINES = 5000
_MAX_TEXT = 8 << 20
_USER = re.compile(r"(?<=://)[^/\s@\"']+(?=@)")
_SECRET = re.compile(
    r"(?i)(\b[\w-]*(?:password|passwd|passphrase|token|secret|psk|api[_-]?key)[\w-]*[\"']?\s*[=:]\s*)"
    r"(?:\"[^\"\n]*\"|'[^'\n]*'|\S+)"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_PRIVATE = re.compile(r"-----BEGIN [^-\n]*PRIVATE KEY-----.*?(?:-----END [^-\n]*-----|\Z)", re.S)


def without_secrets(text: str) -> str:
    """The text, with what opens a door left out."""
    text = _PRIVATE.sub("(a private key was here)", text)
    text = _USER.sub("***", text)
    text = _SECRET.sub(r"\1***", text)
    return _BEARER.sub(r"\1 ***", text)


def make(machine: Machine, jobs: Jobs, checks: device.Checks) -> SupportFile:
    """Write it below /run, in place of the one before. The page's user may read it."""
    folder = machine.paths.runtime / "support"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o750)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    name = f"abupdate-support-{stamp}.tar.gz"
    path = folder / name
    with tarfile.open(path, "x:gz") as archive:
        for title, text in _texts(machine, jobs, checks):
            data = without_secrets(text[-_MAX_TEXT:]).encode(errors="replace")
            entry = tarfile.TarInfo(f"abupdate-support/{title}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o644
            archive.addfile(entry, io.BytesIO(data))
    path.chmod(0o640)
    with suppress(LookupError):
        for one in (folder, path):
            shutil.chown(one, "root", PAGE_USER)
    return SupportFile(path=str(path), name=name, size=path.stat().st_size)


def _texts(machine: Machine, jobs: Jobs, checks: device.Checks) -> Iterator[tuple[str, str]]:
    for title, get in _sources(machine, jobs, checks).items():
        try:
            yield title, get()
        except (AbupdateError, OSError, ValueError) as error:
            yield title, f"Not to be had: {error}\n"


def _sources(machine: Machine, jobs: Jobs, checks: device.Checks) -> dict[str, Callable[[], str]]:
    esp = machine.paths.esp / "grub"
    return {
        "status.json": lambda: device.status(machine).model_dump_json(indent=2),
        "health.json": lambda: checks.health().model_dump_json(indent=2),
        "history.json": lambda: _json([one.model_dump() for one in device.history(machine, 1000)]),
        "why.json": lambda: _json(device.why(machine)),
        "releases.json": lambda: _json([one.model_dump() for one in device.releases(machine)]),
        "jobs.json": lambda: _json([one.model_dump() for one in jobs.all()]),
        "doctor.json": lambda: _doctor(machine),
        "settings.json": lambda: _settings(machine),
        "grubenv.txt": lambda: _read(esp / "grubenv"),
        "grubenv.bak.txt": lambda: _read(esp / "grubenv.bak"),
        "rules.env.txt": lambda: _read(esp / "rules.env"),
        "cmdline.txt": lambda: _read(machine.paths.cmdline),
        "log.txt": lambda: "\n".join(device.log(machine, _LOG_LINES)) + "\n",
        "kernel.txt": lambda: _said("journalctl", "--dmesg", "--lines=2000", "--no-pager"),
        "failed-units.txt": lambda: _said("systemctl", "--failed", "--no-pager"),
        "disk.txt": lambda: _said("lsblk", "--output", "NAME,SIZE,TYPE,FSTYPE,LABEL,PARTLABEL"),
        "system.txt": lambda: " ".join(os.uname()) + "\n",
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=str)


def _doctor(machine: Machine) -> str:
    from abupdate.doctor.examine import examine

    return _json(asdict(examine(machine)))


def _settings(machine: Machine) -> str:
    loaded = load(machine.paths)
    values: dict[str, Any] = loaded.settings.model_dump()
    return _json({"settings": values, "origins": loaded.origins})


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(1 << 20).decode(errors="replace")


def _said(*words: str) -> str:
    return run(list(words), timeout=30.0).stdout.decode(errors="replace")
