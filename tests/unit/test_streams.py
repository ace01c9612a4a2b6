"""Standard streams that are closed, or that nobody reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ABUPDATE = f"{sys.executable} -m abupdate.cli.main"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=folder,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_change_no_exit_code(tmp_path: Path, closed: str) -> None:
    done = shell(f"{ABUPDATE} publish keygen --out keys {closed}", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "keys/release.pub").is_file()
    again = shell(f"{ABUPDATE} publish keygen --out keys {closed}", tmp_path)
    assert (again.returncode, "Traceback" in again.stderr) == (2, False), again.stderr


def test_nothing_to_read_is_no_tar(tmp_path: Path) -> None:
    options = "--repo store.git --version 1 --compatible box"
    done = shell(f"{ABUPDATE} publish commit - {options} <&-", tmp_path)
    assert done.returncode == 9, done.stderr
    assert "Traceback" not in done.stderr


def test_a_signer_is_listed_on_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    listed = tmp_path / "keys/allowed_signers"
    listed.write_text("# ours")  # no newline at its end
    assert shell(f"{ABUPDATE} publish keygen --out keys", tmp_path).returncode == 0
    comment, line = listed.read_text().splitlines()
    assert comment == "# ours"
    assert line.startswith('release namespaces="git" ssh-ed25519 ')


def test_a_key_that_cannot_be_listed_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "keys/allowed_signers").mkdir(parents=True)
    assert shell(f"{ABUPDATE} publish keygen --out keys", tmp_path).returncode != 0
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["allowed_signers"]
