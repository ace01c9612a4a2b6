"""The command: its schemas, its start-up, its words."""

from __future__ import annotations

import ast
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from abupdate.cli.main import main
from abupdate.errors import AbupdateError, ExitCode
from tests.schema import DESCRIBED, DOCS, schema

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.row("U10")
@pytest.mark.parametrize("name", DESCRIBED)
def test_the_committed_schema_is_the_one_of_the_classes(name: str) -> None:
    assert (DOCS / name).read_text() == schema(name), "run `make docs`"


@pytest.mark.row("U10")
def test_every_exit_code_is_documented_and_each_error_has_one() -> None:
    text = (ROOT / "docs/exit-codes.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} |" in text, code

    def below(kind: type[AbupdateError]) -> set[type[AbupdateError]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    used = {kind.exit_code for kind in below(AbupdateError)}
    assert used == set(ExitCode) - {ExitCode.OK, ExitCode.REBOOT_NEEDED}


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError(), 11, "raise the limit"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 11, "raise the limit"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), 8, "Free space"),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), 7, "make it writable"),
        (OSError(errno.EIO, "Input/output error", "/data/x"), 11, "disk may be failing"),
    ],
)
def test_a_fault_of_the_machine_is_told_with_what_to_do(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    says: str,
) -> None:
    def failing(_: object) -> None:
        raise error

    monkeypatch.setattr("abupdate.cli.device.machine_of", failing)
    assert main(["status"]) == code
    said = capfd.readouterr().err
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize("descriptor", ["77", "99999999999"])
def test_progress_goes_to_an_open_file_only(
    descriptor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--progress-fd", descriptor, "bundle"]) == ExitCode.USAGE
    assert "is no open file" in capsys.readouterr().err


def test_status_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys\n"
        "import abupdate.cli.main, abupdate.cli.device, abupdate.cli.trial\n"
        "import abupdate.update.status\n"
        "heavy = {'pydantic', 'sh', 'parted', 'abupdate.config', 'hypothesis', 'rich'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("words", [["--help"], ["install", "--help"], ["publish", "--help"]])
def test_help_teaches(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Usage: abupdate" in said
    assert len(said.splitlines()) > 8


def test_every_verb_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    verbs = "status install arm confirm reject rollback verify history check config doctor publish"
    for verb in verbs.split():
        assert f"  {verb} " in listed, verb


def test_wrong_words_end_with_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["instal"]) == 2
    assert "instal" in capsys.readouterr().err
    assert main([]) in (0, 2)


def test_a_bug_is_told_with_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_machine: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("abupdate.update.status.collect", broken)
    assert main(["status"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "bug in abupdate" in said


def test_no_module_prints_or_exits_but_the_command() -> None:
    for path in (ROOT / "abupdate").rglob("*.py"):
        if "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                allowed = path.name == "failpoints.py" and node.func.id == "print"
                assert allowed or node.func.id not in ("print", "exit", "quit"), path


def test_a_private_key_never_gets_the_name_of_a_public_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("allowed_signers", "me.pub"):
        assert main(["publish", "keygen", "--out", str(tmp_path), "--name", name]) == 2
        assert "public" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_behind_the_output_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "abupdate.cli.main", "config", "show"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
        )
    assert done.returncode == 8
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_failpoint_is_somewhere() -> None:
    from abupdate.failpoints import NAMES

    code = "".join(path.read_text() for path in (ROOT / "abupdate").rglob("*.py"))
    assert [name for name in sorted(NAMES) if f'failpoint("{name}")' not in code] == []
