"""The owner's hooks around an install, and a person who is asked when something fails."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from abupdate.disk.filesystem import read_superblock
from abupdate.disk.layout import Slot
from tests.slots.apart import TOP, command
from tests.slots.device import Device, snapshot
from tests.slots.fixed import make_fixed, opened, running, set_time_limit

AddHook = Callable[[str, str], Path]


@pytest.fixture
def device(plain_device: Device) -> Device:
    """Release 1 in A, nothing in B."""
    return plain_device


@pytest.fixture
def hook(device: Device) -> Iterator[AddHook]:
    """Adds an owner's hook to /etc/abupdate: place and body."""
    mounted = device.paths.root / "etc"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)

    def add(place: str, body: str) -> Path:
        path = device.paths.etc / "hooks" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    yield add
    subprocess.run(["umount", mounted], check=True)


def without_history(device: Device) -> object:
    """`snapshot`, but for the line that tells what failed and the release in the store."""
    slot, env, records = snapshot(device)
    kept = [line for line in records.splitlines() if "/slots/" in line or "intent" in line]
    return slot, env, kept


@pytest.mark.row("U20")
def test_a_hook_before_stops_the_install_and_nothing_is_written(
    device: Device, hook: AddHook, capsys: pytest.CaptureFixture[str]
) -> None:
    hook("pre-install.d/10-ok", "true")
    hook("pre-install.d/20-no", 'echo "$ABUPDATE_RELEASE to $ABUPDATE_SLOT$ABUPDATE_MOUNT"; exit 3')
    before = without_history(device)
    assert device.run("install", device.top / "2.bundle") == 7
    said = capsys.readouterr().err
    assert "20-no should end with exit code 0, but it ended with exit code 3" in said
    assert "2 to B\n" in said
    assert without_history(device) == before
    entry = device.machine.records.history()[-1]
    assert entry.event == "install-failed"
    assert "2 to B" in entry.detail["error"]


