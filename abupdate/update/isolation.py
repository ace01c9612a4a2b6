"""Programs that are not ours, in a system of their own that they cannot leave.

Fixups and the owner's hooks run here: namespaces of their own for mounts,
processes, network, IPC and names; a root of their own, of which only what is said
takes writes; /dev, /run and /tmp of their own, in memory; /proc without a way to
write; no privilege to mount, to make devices, or to get more. With the program
everything ends that it started, at the latest when its time is up or when
abupdate dies. `inside` is the other half.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from abupdate.errors import DeviceFaultError, RefusedError
from abupdate.run import SEARCH_PATH, run_attached, run_untrusted
from abupdate.update import inside

# Who started it dies: so does it. `setpriv` and `unshare` are of util-linux.
_APART = (
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--propagation", "private",
    "--fork", "--kill-child=KILL", "--",
)  # fmt: skip
_SHELL = "/bin/sh"


class HookFailedError(RefusedError):
    """A fixup or hook did not end well; the message has the end of its output."""


@dataclass(frozen=True)
class Isolation:
    """A system for programs of somebody else.

    `root` is a mount point that takes writes, or with `read_only` any folder, with all
    that is mounted in it. `shown`: paths of ours that are there as well, read-only,
    though they lie in /run or /tmp. `stage` is an empty folder of ours. `env` is for
    all programs, `timeout` in seconds for each of them.
    """

    root: Path
    stage: Path
    read_only: bool
    env: Mapping[str, str]
    timeout: float
    shown: tuple[Path, ...] = ()

    def run(self, program: str, what: str) -> None:
        """Run one to its end; `what` names it in errors.

        Raises `HookFailedError`, `DeviceFaultError` where nothing can be isolated.
        """
        ended = run_untrusted(self._argv([program]), timeout=self.timeout)
        if ended.code == 0:
            return
        if ended.code == inside.FAILED and inside.UNPREPARED.encode() in ended.stdout:
            said = printable(ended.stdout.decode(errors="replace")).strip()
            raise DeviceFaultError(
                f"{what} should be run on its own, but {said}",
                "Its kernel needs namespaces and Linux 5.12 or newer; `dmesg` may tell more.",
            )
        if ended.code is None:
            found = f"was stopped after {self.timeout:g} seconds (`hooks.timeout`)"
        elif ended.code > 128:
            found = f"was ended by signal {ended.code - 128}"
        else:
            found = f"ended with exit code {ended.code}"
        raise failed(f"{what} should end with exit code 0, but it {found}.", ended.stdout)

    def shell(self, prompt: str) -> int:
        """A shell for a person, on our terminal; its exit code."""
        env = {"PS1": f"{prompt} # ", "TERM": os.environ.get("TERM", "dumb")}
        return run_attached(self._argv([_SHELL, "-i"], env))

    def _argv(self, program: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        """The command that runs a program; with an `env` of its own, on our terminal."""
        self.stage.mkdir(parents=True, exist_ok=True)
        base = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", "HOME": "/", "TMPDIR": "/tmp"}  # noqa: S108
        wanted = {
            "root": str(self.root),
            "stage": str(self.stage),
            "read_only": self.read_only,
            "shown": [str(path) for path in self.shown],
            "program": list(program),
            "terminal": env is not None,
            "env": {**base, **self.env, **(env or {})},
        }
        return [*_APART, sys.executable, "-I", "-S", inside.__file__, json.dumps(wanted)]


def failed(what: str, output: bytes = b"") -> HookFailedError:
    """The error of a program that did not what it should, with the end of its output."""
    text = printable(output.decode(errors="replace")).strip()
    return HookFailedError(
        f"{what} It said:\n{text}" if text else what,
        "The release is not armed. Correct it and install again; `--interactive` gives a shell "
        "where it failed.",
    )


def printable(text: str) -> str:
    """Text of others without what steers a terminal."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "�" for sign in text)
