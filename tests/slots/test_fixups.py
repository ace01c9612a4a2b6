"""Fixups of a release on real ext4: what they may do, what they leave, what comes after them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from abupdate.boot.state import Ustate
from abupdate.disk import filesystem
from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import Slot
from tests.slots import beneath
from tests.slots.apart import run_apart, start_apart
from tests.slots.device import Device, hash_of
from tests.slots.fixed import make_fixed, opened, running, set_time_limit


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


def assert_not_armed(device: Device) -> None:
    """The booted slot boots next; the other is unfinished, and nothing of ours is mounted."""
    state = device.state()
    assert (state.slot, state.good, state.trial, state.ustate) == ("A", "Ax", "x", Ustate.OK)
    superblock = read_superblock(device.loops[Slot.B])
    assert superblock is not None
    assert superblock.label == "newB"
    assert "abupdate" not in "".join(
        line for line in Path("/proc/self/mounts").read_text().splitlines()
        if str(device.paths.runtime) in line
    )  # fmt: skip
    assert device.machine.records.history()[-1].event == "install-failed"


@pytest.mark.row("S10")
def test_fixups_run_in_the_order_of_their_names_before_the_switch(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    told = 'echo "$0 $ABUPDATE_SLOT $ABUPDATE_MOUNT" >> /etc/order'

    def more(rootfs: Path) -> None:
        (rootfs / ".git-fixups/lib").mkdir()
        (rootfs / ".git-fixups/lib/text").write_text("theirs\n")
        (rootfs / ".git-fixups/10-a").chmod(0o750)

    fixups = {"20-b": told, "10-a": f"{told}\ncat /.git-fixups/lib/text >> /etc/order", "9-c": told}
    bundle = make_fixed(device, fixups, ["etc/order"], more)
    before = hash_of(device.loops[Slot.A])
    assert device.run("install", bundle) == 0, capsys.readouterr().err
    with opened(device) as slot:
        assert (slot / "etc/order").read_text().splitlines() == [
            "/.git-fixups/10-a B /", "theirs", "/.git-fixups/20-b B /", "/.git-fixups/9-c B /",
        ]  # fmt: skip
        assert (slot / ".git-fixups/10-a").stat().st_mode & 0o777 == 0o750
    assert device.state().trial == "B"
    assert hash_of(device.loops[Slot.A]) == before
    assert device.run("verify", "B") == 0


@pytest.mark.row("S10")
def test_a_fixup_that_fails_arms_nothing_and_its_output_is_kept(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    fixups = {"1-good": "echo x > /etc/order", "2-bad": "echo why; echo more >&2; exit 1",
              "3-never": "echo never"}  # fmt: skip
    bundle = make_fixed(device, fixups, ["etc/order"])
    assert device.run("install", bundle) == 7
    said = capsys.readouterr().err
    assert "The fixup .git-fixups/2-bad of release" in said
    assert "exit code 1" in said
    assert "why\nmore" in said
    assert "never" not in said
    assert_not_armed(device)
    assert "why\nmore" in device.machine.records.history()[-1].detail["error"]
    assert device.run("arm") == 7
    assert device.run("verify", "B") == 7
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("verify", "B") == 0


def test_a_fixup_that_hangs_is_stopped_with_all_that_it_started(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    set_time_limit(device, 1)
    fixups = {"1": "setsid sleep 98765.5 >/dev/null 2>&1 &\nwhile :; do echo still here; done"}
    bundle = make_fixed(device, fixups)
    began = time.monotonic()
    assert device.run("install", bundle) == 7
    assert time.monotonic() - began < 30
    said = capsys.readouterr().err
    assert "stopped after 1 seconds (`hooks.timeout`)" in said
    assert "still here" in said
    assert len(said) < 10_000  # it printed without end
    assert running("98765.5") == []
    assert_not_armed(device)


def test_nothing_that_a_fixup_started_is_left(device: Device) -> None:
    fixups = {"1": "setsid sleep 98765.25 >/dev/null 2>&1 </dev/null &\nexit 0"}
    assert device.run("install", make_fixed(device, fixups)) == 0
    assert running("98765.25") == []
    assert device.run("verify", "B") == 0


# What a fixup tries, and what is said of it; each fails the install.
HOSTILE = {
    "writes elsewhere": ("echo x > /usr/bin/tool2", "usr/bin/tool2 was written"),
    "removes": ("rm /usr/bin/same", "usr/bin/same was removed"),
    "removes a folder": ("rm -r /empty", "empty/inside was removed"),
    "replaces a folder": ("rm -r /empty; mkdir /empty", "empty was written"),
    "changes a mode": ("chmod 777 /usr/bin/same", "usr/bin/same was written"),
    "changes a folder": ("chown 5:5 /usr/bin", "usr/bin was written"),
    "changes the root": ("chmod 700 /", ". was written"),
    "its own fixups": ("echo true > /.git-fixups/2", ".git-fixups/2 was written"),
    "the kernel": ("echo x > /boot/vmlinuz", "boot/vmlinuz was written"),
    "the manifest": ("echo x >> /.abupdate/manifest", ".abupdate/manifest was written"),
    "by a symlink": (
        "rm -r /var/cache; ln -s /usr/bin /var/cache; echo x > /var/cache/tool3",
        "usr/bin/tool3 was written",
    ),
    "by a symlink of a file": (
        "ln -s /usr/bin/same /etc/out; echo x > /etc/out", "usr/bin/same was written"
    ),
    "one of two names": ("echo x > /usr/bin/tool-again", "is one of several names"),
    "mounts": ("mount -t tmpfs t /empty || exit 9", "exit code 9"),
    "remounts": ("mount -o remount,rw,dev,suid / || exit 9", "exit code 9"),
    "makes a device": ("mknod /etc/out b 7 0 || exit 9", "exit code 9"),
    "kernel settings": ("echo 1 > /proc/sys/vm/drop_caches || exit 9", "exit code 9"),
    "kills all that it can see": ("kill -9 -1; kill -9 $$", "signal 9"),
    "fills the disk": ("dd if=/dev/zero of=/etc/out bs=1M count=100 || exit 9", "exit code 9"),
    "is not there": ("exec /bin/nothing", "exit code 127"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_fixup_may_not_do(
    device: Device, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    body, told = HOSTILE[what]
    writes = ["etc/out", "var/cache/**", "usr/bin/tool-again"]
    bundle = make_fixed(device, {"1": body}, writes)
    before = hash_of(device.loops[Slot.A])
    assert device.run("install", bundle) == 7
    assert told in capsys.readouterr().err
    assert_not_armed(device)
    assert hash_of(device.loops[Slot.A]) == before


def test_what_a_fixup_does_not_see(device: Device) -> None:
    """Neither data nor the ESP nor another slot, no socket, no process, no network of the host."""
    (device.paths.data / "secret").write_text("mine\n")
    hidden = [device.paths.data / "secret", device.paths.esp / "grub", device.paths.root / "etc"]
    script = [f"[ ! -e {path} ] || exit 9" for path in hidden]
    script += [
        '[ -z "$(ls /data)$(ls /run)" ] || exit 10',
        f"[ ! -e /proc/{os.getpid()} ] || exit 11",
    ]
    script += ["set -- $(cat /proc/net/unix); [ $# -le 8 ] || exit 12"]
    script += ["set -- $(ls /dev | cat); [ $# -lt 15 ] || exit 13"]
    assert device.run("install", make_fixed(device, {"1": "\n".join(script)})) == 0


def test_a_fixup_that_nothing_can_run_is_refused_before_anything_is_written(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    def forget(rootfs: Path) -> None:
        (rootfs / ".git-fixups/1").chmod(0o644)

    with pytest.raises(AssertionError):
        make_fixed(device, {"1": "true"}, [], forget)
    assert "should be executable, found mode 0644" in capsys.readouterr().err


# What a fixup leaves, and what the next release has there.
LEAVES = """
echo new > /etc/made
mkdir -p /var/cache/x/deep; echo old > /var/cache/x/deep/file
echo changed > /etc/release; chmod 640 /etc/release
rm /etc/gone /var/lib/state/file; rm -r /var/lib/tree
rm -r /var/lib/other; echo now a file > /var/lib/other
rm /var/lib/plain; mkdir /var/lib/plain; echo inside > /var/lib/plain/file
ln -s ../../usr/bin/su /var/cache/link
chmod 700 /var/lib/state; touch /etc/touched
mv /var/lib/moved /var/lib/away
"""
DECLARED = ["etc/made", "etc/gone", "etc/release", "etc/touched", "var/cache/**", "var/lib/**"]


def ground(rootfs: Path) -> None:
    """What the fixups of `LEAVES` change."""
    (rootfs / "etc/gone").write_text("here\n")
    for folder in ("state", "tree/deep", "other/deep", "moved"):
        (rootfs / "var/lib" / folder).mkdir(parents=True)
        (rootfs / "var/lib" / folder / "file").write_text(f"{folder}\n")
    (rootfs / "var/lib/plain").write_text("plain\n")
    (rootfs / "etc/touched").write_text("touched\n")


def turned_around(rootfs: Path) -> None:
    """Other kinds where fixups left something."""
    (rootfs / "etc/made").mkdir()
    (rootfs / "etc/made/file").write_text("below\n")
    (rootfs / "var/cache/x").write_text("a file now\n")
    (rootfs / "var/lib/other/deep").mkdir(parents=True)
    os.link(rootfs / "usr/bin/same", rootfs / "var/lib/plain")
    (rootfs / "var/cache/link").mkdir()


@pytest.mark.parametrize("then", [ground, turned_around, lambda rootfs: None],
                         ids=["as before", "other kinds", "gone"])  # fmt: skip
def test_the_next_install_knows_what_fixups_left(
    device: Device, capsys: pytest.CaptureFixture[str], then: object
) -> None:
    bundle = make_fixed(device, {"1": LEAVES}, DECLARED, ground)
    assert device.run("install", bundle) == 0, capsys.readouterr().err
    with opened(device) as slot:
        assert (slot / "etc/release").read_text() == "changed\n"
        assert (slot / "var/cache/link").readlink() == Path("../../usr/bin/su")
        assert (slot / "var/lib/away/file").read_text() == "moved\n"
        assert sorted(path.name for path in (slot / "var/lib").iterdir()) == [
            "away", "other", "plain", "state",
        ]  # fmt: skip
    assert device.run("verify", "B") == 0
    assert callable(then)
    bundle = make_fixed(device, {}, [], then)
    assert device.run("install", bundle) == 0, capsys.readouterr().err
    assert device.machine.records.history()[-1].detail["audited"] is False
    assert device.run("verify", "B") == 0, capsys.readouterr().err
    with opened(device) as slot:
        assert not (slot / "var/lib/away").exists()
    assert not (device.paths.state / "slots/B.outputs").exists()
    record = device.machine.records.slot(Slot.B)
    assert record is not None
    assert record.outputs is None


def test_the_same_release_again_begins_from_the_commit(device: Device) -> None:
    bundle = make_fixed(device, {"1": "echo once >> /etc/release"}, ["etc/release"])
    for _ in range(2):
        assert device.run("install", bundle) == 0
        with opened(device) as slot:
            assert (slot / "etc/release").read_text() == "release fixed\nonce\n"
    assert device.machine.records.history()[-1].detail["audited"] is False


@pytest.mark.parametrize("lost", ["removed", "changed"])
def test_without_the_list_the_slot_is_looked_at(
    device: Device, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    bundle = make_fixed(device, {"1": "echo x > /etc/made"}, ["etc/made"])
    assert device.run("install", bundle) == 0
    kept = device.paths.state / "slots/B.outputs"
    if lost == "removed":
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes().replace(b"made", b"mode"))
    assert device.run("verify", "B") == 10
    assert "nothing can be compared" in capsys.readouterr().err
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.machine.records.history()[-1].detail["audited"] is True
    assert device.run("verify", "B") == 0


@pytest.mark.row("S11")
@pytest.mark.parametrize("verify", ["written", "full"])
@pytest.mark.parametrize("path", ["etc/made", "usr/bin/tool"])
def test_a_slot_that_is_corrupt_after_its_fixups_is_not_armed(
    device: Device,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verify: str,
    path: str,
) -> None:
    bundle = make_fixed(device, {"1": "echo 'what was made' > /etc/made"}, ["etc/made"])
    place = beneath.content
    monkeypatch.setattr(filesystem, "check", lambda slot: beneath.change(slot, place(slot, path)))
    assert device.run("install", "--verify", verify, bundle) == 10
    assert f"{path}: content differs" in capsys.readouterr().err
    assert_not_armed(device)


@pytest.mark.row("S11")
def test_an_output_that_is_removed_beneath_is_seen(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that should be gone, and is there."""
    from abupdate.store.materialise import overlay

    bundle = make_fixed(device, {"1": "rm /etc/release"}, ["etc/release"])
    monkeypatch.setattr(overlay, "remove", lambda _fd, _name: 0)
    assert device.run("install", bundle) == 10
    assert "etc/release: should have been removed" in capsys.readouterr().err
    assert_not_armed(device)