@pytest.mark.row("U20")
@pytest.mark.parametrize("place", ["pre-install.d/1", "post-install.d/1"])
def test_a_hanging_hook_is_stopped_and_fails_the_install(
    device: Device, hook: AddHook, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    hook(place, "setsid sleep 98765.125 & echo waiting; sleep 98765.125")
    set_time_limit(device, 1)
    began = time.monotonic()
    assert device.run("install", device.top / "2.bundle") == 7
    assert time.monotonic() - began < 30
    said = capsys.readouterr().err
    assert "stopped after 1 seconds" in said
    assert "waiting" in said
    assert running("98765.125") == []
    assert (device.state().trial, device.state().ustate) == ("x", 0)


def test_a_hook_after_sees_the_slot_and_can_refuse_it(
    device: Device, hook: AddHook, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hook("post-install.d/1", "cat $ABUPDATE_MOUNT/etc/release; exit 1")
    assert device.run("install", device.top / "2.bundle") == 7
    assert "release 2\n" in capsys.readouterr().err
    superblock = read_superblock(device.loops[Slot.B])
    assert superblock is not None
    assert superblock.label == "newB"
    assert (device.state().trial, device.state().good) == ("x", "Ax")
    assert device.run("arm") == 7
    path.unlink()
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.state().trial == "B"


def test_a_hook_can_write_nothing(device: Device, hook: AddHook) -> None:
    """Neither the slot nor the running system, nor data; it reaches no service and no network."""
    tries = [f"{path}/written" for path in (device.paths.data, device.paths.esp, "/usr", "/etc")]
    body = [f"(echo x > {path}) 2>/dev/null && exit 9" for path in tries]
    body += ["(echo x > $ABUPDATE_MOUNT/etc/release) 2>/dev/null && exit 10"]
    body += ["mount -o remount,rw $ABUPDATE_MOUNT 2>/dev/null && exit 11"]
    body += ["mount -o remount,rw / 2>/dev/null && exit 12"]
    body += ["umount $ABUPDATE_MOUNT 2>/dev/null && exit 13"]
    body += ["[ -e /run/systemd ] && exit 14", f"[ -e /proc/{os.getpid()} ] && exit 15"]
    body += ["[ $(grep -c : /proc/net/dev) = 1 ] || exit 16"]  # the loopback
    body += ["for disk in /dev/loop* /dev/sd* /dev/vd*; do [ -e $disk ] && exit 17; done"]
    body += ["kill -9 1 2>/dev/null; echo x > $(mktemp) || exit 18", "exit 0"]
    hook("post-install.d/1", "\n".join(body))
    assert device.run("install", device.top / "2.bundle") == 0
    assert device.run("verify", "B") == 0
    assert not (device.paths.data / "written").exists()


def test_hooks_of_the_owner_replace_those_of_the_release(device: Device, hook: AddHook) -> None:
    vendor = device.paths.vendor
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", vendor], check=True)
    try:
        folder = vendor / "hooks/pre-install.d"
        folder.mkdir(parents=True)
        (folder / "1").write_text("#!/bin/sh\nexit 1\n")
        (folder / "1").chmod(0o755)
        subprocess.run(["cp", device.top / "keys/allowed_signers", vendor], check=True)
        compatible = "abupdate.device.compatible=testbox"
        with device.paths.cmdline.open("a") as file:
            file.write(f" {compatible}")
        assert device.run("install", device.top / "2.bundle") == 7
        hook("pre-install.d/1", "exit 0")
        assert device.run("install", device.top / "2.bundle") == 0
    finally:
        subprocess.run(["umount", vendor], check=True)


class Person:
    """Somebody at a terminal, in front of one command."""

    def __init__(self, device: Device, *argv: str | Path) -> None:
        words = command(device, *argv)
        self.said = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(TOP)
            os.execv(words[0], words)

    def expect(self, text: str) -> None:
        """Read until something new has this in it."""
        new, end = "", time.monotonic() + 60
        while text not in new:
            assert time.monotonic() < end, self.said + new
            if select.select([self._fd], [], [], 1)[0]:
                new += os.read(self._fd, 65536).decode(errors="replace")
        self.said += new

    def say(self, line: str) -> None:
        """Type a line."""
        os.write(self._fd, f"{line}\n".encode())

    def code(self) -> int:
        """How the command ended."""
        while True:
            try:
                if not (read := os.read(self._fd, 65536)):
                    break
            except OSError:
                break
            self.said += read.decode(errors="replace")
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


@pytest.mark.row("S27")
def test_a_person_mends_what_a_fixup_needs(device: Device) -> None:
    bundle = make_fixed(device, {"1": "[ -e /etc/key ] || { echo no key; exit 1; }"}, ["etc/key"])
    person = Person(device, "install", "--interactive", bundle)
    person.expect("slot B # ")
    assert "no key" in person.said
    person.say("echo mine > /usr/bin/other; echo $?; rm /usr/bin/other")
    person.say("mount -t tmpfs t /empty; echo mount $?")
    person.expect("mount 32")
    person.say("sleep 1000")
    time.sleep(0.5)
    os.write(person._fd, b"\x03")  # Ctrl-C is the shell's
    person.expect("slot B # ")
    person.say("echo mine > /etc/key")
    person.say("exit")
    assert person.code() == 0, person.said
    assert device.state().trial == "B"
    with opened(device) as slot:
        assert (slot / "etc/key").read_text() == "mine\n"
    assert device.run("verify", "B") == 0


@pytest.mark.row("S27")
@pytest.mark.parametrize("terminal", [True, False])
def test_given_up_or_without_a_terminal_the_old_system_stays(
    device: Device, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    bundle = make_fixed(device, {"1": "exit 1"})
    if terminal:
        person = Person(device, "install", "--interactive", bundle)
        person.expect("slot B # ")
        person.say("exit 1")
        assert person.code() == 7, person.said
    else:
        assert device.run("install", "--interactive", bundle) == 2
        assert "needs a terminal" in capsys.readouterr().err
        assert device.run("install", bundle) == 7
    state = device.state()
    assert (state.slot, state.good, state.trial, state.ustate) == ("A", "Ax", "x", 0)


@pytest.mark.row("S27")
def test_a_person_looks_where_a_hook_failed(device: Device, hook: AddHook) -> None:
    hook("post-install.d/1", "[ -e /tmp/never ]")
    person = Person(device, "install", "--interactive", device.top / "2.bundle")
    person.expect("slot B # ")
    person.say("cat $ABUPDATE_MOUNT/etc/release; exit 1")
    assert person.code() == 7
    assert "release 2" in person.said
