"""What `install.sh` puts where, and what `installer/take-over` refuses before it does anything.

tests/vm/test_fielded.py has the whole way.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
INSTALL, TAKE_OVER = PROJECT / "install.sh", PROJECT / "installer/take-over"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


def install(*words: str | Path, ok: int = 0) -> str:
    done = subprocess.run([INSTALL, *words], capture_output=True, text=True, check=False)
    assert done.returncode == ok, done.stderr
    return done.stderr


def files(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}


def test_into_an_empty_folder(tmp_path: Path) -> None:
    """As a package is made: nothing but what is abupdate's, and the same the second time."""
    for name, words in (("all", []), ("initramfs", ["initramfs"]), ("programs", ["programs"])):
        (tmp_path / name).mkdir()
        install(tmp_path / name, *words)
    found = files(tmp_path / "all")
    assert files(tmp_path / "initramfs") | files(tmp_path / "programs") == found
    assert not files(tmp_path / "initramfs") & files(tmp_path / "programs")
    assert {one.split("/")[0] for one in found} == {"usr"}
    units = "usr/lib/systemd/system"
    for path in (
        "usr/lib/abupdate/abupdate-mount", "usr/lib/abupdate/grub/grub.cfg",
        "usr/share/initramfs-tools/hooks/abupdate", f"{units}/var.mount",
        "usr/lib/python3/dist-packages/abupdate/cli/main.py",
        f"{units}/multi-user.target.wants/abupdate-confirm.service",
        "usr/lib/systemd/system-generators/abupdate-installer-generator",
    ):  # fmt: skip
        assert path in found, sorted(found)
    assert not any("abupdate-serve" in one and ".wants/" in one for one in found)
    assert not any(one.endswith((".pyc", "take-over")) for one in found)
    assert (tmp_path / "all/boot/efi").stat().st_mode & 0o777 == 0o700
    links = [path for path in (tmp_path / "all").rglob("*") if path.is_symlink()]
    assert links and all(path.resolve().is_file() for path in links)
    install(tmp_path / "all")
    assert files(tmp_path / "all") == found


def test_its_files_are_those_of_the_source(tmp_path: Path) -> None:
    """Whatever is added to a folder that is installed is not forgotten here."""
    install(tmp_path)
    names = {Path(one).name for one in files(tmp_path)}
    for folder, pattern in (
        ("healthcheck", "abupdate-*"), ("readonly", "[!R]*"), ("installer", "abupdate-*"),
        ("initramfs", "abupdate-*"), ("initramfs/systemd", "*"), ("initramfs/modprobe.d", "*"),
        ("grub", "*.cfg"),
    ):  # fmt: skip
        assert {path.name for path in (PROJECT / folder).glob(pattern)} <= names, folder


def test_into_a_debian(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/ssh").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:\nabupdate-store:x:970:970::/:\n")
    (root / "etc/ssh/ssh_host_rsa_key").write_text("of one machine\n")
    (root / "etc/machine-id").write_text("of one machine\n")
    (root / "etc/fstab").write_text(
        "# old\nUUID=1 / ext4 defaults 0 1\n\nUUID=2 none swap sw 0 0\n"
    )
    stale = root / "usr/lib/python3/dist-packages/abupdate/gone.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    for _ in range(2):
        install(root, "--python", "/opt/venv/bin/python3", "initramfs", "programs", "release")
    assert not stale.exists()
    command = (root / "usr/bin/abupdate").read_text()
    assert command.startswith("#!/opt/venv/bin/python3 -I\n")
    assert (root / "etc/machine-id").read_text() == ""
    assert not list((root / "etc/ssh").iterdir())
    lines = (root / "etc/fstab").read_text().splitlines()
    assert lines[1:] == ["# old", "# UUID=1 / ext4 defaults 0 1", "", "# UUID=2 none swap sw 0 0"]
    assert lines[0].startswith("# The initramfs mounts everything")
    masked = root / "etc/systemd/system/grub-common.service"
    assert masked.readlink() == Path("/dev/null")
    assert (root / "usr/local/sbin/apt").readlink() == Path("/usr/lib/abupdate/no-packages")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a root filesystem was expected"), (["/"], "may not be /"),
        (["/nowhere"], "there is none"), (["/tmp", "all"], "unknown word 'all'"),
        (["/tmp", "--python", "python3"], "needs a path"), (["/tmp", "--python"], "needs a path"),
    ],
)  # fmt: skip
def test_install_is_told_wrong(words: list[str], said: str) -> None:
    assert said in install(*words, ok=2)


