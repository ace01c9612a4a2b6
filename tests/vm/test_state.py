"""What belongs to the user, over two updates and a fallback; and garbage in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import device
import guest
import publisher
import pytest
from device_vm import DeviceVM, make_medium
from guest import CONFIG, Release
from image import Sizes
from vm import VM, Disk, accelerator

from tests.vm import podman
from tests.vm.trials import Trials

pytestmark = pytest.mark.long

PACKAGES = ("adduser", "openssh-server", *podman.PACKAGES)
TEXT = "".join(f"option{number} = {number}\n" for number in range(20))
NETWORK = "[Match]\nName=en*\n[Network]\nDHCP=yes\n"
# Its data is in a new form from release 3 on, which release 2 does not understand.
SNAPSHOT = f'{CONFIG}[state]\nsnapshot = ["/var/lib/app"]\n'.encode()
CONVERT = b"#!/bin/sh\necho new form > /var/lib/app/database\n"


def files(first: str, line: str, plain: str, **more: bytes) -> dict[str, bytes]:
    return {
        "/etc/app.conf": TEXT.replace("option0 = 0", f"option0 = {first}").encode(),
        "/etc/line.conf": f"{line}\n".encode(),
        "/etc/plain.conf": f"{plain}\n".encode(),
        "/etc/removed.conf": b"a default\n",
        "/etc/systemd/network/50-lan.network": NETWORK.encode(),
        "/etc/ssh/sshd_config.d/10-release.conf": f"MaxAuthTries {plain}\n".encode(),
        **{f"/{path.replace('__', '/')}": content for path, content in more.items()},
    }


CHECK = "usr__lib__abupdate__required.d__50-app"
ONE = Release("1", packages=PACKAGES, files=files("1", "one", "1"))
TWO = Release("2", packages=PACKAGES, files=files("2", "two", "2", var__lib__brought__file=b"2\n"))
THREE = Release("3", packages=PACKAGES, files={
    **files("3", "three", "3", **{CHECK: CONVERT + b"echo it does not work; exit 1\n"}),
    "/usr/lib/abupdate/config.toml": SNAPSHOT,
})  # fmt: skip
FOUR = Release("4", packages=PACKAGES, files={
    **files("4", "two", "4", **{CHECK: CONVERT}), "/usr/lib/abupdate/config.toml": SNAPSHOT,
})  # fmt: skip

LOGIN = r"(?m)^abupdate login: $"


@dataclass
class Owner:
    """A device, and a person at its serial console."""

    machine: DeviceVM
    trials: Trials

    def sh(self, commands: str, timeout: float = 120) -> str:
        return self.machine.run("sh", "-euc", commands, timeout=timeout).stdout

    def logs_in(self, name: str, password: str, answer: str) -> None:
        """At the console; `answer` is what comes then."""
        serial, agent = self.machine.vm.serial, self.machine.run
        agent("systemctl", "restart", "serial-getty@ttyS0.service")
        at = serial.position
        serial.wait_for(r"abupdate login: $", timeout=60, since=at)
        agent("sleep", "2")  # login throws away what was typed before its prompt was complete
        at = serial.position
        serial.write(f"{name}\n")
        serial.wait_for(r"Password: ", timeout=60, since=at)
        agent("sleep", "2")
        at = serial.position
        serial.write(f"{password}\n")
        serial.wait_for(answer, timeout=60, since=at)

    def belongings(self) -> str:
        """Checksums of what is the user's, and of what tells this machine from others."""
        return self.sh(
            "find /home/anna /data/mine /var/lib/mine /etc/machine-id /etc/ssh/ssh_host_*"
            " -type f -exec sha256sum {} + | sort -k2;"
            "podman inspect --format '{{.Id}} {{.Image}}' web",
            timeout=300,
        )

    def overlay(self, slot: str) -> str:
        """All of an overlay's upper folder."""
        return self.sh(
            f"tar --xattrs --xattrs-include='*' --sort=name --numeric-owner --format=pax "
            f"--pax-option=delete=atime,delete=ctime -C /data/etc/{slot}/upper -cf - . | sha256sum"
        )

    def etc(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sh("abupdate etc status --json"))
        return found

    def boots(self, release: str, slot: str, boot: str) -> None:
        marker = self.machine.wait_for_boot(release=release, boot=boot)
        assert marker.slot == slot
        assert self.machine.settle() == "running"


