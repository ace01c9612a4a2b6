"""What a package manager says on a read-only root, and SSH host keys that stay."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

READONLY = Path(__file__).parents[2] / "readonly"


def ask(tmp_path: Path, writable: str, words: str) -> subprocess.CompletedProcess[str]:
    """Run a package manager; the one behind ours says what it got."""
    name, *rest = words.split()
    ours, real = tmp_path / "ours", tmp_path / "real"
    for folder in (ours, real):
        folder.mkdir(exist_ok=True)
    # Whether /usr takes writes is what this test decides.
    script = (READONLY / "no-packages").read_text().replace("[ -w /usr ]", writable)
    (tmp_path / "no-packages").write_text(script)
    (tmp_path / "no-packages").chmod(0o755)
    (ours / name).unlink(missing_ok=True)
    (ours / name).symlink_to(tmp_path / "no-packages")
    (real / name).write_text('#!/bin/sh\necho "real: $*"\n')
    (real / name).chmod(0o755)
    path = f"{ours}:{real}:{os.environ['PATH']}"
    return subprocess.run(
        [ours / name, *rest], env={"PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "words",
    [
        "apt install hello", "apt-get -y dist-upgrade", "apt-get dselect-upgrade",
        "dpkg -i x.deb", "dpkg -iR folder", "dpkg --force-all --purge x", "opkg install x",
        "rpm -Uhv x.rpm", "rpm -Fvh x", "rpm --nodeps -e x", "dnf update", "dnf -y swap a b",
    ],
)  # fmt: skip
def test_what_changes_packages_is_refused(tmp_path: Path, words: str) -> None:
    done = ask(tmp_path, "false", words)
    assert done.returncode == 1
    assert "the packages of this system cannot be changed here" in done.stderr
    assert done.stdout == ""
    assert ask(tmp_path, "true", words).stdout == f"real: {words.partition(' ')[2]}\n"


@pytest.mark.parametrize(
    "words",
    ["apt list", "apt show install", "dpkg -l git", "dpkg -L remove", "rpm -q -i bash",
     "rpm -qa", "dnf -e 0 list", "opkg list-installed", "apt-get update"],
)  # fmt: skip
def test_what_only_looks_goes_on(tmp_path: Path, words: str) -> None:
    assert ask(tmp_path, "false", words).stdout == f"real: {words.partition(' ')[2]}\n"


def test_host_keys_are_made_once(tmp_path: Path) -> None:
    keys, kept = tmp_path / "ssh", tmp_path / "state/ssh-host-keys"
    keys.mkdir()
    kept.parent.mkdir()
    make = "for kind in rsa ed25519; do key=$keys/ssh_host_${kind}_key; [ -e $key ] || " \
           "{ echo $kind $$ > $key; echo public $kind $$ > $key.pub; }; done"  # fmt: skip
    script = (
        (READONLY / "host-keys").read_text()
        .replace("/etc/ssh", str(keys)).replace("/data/state", str(kept.parent))
        .replace("ssh-keygen -A", make)
    )  # fmt: skip

    def run() -> dict[str, str]:
        subprocess.run(["sh", "-c", script], check=True)
        return {path.name: path.read_text() for path in keys.iterdir()}

    first = run()
    assert len(first) == 4
    assert run() == first
    (keys / "ssh_host_rsa_key").write_text("")  # torn by a power cut
    assert run() == first
    shutil.rmtree(keys)  # the overlay was lost
    keys.mkdir()
    assert run() == first
    (keys / "ssh_host_rsa_key").write_text("the owner's\n")
    changed = run()
    assert changed["ssh_host_rsa_key"] == "the owner's\n"
    shutil.rmtree(keys)
    keys.mkdir()
    assert run() == changed
