"""Installs on a device of real ext4 slots: every step, every refusal, every cut."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from abupdate import failpoints
from abupdate.boot.state import Ustate
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import Slot
from abupdate.update.job import job
from tests.slots import loop
from tests.slots.device import Device, change_beneath, make_device, make_release
from tests.slots.rootfs import make_rootfs

pytestmark = pytest.mark.skipif(
    not loop.have_loop_devices(), reason="needs root and loop devices for real ext4"
)

# What happens between the lock and the last write of an install, in its order.
INSTALL_POINTS = [
    "locked",
    "source-opened",
    "quarantined",
    "trusted",
    "joined",
    "intent-recorded",
    "begin-backup-written",
    "state-primary-written",
    "begun",
    "slot-relabelled",
    "slot-mounted",
    "materialise-half",
    "materialised",
    "synced",
    "unmounted",
    "cache-dropped",
    "checked",
    "read-back",
    "etc-merged",
    "label-restored",
    "slot-recorded",
    "armed",
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Device]:
    """A device whose slot B is free; tests put it back to that."""
    # Not in pytest's folder: git runs as another user and must be able to get there.
    top = Path(tempfile.mkdtemp(prefix="abupdate-"))
    top.chmod(0o755)
    device = make_device(top)
    rootfs = make_rootfs(top / "rootfs2", "2")
    shutil.copy(top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers")
    make_release(device, rootfs, "2", since=["1"])
    make_release(device, make_rootfs(top / "rootfs3", "3"), "3")
    yield device
    device.close()


@pytest.fixture
def device(shared: Device) -> Device:
    """The device with release 1 in A, nothing in B, nothing remembered."""
    saved = shared.top / "saved"
    if not saved.exists():
        subprocess.run(["cp", "-a", shared.paths.data, saved], check=True)
        subprocess.run(["cp", "-a", shared.paths.esp, shared.top / "saved-esp"], check=True)
    shutil.rmtree(shared.paths.data)
    subprocess.run(["cp", "-a", saved, shared.paths.data], check=True)
    shutil.rmtree(shared.paths.esp)
    subprocess.run(["cp", "-a", shared.top / "saved-esp", shared.paths.esp], check=True)
    if os.path.ismount(shared.paths.runtime / "slot"):
        subprocess.run(["umount", shared.paths.runtime / "slot"], check=True)
    shared.boot(Slot.A, "normal")
    loop.make_ext4(shared.loops[Slot.B], Slot.B.unfinished_label)
    return shared


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_apart(
    device: Device, failpoint: str, *argv: str | Path
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, that dies at a failpoint."""
    loops = {str(slot): str(path) for slot, path in device.loops.items()}
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from abupdate.disk.layout import Slot\nfrom tests.slots.device import Device\n"
        f"loops = {{Slot(name): Path(path) for name, path in {loops!r}.items()}}\n"
        f"device = Device(Path({str(device.top)!r}), loops, Slot({str(device.booted)!r}))\n"
        "sys.exit(device.run(*sys.argv[1:]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        env={**os.environ, failpoints.VARIABLE: failpoint},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent.parent,
    )