@pytest.fixture(scope="module")
def owner(images: Path) -> Iterator[Owner]:
    series = publisher.publish([ONE, TWO, THREE, FOUR])
    signers = publisher.key().allowed_signers
    built = device.build(series.bundle("1"), signers, Sizes())
    bundles = {f"{new}.bundle": series.bundle(new, since=[old])
               for new, old in (("2", "1"), ("3", "2"), ("4", "2"))}  # fmt: skip
    medium = make_medium(images / "medium.img", bundles)
    accel = accelerator(lambda: guest.kernel(guest.build(ONE, signers.read_text())))
    disk = device.copy(built, images / "disk.img")
    with VM([Disk(disk), Disk(medium, readonly=True)], firmware="bios", accel=accel) as vm:
        machine = DeviceVM(vm)
        machine.power_on()
        machine.wait_for_boot()
        machine.settle()
        machine.mount_medium()
        yield Owner(machine, Trials(machine, disk))


@pytest.mark.row("S52")
def test_nobody_gets_in_without_a_password(owner: Owner) -> None:
    fields = owner.sh("cut -d: -f1,2 /etc/shadow").split()
    assert not [line for line in fields if line.partition(":")[2] == ""]
    assert any(re.fullmatch(r"root:[!*].*", line) for line in fields)
    for name in ("root", "demo"):
        for password in ("", name):
            owner.logs_in(name, password, "Login incorrect")
    done = owner.machine.run("ssh-keyscan", "127.0.0.1", ok=None)
    assert "ssh-ed25519" in done.stdout


@pytest.mark.row("S26")
def test_a_package_is_refused_with_a_sentence(owner: Owner) -> None:
    for words in (("apt", "install", "hello"), ("apt-get", "-y", "remove", "git"),
                  ("dpkg", "--purge", "git")):  # fmt: skip
        done = owner.machine.run("sh", "-c", 'exec "$@"', "sh", *words, ok=None)
        assert done.code == 1
        assert "the packages of this system cannot be changed here" in done.stderr
        assert "equals release 1 bit by bit" in done.stderr
    assert "ii  git " in owner.sh("dpkg -l git")
    assert owner.machine.run("touch", "/usr/x", ok=None).code == 1


@pytest.mark.row("S28", "S49", "U14")
def test_an_update_keeps_what_the_user_did(owner: Owner) -> None:
    owner.sh(r"""
        adduser --quiet --gecos '' --disabled-password anna
        adduser --quiet anna sudo
        adduser --quiet --system --group box
        echo anna:secret | chpasswd
        echo mine > /home/anna/file; chown anna /home/anna/file
        mkdir /data/mine /var/lib/mine /var/lib/app
        echo mine | tee /data/mine/file /var/lib/mine/file
        echo old form > /var/lib/app/database
        echo 'PermitRootLogin no' >> /etc/ssh/sshd_config
        sed -i 's/DHCP=yes/Address=10.0.2.15\/24/' /etc/systemd/network/50-lan.network
        sed -i 's/option15 = 15/option15 = mine/' /etc/app.conf
        echo mine > /etc/line.conf
        rm /etc/removed.conf
        sync
    """)  # fmt: skip
    owner.sh(podman.MAKE, timeout=600)
    owner.logs_in("anna", "secret", r"anna@\S+")
    belongings, overlay = owner.belongings(), owner.overlay("A")
    assert len(belongings.splitlines()) >= 10
    done = owner.machine.install("2.bundle")
    assert "/etc/line.conf: both changed it" in done.stderr
    assert owner.overlay("A") == overlay
    owner.sh("echo late > /etc/late.conf; echo anna:secret2 | chpasswd")
    owner.machine.reboot()
    owner.boots("2", "B", "trial")
    assert owner.sh("cat /etc/late.conf") == "late\n"
    owner.logs_in("anna", "secret2", r"anna@\S+")
    text = TEXT.replace("option0 = 0", "option0 = 2").replace("option15 = 15", "option15 = mine")
    assert owner.sh("cat /etc/app.conf") == text
    assert owner.sh("cat /etc/line.conf /etc/line.conf.abupdate-new /etc/plain.conf") == (
        "mine\ntwo\n2\n"
    )
    assert "Address=10.0.2.15" in owner.sh("cat /etc/systemd/network/50-lan.network")
    assert "PermitRootLogin no" in owner.sh("cat /etc/ssh/sshd_config")
    assert "maxauthtries 2\n" in owner.sh("sshd -T")
    assert owner.machine.run("test", "-e", "/etc/removed.conf", ok=None).code == 1
    assert owner.sh("cat /var/lib/brought/file") == "2\n"
    assert "sudo" in owner.sh("id anna")
    assert owner.belongings() == belongings
    found = owner.etc()
    assert [(told["path"], told["outcome"]) for told in found["findings"]] == [
        ("app.conf", "merged"), ("line.conf", "conflict"),
    ]  # fmt: skip
    status = owner.machine.status()
    assert [told.partition(":")[0] for told in status["etc"]["conflicts"]] == ["/etc/line.conf"]
    assert status["last_install"]["outcome"] == "confirmed"
    assert status["problems"] == []


