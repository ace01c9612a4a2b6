"""podman for real: a container that runs, one that was stopped, and the trial that needs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import device
import guest
import publisher
import pytest
from device_vm import DeviceVM, make_medium
from image import Sizes
from vm import VM, Disk, accelerator

from tests.vm import podman
from tests.vm.trials import Trials

pytestmark = pytest.mark.long

_CONFIG = '[health]\ncontainers = ["web"]\nwait = 20\ninterval = 2\n'
_NAME = "abupdate/config.d/20-containers.toml"
ONE = guest.Release("1", packages=podman.PACKAGES)
TWO = guest.Release("2", packages=podman.PACKAGES)


@pytest.fixture(scope="module")
def machine(images: Path) -> Iterator[Trials]:
    series = publisher.publish([ONE, TWO])
    signers = publisher.key().allowed_signers
    built = device.build(series.bundle("1"), signers, Sizes())
    medium = make_medium(images / "medium.img", {"2.bundle": series.bundle("2", since=["1"])})
    accel = accelerator(lambda: guest.kernel(guest.build(ONE, signers.read_text())))
    disk = device.copy(built, images / "disk.img")
    with VM([Disk(disk), Disk(medium, readonly=True)], firmware="bios", accel=accel) as vm:
        found = DeviceVM(vm)
        found.power_on()
        found.wait_for_boot()
        found.settle()
        found.run("sh", "-c", podman.MAKE, timeout=600)
        found.mount_medium()
        found.install("2.bundle", "--no-arm")
        trials = Trials(found, disk)
        trials.tries(1)
        yield trials


def check(trials: Trials) -> tuple[int, str]:
    done = trials.machine.run("abupdate", "check", "--json", ok=None, timeout=300)
    found = {result["name"]: result for result in json.loads(done.stdout)["checks"]}
    return done.code, found["containers"]["reason"]


@pytest.mark.row("S35")
def test_a_container_by_hand(machine: Trials) -> None:
    machine.write(f"/etc/{_NAME}", _CONFIG)
    assert check(machine) == (7, "web is created")
    machine.machine.run("podman", "start", "web", timeout=300)
    machine.machine.run("podman", "healthcheck", "run", "web", timeout=300)
    assert check(machine) == (0, "all run")
    machine.machine.run("podman", "stop", "--time", "1", "web", timeout=300)
    assert check(machine) == (7, "web is exited (exit code 137)")
    machine.machine.run("podman", "rm", "web", timeout=300)
    assert check(machine)[1] in ("web does not exist",)
    machine.machine.run("sh", "-c", podman.MAKE, timeout=600)
    machine.machine.run("rm", f"/etc/{_NAME}")


@pytest.mark.row("S35")
def test_a_trial_whose_container_is_stopped(machine: Trials) -> None:
    machine.machine.run("podman", "start", "web", timeout=300)
    machine.machine.run("podman", "stop", "--time", "1", "web", timeout=300)
    machine.give({_NAME: _CONFIG})
    machine.start()
    machine.came_back()
    (boot,) = machine.why("A container that was stopped")["boots"]
    told = "required check 'containers' failed: web is exited (exit code 137)"
    assert boot["reasons"] == [told]


@pytest.mark.row("S35")
def test_a_trial_whose_container_runs(machine: Trials) -> None:
    machine.give(
        {
            _NAME: _CONFIG,
            "systemd/system/web.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
            "ExecStart=/usr/bin/podman start web\nExecStart=/usr/bin/podman healthcheck run web\n",
            "systemd/system/multi-user.target.d/web.conf": "[Unit]\nWants=web.service\n",
        }
    )
    machine.start()
    machine.machine.settle()
    assert machine.machine.status()["last_install"]["outcome"] == "confirmed"
    assert check(machine) == (0, "all run")
