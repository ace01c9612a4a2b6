"""Executables as checks: `required.d`, `wanted.d`, and commands from the configuration.

Exit code 0 is healthy. A failing check in `required.d` fails the boot, one in
`wanted.d` is told and no more. Both folders exist in the slot
(/usr/lib/abupdate) and in /etc/abupdate; a file of the owner replaces one of the
same name of the release, and a link to /dev/null takes it away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from abupdate.errors import ProgramError
from abupdate.health.check import Check, UnhealthyError
from abupdate.run import Argument, run_untrusted

_COPIES = ("~", ".bak", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".rpmsave", ".rpmnew", ".swp")


def programs(bases: Sequence[Path], env: Mapping[str, str]) -> list[Check]:
    """The checks in `required.d` and `wanted.d` of folders; later ones win. `env`: for them all."""
    return [
        Check(path.name, required, partial(look, [path], env=env))
        for folder, required in (("required.d", True), ("wanted.d", False))
        for path in scripts([base / folder for base in bases])
    ]


def scripts(folders: Sequence[Path]) -> list[Path]:
    """What lies in folders, in the order of the names; of one name the last folder's.

    A link to /dev/null takes one away. Whether it can be run is seen when it is: a
    check that cannot is one that fails, and so does an empty one, which a cut may
    have left.
    """
    by_name: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            by_name.update((path.name, path) for path in folder.iterdir() if not _left(path.name))
    return [path for name, path in sorted(by_name.items()) if not _masks(path)]


def _left(name: str) -> bool:
    """An editor's or a package manager's copy."""
    return name.startswith(".") or name.endswith(_COPIES)


def _masks(path: Path) -> bool:
    return path.is_symlink() and str(path.readlink()) == os.devnull


def look(argv: Sequence[Argument], timeout: float, *, env: Mapping[str, str]) -> str:
    """Run a program as a check. Raises `UnhealthyError`."""
    path = Path(os.fsdecode(argv[0]))
    if path.is_absolute() and not os.access(path, os.X_OK):
        lost = not path.exists()
        raise UnhealthyError("it is not there" if lost else "it is not executable")
    try:
        done = run_untrusted(argv, timeout=timeout, env=env)
    except ProgramError as error:
        raise UnhealthyError(error.message) from error
    output = done.stdout.decode(errors="replace").strip()
    if done.code is None:
        raise UnhealthyError(f"not finished after {timeout:g} seconds", output)
    if done.code < 0:
        raise UnhealthyError(f"ended by signal {-done.code}", output)
    if done.code:
        raise UnhealthyError(f"exit code {done.code}", output)
    return "ok"