@pytest.mark.row("S49", "U14")
def test_a_fallback_finds_all_as_it_was(owner: Owner) -> None:
    """Two updates more: one whose check fails once it changed the data, and a good one."""
    machine = owner.machine
    owner.trials.tries(1)
    owner.sh("abupdate etc resolve /etc/line.conf")
    machine.mount_medium()
    machine.install("3.bundle")
    belongings, overlay = owner.belongings(), owner.overlay("B")
    machine.reboot()
    owner.boots("2", "B", "normal")
    assert owner.belongings() == belongings
    assert owner.overlay("B") == overlay
    assert owner.sh("cat /var/lib/app/database") == "old form\n"
    status = machine.status()
    assert status["last_install"]["outcome"] == "fallback"
    assert "snapshot: /var/lib/app is as it was before the trial" in status["problems"]
    owner.logs_in("anna", "secret2", r"anna@\S+")
    machine.mount_medium()
    machine.install("4.bundle")
    machine.reboot()
    owner.boots("4", "A", "trial")
    assert owner.belongings() == belongings
    assert owner.sh("cat /var/lib/app/database") == "new form\n"
    assert machine.run("test", "-e", "/data/abupdate/snapshot", ok=None).code == 1
    owner.sh("podman start web", timeout=300)
    assert owner.sh("cat /etc/line.conf /etc/plain.conf") == "mine\n4\n"
    assert owner.etc()["findings"] == [
        {"path": "app.conf", "outcome": "merged",
         "text": "your changes and the release's are both in it"}
    ]  # fmt: skip
    owner.logs_in("anna", "secret2", r"anna@\S+")


GARBAGE = """
    cd {upper}
    mkdir -p systemd abupdate/config.d
    printf '[confirm]\ndeadline = 90\n' > abupdate/config.d/90-deadline.toml
    for name in fstab passwd group shadow ld.so.conf ld.so.cache nsswitch.conf \
        systemd/system.conf systemd/journald.conf; do
        head -c 3000 /dev/urandom > $name
    done
    echo '/dev/nothing /mnt ext4 defaults 0 0' >> fstab
    rm -rf systemd/system; head -c 100 /dev/urandom > systemd/system
    sync
"""


@pytest.mark.row("S44")
def test_garbage_in_the_overlay(owner: Owner) -> None:
    """Of a trial, which may come up and never be judged: it is left at the deadline."""
    machine = owner.machine
    overlay = owner.overlay("A")
    machine.run("abupdate", "rollback")
    owner.sh(GARBAGE.format(upper="/data/etc/B/upper"))
    machine.reboot()
    owner.boots("4", "A", r"(normal|fallback)")
    assert owner.overlay("A") == overlay
    machine.run("abupdate", "acknowledge", ok=None)
