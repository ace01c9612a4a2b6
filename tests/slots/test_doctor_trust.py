"""`abupdate doctor` on who may sign releases: each finding made for real."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from abupdate.paths import Paths
from abupdate.update import trust
from tests.slots.boot_device import NEW, BootDevice, doctor
from tests.unit.release_keys import Key, make_key

Capsys = pytest.CaptureFixture[str]
DAY = 86400


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder, name) for name in ("alice", "bob")}


@dataclass
class Believed:
    """The trust files of a device whose slot and `/etc` can be written to."""

    device: BootDevice
    capsys: Capsys

    @property
    def paths(self) -> Paths:
        return self.device.paths

    @property
    def signers(self) -> Path:
        return self.paths.vendor / "allowed_signers"

    @property
    def owners(self) -> Path:
        return self.paths.etc / "allowed_signers.d"

    def list(self, *lines: str) -> None:
        self.signers.write_text("".join(f"{line}\n" for line in lines))

    def found(self, *ids: str, code: int = 0) -> str:
        """What doctor finds is this and no more; its messages and advice."""
        got, found, _ = doctor(self.device, self.capsys)
        assert set(found) == {*ids, *NEW}, found
        assert got == code
        return " ".join(f"{found[one]['message']} {found[one]['advice']}" for one in ids)


@pytest.fixture
def believed(device: BootDevice, capsys: Capsys) -> Iterator[Believed]:
    assert device.run("confirm", "--boot") == 0
    folders = [device.paths.vendor, device.paths.root / "etc"]
    for folder in folders:
        copy = device.top / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, symlinks=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", folder], check=True)
        shutil.copytree(copy, folder, symlinks=True, dirs_exist_ok=True)
    found = Believed(device, capsys)
    found.owners.mkdir(parents=True)
    (found.paths.state / "trust").mkdir(exist_ok=True)
    yield found
    for folder in folders:
        subprocess.run(["umount", folder], check=True)


def day(days: float) -> str:
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + days * DAY))


def before(days: float) -> str:
    return f'valid-before="{day(days)}"'


def after(days: float) -> str:
    return f'valid-after="{day(days)}"'


def rsa(bits: int) -> str:
    """A line with an RSA key that nobody has the other half of."""
    modulus = ((1 << bits) - 1).to_bytes(bits // 8 + 1, "big")
    fields = [b"ssh-rsa", b"\1\0\1", modulus]
    blob = b"".join(len(one).to_bytes(4, "big") + one for one in fields)
    return f'weak namespaces="git" ssh-rsa {base64.b64encode(blob).decode()}'


def test_nobody_may_sign(believed: Believed) -> None:
    believed.list("# nobody yet")
    told = believed.found("signers-none", code=11)
    assert str(believed.signers) in told
    assert "abupdate publish keygen" in told
    believed.signers.unlink()
    believed.found("signers-none", code=11)


def test_one_line_refuses_all(believed: Believed, keys: dict[str, Key]) -> None:
    believed.list("# one", keys["alice"].line.replace("alice@example.org", "*"))
    told = believed.found("signers-refused", code=11)
    assert f"{believed.signers}:2: '*' is not one plain name" in told
    believed.list(keys["alice"].limited('valid-before="20261341"'))
    assert f"{believed.signers}:1: option" in believed.found("signers-refused", code=11)


def test_rotation_is_no_finding(believed: Believed, keys: dict[str, Key]) -> None:
    """One principal with two keys, one of them not valid yet, in two files."""
    alice, bob = keys["alice"], keys["bob"]
    believed.list(alice.limited(before(20)), bob.line.replace("bob", "alice"))
    believed.found()
    believed.list(alice.limited(before(20)))
    (believed.owners / "next").write_text(bob.limited(after(10)))
    believed.found()
    believed.list(alice.limited(before(40)))
    (believed.owners / "next").unlink()
    believed.found()


def test_the_last_key_expires_soon(believed: Believed, keys: dict[str, Key]) -> None:
    believed.list(keys["alice"].limited(before(20)), keys["bob"].limited(before(29)))
    told = believed.found("signers-expiring")
    assert f"{believed.signers}:2: key SHA256:" in told
    assert "bob@example.org" in told
    # A successor that begins too late is none.
    believed.list(keys["alice"].limited(before(20)), keys["bob"].limited(after(21)))
    believed.found("signers-expiring")


def test_one_has_expired(believed: Believed, keys: dict[str, Key]) -> None:
    (believed.owners / "more").write_text(keys["bob"].limited(before(-1)))
    told = believed.found("signer-expired")
    assert f"{believed.owners / 'more'}:1: " in told
    assert "can be removed" in told
    (believed.owners / "more").unlink()
    believed.list(keys["alice"].line, keys["bob"].limited(before(-1)))
    assert "Leave it out of the next release" in believed.found("signer-expired")


def test_none_is_valid(believed: Believed, keys: dict[str, Key]) -> None:
    (believed.paths.etc / "revoked").write_bytes(keys["alice"].public.read_bytes())
    bob = keys["bob"]
    for line, why in (
        (bob.limited(before(-1)), "has expired (valid-before="),
        (bob.limited(after(1)), "is not valid yet (valid-after="),
        (rsa(512), "is none that ssh-keygen can use"),
    ):
        believed.list(keys["alice"].line, line)
        told = believed.found("signers-invalid", code=11)
        assert f"{believed.signers}:1" in told
        assert f"alice@example.org is revoked by {believed.paths.etc / 'revoked'}" in told
        assert f"{believed.signers}:2" in told
        assert why in told


def test_the_time_that_counts(
    believed: Believed, keys: dict[str, Key], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock at 1970 is lifted to what was signed last; one far ahead counts."""
    believed.list(keys["alice"].limited(before(-1)), keys["bob"].limited(after(-3)))
    for moment in (0, time.time() + 9999 * DAY):
        trust.remember_signature(believed.paths, int(time.time()))
        monkeypatch.setattr("abupdate.doctor.diagnose_trust.time.time", lambda now=moment: now)
        believed.found("signer-expired")
        monkeypatch.undo()
    believed.list(keys["alice"].limited(before(-1)))
    monkeypatch.setattr("abupdate.doctor.diagnose_trust.time.time", lambda: 0)
    assert "valid at 20" in believed.found("signers-invalid", code=11)


