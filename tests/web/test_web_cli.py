"""`abupdate web`: codes, passwords and tokens, as a person at the console gets them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from abupdate.cli import web as cli
from abupdate.cli.main import main
from abupdate.paths import Paths
from abupdate.update.slots import Machine
from abupdate.web.auth import Passwords, Tokens

CODE = re.compile(r"[A-Z0-9]{4}-[A-Z0-9]{4}-[A-Z0-9]{4}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "data/abupdate").mkdir(parents=True)
    (tmp_path / "cmdline").write_text("")
    return Machine(
        Paths(
            root=tmp_path,
            data=tmp_path / "data",
            runtime=tmp_path / "run",
            cmdline=tmp_path / "cmdline",
        )
    )


@pytest.fixture
def state(machine: Machine) -> Path:
    return machine.paths.data / "abupdate/web"


def test_a_code_sets_a_password_once(
    machine: Machine, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web", "code"], machine=machine) == 0
    code = capsys.readouterr().out
    assert CODE.fullmatch(code)
    passwords = Passwords(state)
    assert passwords.check_code(code) and passwords.check_code(code.lower().replace("-", " "))
    # Whoever reads the disk has no code.
    assert code.strip() not in "".join(path.read_text() for path in state.iterdir())
    assert main(["web", "code"], machine=machine) == 0
    assert not passwords.check_code(code)  # another one takes its place
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_with_a_password_a_code_must_be_wanted(
    machine: Machine, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state.mkdir()
    Passwords(state).set("correct horse battery")
    assert main(["web", "code"], machine=machine) == 3
    assert "--new" in capsys.readouterr().err
    assert main(["web", "code", "--new"], machine=machine) == 0
    assert CODE.fullmatch(capsys.readouterr().out)


def test_a_code_above_the_login(
    machine: Machine, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    issue = tmp_path / "issue.d/90-abupdate.issue"
    monkeypatch.setattr(cli, "_ISSUE", issue)
    assert main(["web", "code", "--login"], machine=machine) == 0
    assert capsys.readouterr().out == ""
    found = re.search(CODE.pattern, issue.read_text())
    assert found is not None and Passwords(state).check_code(found[0])
    # It is made anew at each start, for one is only shown.
    assert main(["web", "code", "--login"], machine=machine) == 0
    assert not Passwords(state).check_code(found[0])
    # One that somebody may have on paper stays.
    assert main(["web", "code"], machine=machine) == 0
    held = capsys.readouterr().out
    assert main(["web", "code", "--login"], machine=machine) == 3
    assert Passwords(state).check_code(held)


def test_a_password_from_a_pipe(
    machine: Machine, state: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for line, code in (("\n", 2), ("short\n", 2), ("long enough by far\n", 0)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(line))
        assert main(["web", "password"], machine=machine) == code, line
    assert asyncio.run(Passwords(state).check("long enough by far"))
    assert stat.S_IMODE((state / "password").stat().st_mode) == 0o600
    assert "long enough" not in (state / "password").read_text()
    told = capsys.readouterr()
    assert "at least 10 characters" in told.err and "The password is set" in told.out


def test_tokens_are_added_listed_and_removed(
    machine: Machine, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web", "token", "add", "backup", "--read-only"], machine=machine) == 0
    token = capsys.readouterr().out.strip()
    who = Tokens(state / "tokens.json").of_header(f"Bearer {token}")
    assert who is not None and (who.name, who.read_only) == ("token backup", True)
    assert token not in (state / "tokens.json").read_text()
    assert stat.S_IMODE((state / "tokens.json").stat().st_mode) == 0o600
    assert main(["web", "token", "add", "backup"], machine=machine) == 2
    assert main(["web", "token", "add", "line\nbreak"], machine=machine) == 2
    capsys.readouterr()
    assert main(["web", "token", "list"], machine=machine) == 0
    assert re.fullmatch(r"backup +\d{4}-\d\d-\d\d  read-only\n", capsys.readouterr().out)
    assert main(["web", "token", "list", "--json"], machine=machine) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema_version"] == 1 and list(told["tokens"]) == ["backup"]
    assert main(["web", "token", "remove", "nobody"], machine=machine) == 3
    assert main(["web", "token", "remove", "backup"], machine=machine) == 0
    assert Tokens(state / "tokens.json").of_header(f"Bearer {token}") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_server_refuses_to_be_root(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web"], machine=machine) == 7
    assert "does not run as root" in capsys.readouterr().err


def test_nobody_needs_the_servers_libraries_to_get_in() -> None:
    """Rescue's console gives codes where no page is installed."""
    script = (
        "import sys\n"
        "for name in ('starlette', 'uvicorn', 'jinja2', 'multipart'): sys.modules[name] = None\n"
        "import abupdate.cli.web, abupdate.web.auth, abupdate.web.tls\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
