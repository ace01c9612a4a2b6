"""`abupdate web`: codes, passwords and tokens, as a person at the console gets them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
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
from abupdate.web import tls
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
def test_what_root_writes_is_the_servers(
    machine: Machine, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.mkdir(mode=0o700)
    os.chown(state, 65534, 65534)
    monkeypatch.setattr(sys, "stdin", io.StringIO("long enough by far\n"))
    for words in (["code"], ["password"], ["token", "add", "backup"], ["code", "--new"]):
        assert main(["web", *words], machine=machine) == 0
    found = {path.name: path.stat() for path in state.iterdir()}
    assert set(found) == {"code", "password", "tokens.json"}
    for name, one in found.items():
        assert (one.st_uid, one.st_gid, stat.S_IMODE(one.st_mode)) == (65534, 65534, 0o600), name


def test_a_password_is_asked_for_twice_and_not_shown(machine: Machine, state: Path) -> None:
    """At a terminal: what is typed is not on it."""
    words = ("long enough by far", "another one by far", "long enough by far", "long enough by far")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from abupdate.cli.main import main\n"
        "from abupdate.paths import Paths\n"
        "from abupdate.update.slots import Machine\n"
        f"top = Path({str(machine.paths.root)!r})\n"
        "paths = Paths(root=top, data=top / 'data', runtime=top / 'run', cmdline=top / 'cmdline')\n"
        "sys.exit(main(['web', 'password'], machine=Machine(paths)))\n"
    )
    mine, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=its, stdout=its, stderr=its, start_new_session=True
    ) as person:
        os.close(its)
        shown = b""
        for asked, word in enumerate(words, 1):
            while shown.count(b": ") < asked + (asked > 2):  # the two are not the same: a line more
                shown += os.read(mine, 1000)
            os.write(mine, f"{word}\n".encode())
        while b"The password is set" not in shown:
            shown += os.read(mine, 1000)
        assert person.wait(60) == 0
    os.close(mine)
    assert b"by far" not in shown
    assert asyncio.run(Passwords(state).check("long enough by far"))


def test_a_code_comes_with_the_certificates_fingerprint(
    machine: Machine, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "etc/abupdate").mkdir(parents=True)
    (tmp_path / "etc/abupdate/config.toml").write_text('[web]\ntls = "self"\n')
    assert main(["web", "code"], machine=machine) == 0
    assert "Certificate" not in capsys.readouterr().err  # the server makes it at its first start
    cert, _ = tls.self_made(state, ())
    assert main(["web", "code"], machine=machine) == 0
    told = capsys.readouterr()
    assert CODE.fullmatch(told.out) and f"SHA-256: {tls.fingerprint(cert)}\n" in told.err


@pytest.mark.parametrize(
    "words", [["tokens"], ["token"], ["token", "add"], ["code", "--old"], ["password", "secret"]]
)
def test_what_makes_no_sense_is_refused(machine: Machine, state: Path, words: list[str]) -> None:
    assert main(["web", *words], machine=machine) == 2
    assert not state.exists()


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