@pytest.mark.parametrize("binary", [False, True], ids=["list", "krl"])
def test_one_is_revoked(believed: Believed, keys: dict[str, Key], binary: bool) -> None:
    believed.list(keys["alice"].line, keys["bob"].line)
    kept = trust.kept_revoked(believed.paths)
    if binary:
        subprocess.run(["ssh-keygen", "-k", "-q", "-f", kept, keys["bob"].public], check=True)
    else:
        kept.write_bytes(keys["bob"].public.read_bytes())
    told = believed.found("signer-revoked")
    assert f"{believed.signers}:2: " in told
    assert f"bob@example.org is revoked by {kept}" in told


def test_a_key_is_listed_twice(believed: Believed, keys: dict[str, Key]) -> None:
    believed.list(keys["alice"].line, keys["bob"].line, keys["alice"].limited(before(90)))
    told = believed.found("signer-doubled")
    assert f"{believed.signers}:3: " in told
    assert f"{believed.signers}:1 too" in told


def test_a_key_that_rescue_took_over(believed: Believed, keys: dict[str, Key]) -> None:
    """Rescue has the keys of the release that was confirmed last beside its own."""
    believed.list(keys["alice"].line)
    believed.owners.mkdir(parents=True, exist_ok=True)
    (believed.paths.etc / trust.KEPT_KEYS).write_text(f"{keys['alice'].line}\n")
    believed.found()


def test_weak_keys(believed: Believed, keys: dict[str, Key]) -> None:
    believed.list(keys["alice"].line, rsa(2048))
    believed.found()
    believed.list(keys["alice"].line, rsa(1024))
    told = believed.found("signer-weak", code=11)
    assert f"{believed.signers}:2: " in told
    assert "RSA with 1024" in told
    believed.list(keys["alice"].line, rsa(1016))
    assert f"{believed.signers}:2: " in believed.found("signer-unreadable")


def cut(path: Path) -> None:
    path.write_text("ssh-ed25519 AAAA\n")


def lead_nowhere(path: Path) -> None:
    path.symlink_to("gone")


def cut_binary(path: Path) -> None:
    path.write_bytes(b"SSHKRL\n\0 and no more")


@pytest.mark.parametrize("harm", [cut, lead_nowhere, cut_binary])
def test_a_revocation_file_that_refuses_all(
    believed: Believed, harm: Callable[[Path], None]
) -> None:
    path = believed.paths.etc / "revoked"
    harm(path)
    told = believed.found("revocations-damaged", code=11)
    assert str(path) in told
    assert "no release can be installed" in told
    assert believed.device.run("info", believed.device.top / "2.bundle") == 6


def test_revocations_that_are_not_kept(believed: Believed, keys: dict[str, Key]) -> None:
    own, kept = trust.own_revoked(believed.paths), trust.kept_revoked(believed.paths)
    own.write_bytes(keys["bob"].public.read_bytes())
    for _ in range(2):
        assert str(kept) in believed.found("revocations-missing")
        assert believed.device.run("confirm", "--boot") == 0
        believed.found()
        kept.unlink()
    subprocess.run(["ssh-keygen", "-k", "-q", "-f", own, keys["bob"].public], check=True)
    assert str(own) in believed.found("revocations-binary")


def test_others_can_change_it(believed: Believed, tmp_path: Path, keys: dict[str, Key]) -> None:
    kept = believed.paths.state / "trust"
    (kept / "floor").write_text("1\n")
    elsewhere = tmp_path / "signer"
    elsewhere.write_text(keys["bob"].line)
    (believed.owners / "link").symlink_to(elsewhere)
    believed.found()
    for path in (
        believed.signers, believed.paths.vendor, believed.owners, believed.paths.root / "etc",
        believed.paths.data, kept, kept / "floor", elsewhere,
    ):  # fmt: skip
        mode = path.stat().st_mode
        for bits in (0o020, 0o002):
            path.chmod(mode | bits)
            told = believed.found("trust-writable", code=11)
            assert f"{path} should be root's" in told
            assert f"chmod go-w {path}" in told
        path.chmod(mode)
        os.chown(path, 1000, 0)
        assert f"chown root: {path}" in believed.found("trust-writable", code=11)
        os.chown(path, 0, 0)
    believed.found()


def test_what_should_tell_an_age(believed: Believed) -> None:
    for name in ("floor", "newest"):
        path = believed.paths.state / "trust" / name
        path.write_bytes(b"\0\0\0\0")
        assert f"{path} should hold" in believed.found("trust-rotten", code=11)
        path.unlink()


def test_without_ssh_keygen(believed: Believed, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = believed.device.top / "programs"
    programs.mkdir()
    for name in ("git", "prlimit", "setpriv"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    monkeypatch.setattr("abupdate.run.SEARCH_PATH", str(programs))
    assert "openssh-client" in believed.found("signers-unchecked", code=11)