@dataclass(frozen=True)
class Machine:
    """A fielded machine, made of this one in mounts of a run's own."""

    top: Path

    def lay(self, path: str, content: str) -> None:
        """A file over that of this machine, for each run."""
        file = self.top / "over" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o755)

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        """One run of take-over: code, standard output, and error."""
        lines = ["set -e"]
        for folder in ("etc", "usr", "boot"):
            (self.top / "over" / folder).mkdir(parents=True, exist_ok=True)
            (self.top / "work" / folder).mkdir(parents=True, exist_ok=True)
            layers = f"lowerdir=/{folder},upperdir={self.top}/over/{folder}"
            options = f"{layers},workdir={self.top}/work/{folder}"
            lines.append(f"mount -t overlay -o {shlex.quote(options)} overlay /{folder}")
        lines.append(f"exec {shlex.join(str(word) for word in (TAKE_OVER, *words))}")
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", "\n".join(lines)],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Debian 13 with three kernels, the newest of which has no modules; nothing is missing."""
    found = Machine(tmp_path)
    found.lay("/etc/os-release", 'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian 13"\n')
    found.lay("/usr/bin/uname", "#!/bin/sh\necho x86_64\n")
    packages(found, "dracut")
    for version in ("6.1.9", "6.1.57", "6.2"):
        found.lay(f"/boot/vmlinuz-{version}", "")
    for version in ("6.1.9", "6.1.57"):
        found.lay(f"/usr/lib/modules/{version}/modules.dep", "")
    return found


@pytest.fixture
def work() -> Iterator[Path]:
    """A place for a work folder, which is not there yet: /tmp is refused."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="abupdate-test-") as name:
        yield Path(name, "w")


def packages(machine: Machine, *missing: str) -> None:
    """What dpkg-query says is installed: all but those."""
    name = "|".join(missing) or "none-is-missing"
    answers = f"case $4 in {name}) exit 1 ;; *) echo 'install ok installed' ;; esac"
    machine.lay("/usr/bin/dpkg-query", f"#!/bin/sh\n{answers}\n")


TARGET = ("--target", "/dev/nowhere", "--work")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--work FOLDER is needed"),
        (["--work", "w"], "either --target DISK or --installer FILE"),
        (["--work", "w", "--target", "a", "--installer", "b"], "either --target DISK or"),
        (["--work"], "--work needs a value"), (["--disk", "x"], "unknown word '--disk'"),
        (["--work", "w", "--exclude", "var"], "a plain path from / was expected, found 'var'"),
        (["--work", "w", "--exclude", "/a/../b"], "a plain path from / was expected"),
        (["--work", "w", "--data", "/opt/x"], "a path below /var was expected"),
    ],
)  # fmt: skip
def test_told_wrong(words: list[str], said: str) -> None:
    done = subprocess.run([TAKE_OVER, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_dry_run(machine: Machine, work: Path) -> None:
    packages(machine, "dracut", "mtools", "python3-sh", "python3-venv")
    code, out, err = machine.run(*TARGET, work, "--dry-run", "--compatible", "gw", "--version", "3")
    assert (code, err) == (0, "")
    assert out.startswith("What this cannot do:\n")
    *_, plan, missing, end = out.splitlines()
    assert plan == "== Release 3 for gw, kernel 6.1.57, to /dev/nowhere"
    assert missing == "   to be installed: mtools python3-sh"
    assert end == "Nothing was done." and not work.exists()


def test_dry_run_of_a_stick_on_debian_12(machine: Machine, work: Path, tmp_path: Path) -> None:
    machine.lay("/etc/os-release", "ID=debian\nVERSION_ID=12\n")
    packages(machine, "dracut", "python3-sh", "python3-venv")
    words = ("--installer", tmp_path / "stick.img", "--work", work, "--dry-run")
    code, out, _ = machine.run(*words)
    assert code == 0 and "to be installed: python3-venv\n" in out
    assert not (tmp_path / "stick.img").exists()


def test_other_systems_are_refused(machine: Machine, work: Path) -> None:
    def refuse(said: str, *words: str | Path) -> None:
        code, out, err = machine.run(*TARGET, work, *words)
        assert (code, said in err) == (7, True), err
        assert "==" not in out and not work.exists()

    packages(machine)
    refuse("The initramfs is made by dracut here")
    packages(machine, "dracut")
    refuse("--work may not be below /home", "--work", "/home/me/w")
    machine.lay("/usr/bin/uname", "#!/bin/sh\necho aarch64\n")
    refuse("An x86_64 machine was expected, found aarch64")
    machine.lay("/etc/os-release", 'ID=ubuntu\nVERSION_ID=24.04\nPRETTY_NAME="Ubuntu 24.04"\n')
    refuse("Debian 12 or 13 was expected, found Ubuntu 24.04")


def test_no_kernel_with_modules(machine: Machine, work: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "over/usr/lib/modules").rglob("modules.dep"):
        path.unlink()
    code, _, err = machine.run(*TARGET, work)
    assert code == 7 and "A kernel with its modules should be in /boot" in err


def test_two_runs_in_one_folder(machine: Machine, work: Path) -> None:
    work.mkdir()
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = machine.run(*TARGET, work)
    assert code == 5 and "Another run works in" in err
    assert [path.name for path in work.iterdir() if path.name != "tmp"] == ["lock"]
