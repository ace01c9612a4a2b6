"""What a release revokes: believed while it runs, and kept on data once it is confirmed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from abupdate.disk.layout import Slot
from abupdate.update import trust
from abupdate.update.health import health_check
from tests.slots.device import Device, make_release
from tests.slots.rootfs import make_rootfs

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bundles(shared_plain_device: Device) -> Iterator[dict[str, Path]]:
    """Releases by what they bring as `revoked`: the first key, nonsense, a binary list."""
    device = shared_plain_device
    keys = device.top / "keys"
    device.publish("keygen", "--out", keys, "--name", "next")
    subprocess.run(["ssh-keygen", "-k", "-q", "-f", keys / "krl", keys / "release.pub"], check=True)
    found = {}
    for number, (name, revoked) in enumerate(
        [
            ("list", b"# stolen\n" + (keys / "release.pub").read_bytes()),
            ("nonsense", b"SHA256:abc\n"),
            ("binary", (keys / "krl").read_bytes()),
        ]
    ):
        version = f"2.{number + 1}"
        rootfs = make_rootfs(device.top / f"rootfs{version}", version)
        shutil.copy(keys / "allowed_signers", rootfs / "usr/lib/abupdate/allowed_signers")
        (rootfs / "usr/lib/abupdate/revoked").write_bytes(revoked)
        found[name] = make_release(device, rootfs, version)
    yield found
    (keys / "allowed_signers").write_text(
        (keys / "allowed_signers").read_text().splitlines(keepends=True)[0]
    )


@pytest.fixture
def device(plain_device: Device, bundles: dict[str, Path]) -> Device:
    return plain_device


def on_trial(device: Device, bundle: Path) -> None:
    assert device.run("install", bundle) == 0
    device.boot(Slot.B, "trial")


def refused(device: Device, capsys: Capture) -> str:
    capsys.readouterr()
    assert device.run("info", device.top / "3.bundle") == 6
    return capsys.readouterr().err


@pytest.mark.row("U4")
def test_kept_from_the_confirmation_on(
    device: Device, bundles: dict[str, Path], capsys: Capture
) -> None:
    kept = trust.kept_revoked(device.paths)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("# by hand, without a newline")
    on_trial(device, bundles["list"])
    # It counts where it runs, and nowhere else yet.
    assert "usr/lib/abupdate/revoked revokes" in refused(device, capsys)
    assert kept.read_text() == "# by hand, without a newline"
    device.boot(Slot.A, "fallback")
    assert device.run("info", device.top / "3.bundle") == 0
    device.boot(Slot.B, "trial")
    assert device.run("confirm") == 0
    key = " ".join((device.top / "keys/release.pub").read_text().split()[:2])
    assert kept.read_text() == f"# by hand, without a newline\n{key}\n"
    # The old slot knows nothing of it, and asks data.
    device.boot(Slot.A, "normal")
    assert f"{kept} revokes" in refused(device, capsys)
    before = kept.stat().st_mtime_ns
    device.boot(Slot.B, "normal")
    assert device.run("confirm", "--boot") == 0
    assert kept.stat().st_mtime_ns == before, "nothing was missing"


def test_what_could_not_be_kept_is_kept_by_a_later_boot(
    device: Device, bundles: dict[str, Path], capsys: Capture
) -> None:
    on_trial(device, bundles["list"])
    kept = trust.kept_revoked(device.paths)
    kept.mkdir(parents=True)
    assert device.run("confirm") == 0
    assert "revocations: " in capsys.readouterr().err
    assert device.machine.records.history()[-1].event == "confirmed"
    kept.rmdir()
    device.boot(Slot.B, "normal")
    assert device.run("confirm", "--boot") == 0
    assert "ssh-ed25519" in kept.read_text()


def test_a_list_that_cannot_be_read_is_not_confirmed(
    device: Device, bundles: dict[str, Path], capsys: Capture
) -> None:
    """No release could be installed after it: the check `can-update` says so in time."""
    on_trial(device, bundles["nonsense"])
    assert "usr/lib/abupdate/revoked:1: expected a public key" in refused(device, capsys)
    results = {one.name: one for one in health_check(device.machine).once().results}
    assert "revoked:1: expected a public key" in results["can-update"].reason


def test_a_binary_list_counts_while_its_slot_runs(
    device: Device, bundles: dict[str, Path], capsys: Capture
) -> None:
    on_trial(device, bundles["binary"])
    assert "usr/lib/abupdate/revoked revokes" in refused(device, capsys)
    assert device.run("confirm") == 0
    assert "found a binary one" in capsys.readouterr().err
    assert device.machine.records.history()[-1].event == "confirmed"
    assert not trust.kept_revoked(device.paths).exists()


def test_a_link_to_nothing_is_no_empty_list(device: Device, capsys: Capture) -> None:
    kept = trust.kept_revoked(device.paths)
    kept.parent.mkdir(exist_ok=True)
    kept.symlink_to("gone")
    assert "cannot be read" in refused(device, capsys)
    kept.unlink()
    assert device.run("info", device.top / "3.bundle") == 0
