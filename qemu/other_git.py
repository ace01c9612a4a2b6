"""git of another Debian release, to be run here: with its own libraries, in place of ours."""

from __future__ import annotations

import tarfile
from pathlib import Path

import cache

from abupdate.run import run

_SECONDS = 900.0
_LIBRARIES = "./usr/lib/x86_64-linux-gnu/"
_WRAPPER = """\
#!/bin/sh
export GIT_EXEC_PATH={top}/core
exec {top}/lib/ld-linux-x86-64.so.2 --library-path {top}/lib --argv0 git {top}/git "$@"
"""


def git_of(suite: str, top: Path) -> Path:
    """A program in `top` that is that git. git's parts in programs of their own are missing."""
    folder = cache.cached("other-git", (suite, Path(__file__)), "", lambda to: _extract(to, suite))
    run(["cp", "-a", f"{folder}/.", top])
    (top / "core").mkdir()
    wrapper = top / "core" / "git"
    wrapper.write_text(_WRAPPER.format(top=top))
    wrapper.chmod(0o755)
    return wrapper


def _extract(to: Path, suite: str) -> None:
    tar = to.with_name(f"{to.name}.tar")
    run(["mmdebstrap", "--variant=extract", "--include=git", suite, tar], timeout=_SECONDS)
    (to / "lib").mkdir(parents=True)
    with tarfile.open(tar) as archive:
        for member in archive:
            path = _place(to, member.name)
            if path is None:
                continue
            if member.issym() and "/" not in member.linkname:
                path.symlink_to(member.linkname)
            elif source := archive.extractfile(member):
                path.write_bytes(source.read())
                path.chmod(0o755)
    tar.unlink()


def _place(to: Path, name: str) -> Path | None:
    if name == "./usr/bin/git":
        return to / "git"
    library = name.removeprefix(_LIBRARIES)
    return to / "lib" / library if library != name and "/" not in library and library else None