def test_verify_compares_with_what_was_left(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_fixed(device, {"1": "echo 'what was made' > /etc/made"}, ["etc/made"])
    assert device.run("install", bundle) == 0
    slot = device.loops[Slot.B]
    beneath.change(slot, beneath.content(slot, "etc/made"))
    assert device.run("verify", "B") == 10
    assert "etc/made: content differs" in capsys.readouterr().err


@pytest.mark.parametrize("point", ["materialised", "fixups-run", "slot-recorded"])
def test_killed_around_the_fixups_a_rerun_ends_well(device: Device, point: str) -> None:
    bundle = make_fixed(device, {"1": LEAVES}, DECLARED, ground)
    assert run_apart(device, f"{point}:kill", "install", bundle).returncode == -9
    assert device.state().good == "Ax"
    assert device.run("install", bundle) == 0
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_in_a_fixup_nothing_goes_on(device: Device, number: int) -> None:
    bundle = make_fixed(device, {"1": "sleep 98765.75"})
    process = start_apart(device, "armed:kill", "install", bundle)
    end = time.monotonic() + 60
    while not running("98765.75"):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate()
    end = time.monotonic() + 10
    while running("98765.75"):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert device.state().trial == "x"
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("verify", "B") == 0


@pytest.mark.parametrize(
    ("script", "says"),
    [("dd of=/etc/out bs=1 count=0 seek=200M", "is more than 64 MiB in all"),
     ("dd of=/etc/out bs=1 count=0 seek=4T", "is more than 64 MiB in all"),
     ("dd of=/usr/bin/out bs=1 count=0 seek=4T", "is more than 64 MiB in all"),
     ("touch -d 2500-01-01 /etc/out", "has a time that a slot cannot hold"),
     ("mkdir -p /lost+found; echo x > /lost+found/x", "lost+found was written")],
)  # fmt: skip
def test_what_no_slot_takes(
    device: Device, capsys: pytest.CaptureFixture[str], script: str, says: str
) -> None:
    """Holes count, and nothing so large is read."""
    bundle = make_fixed(device, {"1": script}, ["etc/out"])
    began = time.monotonic()
    capsys.readouterr()
    assert device.run("install", bundle) == 7
    assert time.monotonic() - began < 30
    assert says in capsys.readouterr().err
