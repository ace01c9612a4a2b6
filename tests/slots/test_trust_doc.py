"""docs/trust.md, run: what it tells a publisher and an owner to type, and what it shows.

The device's commands run on a device of `device.py`, with its paths put in and taken out;
`reboot` is a boot of what is armed, whose checks pass; `faketime` sets the clock of abupdate.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from abupdate.disk.layout import Slot
from tests.slots.apart import TOP, command
from tests.slots.device import Device, provision
from tests.slots.rootfs import PRODUCT, make_rootfs

PAGE = TOP / "docs/trust.md"
PROMPT = re.compile(r"(publisher\$|thief\$|device#) (.*)")
EXIT = re.compile(r"\(exit code (\d+)\)")
# Runs what follows with the clock that `faketime` says.
_CLOCK = """
import os, time
if os.environ.get("CLOCK"):
    time.time = lambda: float(os.environ["CLOCK"])
"""


@dataclass(frozen=True)
class Step:
    """One command of the page, and the lines below it."""

    line: int
    who: str
    typed: str
    shown: tuple[str, ...]

    @property
    def code(self) -> int:
        found = EXIT.fullmatch(self.shown[-1]) if self.shown else None
        return int(found[1]) if found else 0

    def is_shown_by(self, output: str) -> bool:
        """Whether the lines of the page are in the output, in their order."""
        lines = iter(output.splitlines())
        return all(
            any(_pattern(shown).fullmatch(line) for line in lines)
            for shown in self.shown
            if not EXIT.fullmatch(shown)
        )


def _pattern(shown: str) -> re.Pattern[str]:
    return re.compile(re.escape(shown).replace("…", ".+"))


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    inside = False
    for number, line in enumerate(page.split("\n"), 1):
        if line.startswith("```"):
            inside = not inside
        elif inside and (prompt := PROMPT.fullmatch(line)):
            found.append(Step(number, prompt[1], prompt[2], ()))
        elif inside:
            last = found.pop()
            if last.typed.endswith("\\"):
                found.append(Step(last.line, last.who, f"{last.typed}\n{line}", ()))
                continue
            found.append(Step(last.line, last.who, last.typed, (*last.shown, line)))
    return found


@dataclass
class Desk:
    """A publisher's folder and, from its first command on, a device beside it."""

    top: Path
    functions: list[str] = field(default_factory=list)
    device: Device | None = None

    def do(self, step: Step) -> tuple[int, str]:
        """Exit code and output of a command, with the paths of a real device."""
        if step.who == "device#" and self.device is None:
            self.device = Device(self.top / "device")
            self.device.top.mkdir()
            provision(self.device, self.top / "gw-1.bundle")
            self._own_etc()
        if re.match(r"\w+\(\) \{", step.typed):
            self.functions.append(step.typed)
        self._programs()
        typed = self._put_in(step.typed) if step.who == "device#" else step.typed
        path = f"{self.top}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", "\n".join([*self.functions, typed])],
            cwd=self.top,
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if (self.top / "reboot").exists():
            (self.top / "reboot").unlink()
            self._reboot()
        return done.returncode, self._take_out(done.stdout)

    def _paths(self) -> dict[str, str]:
        paths = (self.device or Device(self.top / "device")).paths
        return {str(paths.data): "/data", f"{paths.root}/": "/"}

    def _put_in(self, typed: str) -> str:
        paths = (self.device or Device(self.top / "device")).paths
        typed = typed.replace(" /data/", f" {paths.data}/")
        return re.sub(r" /(etc|usr)/", rf" {paths.root}/\1/", typed)

    def _take_out(self, output: str) -> str:
        for ours, theirs in self._paths().items():
            output = output.replace(ours, theirs)
        return output

    def _programs(self) -> None:
        """`abupdate`, `reboot` and `faketime` before those of this machine."""
        device = self.device or Device(self.top / "device")
        abupdate = shlex.join(command(device, first=_CLOCK))
        programs = {
            "abupdate": f'PYTHONPATH={shlex.quote(str(TOP))} exec {abupdate} "$@"',
            "reboot": f"touch {self.top}/reboot",
            "faketime": 'CLOCK=$(date -u -d "$1" +%s); export CLOCK; shift; exec "$@"',
        }
        (self.top / "bin").mkdir(exist_ok=True)
        for name, text in programs.items():
            path = self.top / "bin" / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)

    def _own_etc(self) -> None:
        """`/etc` can be written, and the owner's files are there in each slot."""
        assert self.device
        (self.top / "etc").mkdir(exist_ok=True)
        own, place = self.top / "etc", self.device.paths.etc
        subprocess.run(["mount", "--bind", own, place], check=True)

    def _reboot(self) -> None:
        assert self.device
        subprocess.run(["umount", self.device.paths.etc], check=True)
        state = self.device.state()
        self.device.boot(Slot(state.on_trial or state.slot), "trial")
        self._own_etc()
        assert self.device.run("confirm", "--boot") == 0

    def close(self) -> None:
        if self.device is not None:
            if os.path.ismount(self.device.paths.etc):
                subprocess.run(["umount", self.device.paths.etc], check=True)
            self.device.close()
        shutil.rmtree(self.top)


@pytest.fixture
def desk() -> Iterator[Desk]:
    # Not in pytest's folder: git runs as another user and must be able to get there.
    top = Path(tempfile.mkdtemp(prefix="abupdate-"))
    top.chmod(0o755)
    rootfs = make_rootfs(top / "rootfs", "1")
    config = rootfs / "usr/lib/abupdate/config.toml"
    config.write_text(config.read_text().replace(PRODUCT, "gateway"))
    (rootfs / "etc/abupdate").mkdir()
    found = Desk(top)
    yield found
    found.close()


@pytest.mark.row("U4", "U28")
def test_the_page_is_true(desk: Desk) -> None:
    """Every command of the page, in order: its exit code, and what it prints."""
    wrong = []
    for step in steps(PAGE.read_text()):
        code, output = desk.do(step)
        print(f"{PAGE.name}:{step.line}: {step.who} {step.typed}\n{output}(exit code {code})")
        if code != step.code or not step.is_shown_by(output):
            wrong.append(f"line {step.line}: {step.typed}: exit code {code}, and\n{output}")
    assert not wrong, "\n".join(wrong)


def test_the_page_has_all_its_steps() -> None:
    """A page whose blocks are no longer found would always be true."""
    found = steps(PAGE.read_text())
    text = "\n".join(step.typed for step in found)
    for word in ("keygen", "publish commit", "publish sign", "publish bundle", "publish verify",
                 "ssh-keygen -k", "abupdate info", "abupdate install", "faketime"):  # fmt: skip
        assert word in text
    assert {0, 6} <= {step.code for step in found}


@pytest.mark.parametrize(
    ("shown", "printed", "right"),
    [
        ("a … c", "a b c\n", True),
        ("a … c", "a b d\n", False),
        ("a … c", "a  c\n", False),
        ("a\nc", "a\nb\nc\n", True),
        ("a\nc", "c\na\n", False),
        ("a\na", "a\n", False),
        ("a", "aa\n", False),
        ("a\n(exit code 6)", "a\n", True),
    ],
)
def test_what_counts_as_shown(shown: str, printed: str, right: bool) -> None:
    (step,) = steps(f"```\npublisher$ x\n{shown}\n```\n")
    assert step.is_shown_by(printed) == right