def status(device: Device, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert device.run("status", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.mark.row("S1")
def test_an_install_makes_the_other_slot_equal_to_the_commit(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hash_of(device.loops[Slot.A])
    uuid = read_superblock(device.loops[Slot.B])
    assert device.run("install", device.top / "2.bundle") == 0
    said = capsys.readouterr().out
    assert "release 2" in said.lower()
    assert "on trial" in said
    assert hash_of(device.loops[Slot.A]) == before
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("A", "Ax", "B")
    assert (state.ustate, state.countdown) == (Ustate.INSTALLED, 3)
    superblock = read_superblock(device.loops[Slot.B])
    assert superblock is not None
    assert uuid is not None
    assert superblock.label == "rootB"
    assert superblock.uuid != uuid.uuid
    assert device.run("verify", "B") == 0
    found = status(device, capsys)
    assert found["slots"]["B"]["release"] == "2"  # type: ignore[index]
    assert found["last_install"]["outcome"] == "installed, on trial"  # type: ignore[index]


@pytest.mark.row("S2")
def test_a_byte_changed_beneath_the_filesystem_is_named(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    change_beneath(device.loops[Slot.B], b"tool 2\n" * 1000)
    capsys.readouterr()
    assert device.run("verify", "B") == 10
    assert "usr/bin/tool: content differs" in capsys.readouterr().err


@pytest.mark.row("S34")
def test_confirm_needs_passing_checks_and_resets_the_countdown(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    device.boot(Slot.B, "trial")
    check = device.paths.etc / "required.d" / "50-app"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", device.paths.root / "etc"], check=True)
    try:
        check.parent.mkdir(parents=True)
        check.write_text("#!/bin/sh\necho no answer; exit 3\n")
        check.chmod(0o755)
        assert device.run("check", "--boot") == 7
        assert device.state().ustate == Ustate.INSTALLED
        check.write_text("#!/bin/sh\nexit 0\n")
        assert device.run("check", "--boot") == 0
        assert device.run("confirm", "--boot") == 0
    finally:
        subprocess.run(["umount", device.paths.root / "etc"], check=True)
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("B", "AB", "x")
    assert (state.ustate, state.countdown) == (Ustate.OK, 8)
    found = status(device, capsys)
    assert found["last_install"]["outcome"] == "confirmed"  # type: ignore[index]
    tags = device.machine.store().refs("refs/tags")
    booted = [commit for name, commit in tags.items() if name.startswith("refs/tags/booted-")]
    assert booted == [found["booted"]["commit"]]  # type: ignore[index]
    assert device.run("confirm") == 3


def test_rollback_reject_and_history(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert device.run("rollback") == 7  # nothing to go back to yet
    assert device.run("reject") == 7
    assert device.run("install", device.top / "2.bundle") == 0
    device.boot(Slot.B, "trial")
    assert device.run("install", device.top / "3.bundle") == 7  # from inside a trial
    assert device.run("confirm") == 0
    assert device.run("rollback") == 0
    assert device.state().trial == "A"
    assert device.run("reject") == 0
    state = device.state()
    assert (state.slot, state.good, state.ustate) == ("B", "xB", Ustate.FAILED)
    capsys.readouterr()
    assert device.run("history", "--json") == 0
    events = [entry["event"] for entry in json.loads(capsys.readouterr().out)["entries"]]
    assert events == ["installed", "confirmed", "rollback", "rejected"]


def test_install_without_arming_waits_for_arm(device: Device) -> None:
    assert device.run("arm") == 7
    assert device.run("install", "--no-arm", device.top / "2.bundle") == 0
    assert device.state().ustate == Ustate.OK
    assert device.run("arm") == 0
    assert device.state().trial == "B"
    assert device.run("arm") == 3


def test_a_second_install_replaces_the_armed_one(device: Device) -> None:
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("install", device.top / "3.bundle") == 0
    state = device.state()
    assert (state.trial, state.countdown) == ("B", 3)
    record = device.machine.records.slot(Slot.B)
    assert record is not None
    assert record.release == "3"
    assert device.run("verify", "B") == 0


def test_etc_changes_go_along_and_stay_behind(device: Device) -> None:
    upper = device.paths.data / "etc/A/upper"
    (upper / "hostname").write_text("mine\n")
    os.setxattr(upper / "hostname", "trusted.overlay.origin", b"lower A")
    os.mknod(upper / "deleted", 0o020000, 0)
    assert device.run("install", device.top / "2.bundle") == 0
    other = device.paths.data / "etc/B/upper"
    assert (other / "hostname").read_text() == "mine\n"
    assert "trusted.overlay.origin" not in os.listxattr(other / "hostname")
    assert "trusted.overlay.origin" in os.listxattr(upper / "hostname")
    assert (other / "deleted").lstat().st_mode == 0o020000
    assert (device.paths.data / "etc/B/work").is_dir()


def snapshot(device: Device) -> tuple[str, bytes, str]:
    """What a refused command must not change: slot B, boot state, history and records."""
    records = subprocess.run(
        ["find", device.paths.state, "-type", "f", "!", "-path", "*/objects/info/*",
         "-exec", "sha256sum", "{}", "+"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    env = device.paths.esp / "grub/grubenv"
    return hash_of(device.loops[Slot.B]), env.read_bytes(), "\n".join(sorted(records.splitlines()))


def bad_sources(device: Device) -> dict[str, tuple[Path, int, str]]:
    top = device.top
    whole = (top / "2.bundle").read_bytes()
    (top / "short.bundle").write_bytes(whole[: len(whole) // 2])
    (top / "text.bundle").write_text("this is no bundle\n" * 100)
    (top / "empty.bundle").write_bytes(b"")
    if not (top / "stranger.bundle").exists():
        device.publish("keygen", "--out", top / "stranger")
        shutil.copy(top / "stranger/release", top / "keys/stranger")
        (top / "rootfs9").mkdir()
        make_release(device, make_rootfs(top / "rootfs9/x", "9"), "9", key="stranger")
        shutil.copy(top / "9.bundle", top / "stranger.bundle")
    return {
        "truncated": (top / "short.bundle", 9, "whole"),
        "text": (top / "text.bundle", 9, "bundle"),
        "empty": (top / "empty.bundle", 9, "bundle"),
        "missing": (top / "none.bundle", 9, "none.bundle"),
        "unknown signer": (top / "stranger.bundle", 6, "signer"),
    }


@pytest.mark.row("U10")
@pytest.mark.parametrize("case", ["truncated", "text", "empty", "missing", "unknown signer"])
def test_a_bad_bundle_changes_nothing(
    device: Device, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    path, code, says = bad_sources(device)[case]
    before = snapshot(device)
    capsys.readouterr()
    assert device.run("install", path) == code
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert snapshot(device) == before
    assert list((device.paths.state / "spool").iterdir()) == []


@pytest.mark.row("U10")
def test_no_key_is_told_before_anything_is_read(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", device.paths.vendor], check=True)
    try:
        (device.paths.vendor / "config.toml").write_text('[device]\ncompatible = "testbox"\n')
        before = snapshot(device)
        assert device.run("install", device.top / "2.bundle") == 6
        assert "key" in capsys.readouterr().err
        assert snapshot(device) == before
    finally:
        subprocess.run(["umount", device.paths.vendor], check=True)


@pytest.mark.row("U10")
def test_other_refusals_have_their_code(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(device)
    bundle = device.top / "2.bundle"
    second = device.loops.pop(Slot.B)
    assert device.run("install", bundle) == 7
    assert "no other slot" in capsys.readouterr().err
    device.loops[Slot.B] = second
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert device.run("install", bundle) == 7
    assert "root" in capsys.readouterr().err
    monkeypatch.undo()
    with job(device.paths.runtime, "another"):
        assert device.run("install", bundle) == 5
    assert "another" in capsys.readouterr().err
    assert device.run("status", "--no-such-option") == 2
    assert device.run("verify", "C") == 2
    device.paths.cmdline.write_text("abupdate.slot=B root=PARTUUID=0 quiet\n")
    assert device.run("install", bundle) == 7
    assert "disagree" in capsys.readouterr().err
    device.paths.cmdline.write_text("quiet\n")
    assert device.run("status") == 7
    assert snapshot(device) == before


def test_a_release_that_does_not_fit_is_refused_before_the_first_write(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mke2fs", "-q", "-F", "-L", "newB", device.loops[Slot.B], "8M"], check=True)
    large = device.top / "rootfs-large"
    if not large.exists():
        make_rootfs(large, "4")
        (large / "usr/large").write_bytes(os.urandom(12 << 20))
        make_release(device, large, "4")
    before = hash_of(device.loops[Slot.B])
    assert device.run("install", device.top / "4.bundle") == 8
    assert "MiB" in capsys.readouterr().err
    assert hash_of(device.loops[Slot.B]) == before
    assert device.state().good == "Ax"


def test_the_running_release_is_not_installed_again(device: Device) -> None:
    assert device.run("install", device.top / "1.bundle") == 3


@pytest.mark.row("S62")
@pytest.mark.parametrize("point", INSTALL_POINTS)
def test_killed_anywhere_the_old_slot_boots_and_a_rerun_ends_well(
    device: Device, point: str
) -> None:
    done = run_apart(device, f"{point}:kill", "install", device.top / "2.bundle")
    assert done.returncode == -9, done.stderr
    state = device.state()
    assert state.slot == "A"
    assert "A" in state.good
    assert "B" not in state.good
    superblock = read_superblock(device.loops[Slot.B])
    if state.ustate == Ustate.INSTALLED:
        # Only a slot that is complete is ever armed.
        assert point in ("armed", "state-primary-written")
        assert device.run("verify", "B") == 0
    elif superblock is not None and superblock.label == "rootB":
        assert point in ("label-restored", "slot-recorded", "begin-backup-written")
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.state().trial == "B"
    assert device.run("verify", "B") == 0
    assert list((device.paths.state / "spool").iterdir()) == []


@pytest.mark.parametrize("point", ["begun", "materialise-half", "read-back", "label-restored"])
def test_an_error_leaves_the_slot_unarmed_and_unmounted(
    device: Device, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}:error")
    assert device.run("install", device.top / "2.bundle") == 11
    monkeypatch.delenv(failpoints.VARIABLE)
    assert not os.path.ismount(device.paths.runtime / "slot")
    state = device.state()
    assert (state.slot, state.good, state.trial) == ("A", "Ax", "x")
    history = device.machine.records.history()
    assert history[-1].event == "install-failed"
    assert device.run("install", device.top / "2.bundle") == 0


def test_a_release_for_another_product_or_from_a_newer_one_only_is_refused(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (device.top / "7.bundle").exists():
        rootfs = make_rootfs(device.top / "rootfs-foreign", "7")
        for version, product, more in (
            ("7", "otherbox", ()),
            ("8", "testbox", ("--min-from", "5")),
        ):
            repo = ("--repo", device.publisher, "--version", version)
            device.publish("commit", rootfs, *repo, "--compatible", product, *more)
            device.publish("sign", *repo, "--key", device.top / "keys/release")
            device.publish("bundle", *repo, "-o", device.top / f"{version}.bundle")
    before = snapshot(device)
    capsys.readouterr()
    assert device.run("install", device.top / "7.bundle") == 7
    assert "'otherbox'" in capsys.readouterr().err
    assert device.run("install", device.top / "8.bundle") == 7
    assert "Install release 5 first" in capsys.readouterr().err
    assert snapshot(device) == before


def test_the_floor_of_a_confirmed_release_is_kept(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (device.top / "6.bundle").exists():
        rootfs = make_rootfs(device.top / "rootfs-floor", "6")
        shutil.copy(
            device.top / "keys/allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers"
        )
        repo = ("--repo", device.publisher, "--version", "6")
        device.publish("commit", rootfs, *repo, "--compatible", "testbox", "--floor", "3")
        device.publish("sign", *repo, "--key", device.top / "keys/release")
        device.publish("bundle", *repo, "-o", device.top / "6.bundle")
    assert device.run("install", device.top / "6.bundle") == 0
    device.boot(Slot.B, "trial")
    assert device.run("confirm") == 0
    capsys.readouterr()
    assert device.run("install", device.top / "2.bundle") == 7
    assert "older than 3" in capsys.readouterr().err
