"""The bundle class's own steps, on a root filesystem in a folder."""

from __future__ import annotations

import hashlib
import marshal
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yocto_release

from abupdate.boot.cmdline import parse_abupdate_env
from abupdate.bundle.read import read_header
from abupdate.config import load
from abupdate.errors import AbupdateError, NotTrustedError, RefusedError, SourceError, UsageError
from abupdate.events import Events
from abupdate.paths import Paths
from abupdate.publish import publisher
from abupdate.release.version import Version
from abupdate.signing.signers import TrustFiles
from abupdate.store.content import open_commit
from abupdate.store.manifest import Entry
from tests.yocto import rootfs

SCRIPT = rootfs.LAYER / "lib/yocto_release.py"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return yocto_release.demo_keys(tmp_path_factory.mktemp("build") / "keys").parent


@pytest.fixture
def made(tmp_path: Path, keys: Path) -> Path:
    folder = rootfs.make(tmp_path / "rootfs")
    rootfs.complete(folder, "1.0", keys / "allowed_signers")
    return folder


def wanted(tmp_path: Path, keys: Path, version: str = "1.0") -> yocto_release.Bundling:
    return yocto_release.Bundling(
        repository=tmp_path / "releases.git",
        description=publisher.Description(Version(version), rootfs.PRODUCT),
        key=keys / "release",
        signers=keys / "allowed_signers",
        out=tmp_path,
        name=f"image-{version}",
    )


def entries(tmp_path: Path, version: str) -> dict[bytes, Entry]:
    repository = publisher.open_repository(tmp_path / "releases.git")
    (listed,) = [one for one in publisher.releases(repository) if one.version == Version(version)]
    with open_commit(repository, listed.commit) as content:
        return {entry.path: entry for entry in content.entries()}


@pytest.mark.row("S51")
def test_a_rootfs_tells_grub_and_abupdate_what_it_is(made: Path, keys: Path) -> None:
    env = parse_abupdate_env((made / "boot/abupdate.env").read_bytes())
    assert (env.kernel, env.initrd) == (f"/boot/{rootfs.KERNEL}", "/boot/initrd-abupdate")
    assert env.cmdline == rootfs.CMDLINE
    lines = (made / "boot/SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    for name in (rootfs.KERNEL, "initrd-abupdate"):
        assert sums[name] == hashlib.sha256((made / "boot" / name).read_bytes()).hexdigest()
    settings = load(Paths(root=made, cmdline=made / "none")).settings
    assert settings.device.compatible == rootfs.PRODUCT
    assert (made / "usr/lib/abupdate/allowed_signers").read_text() == (
        keys / "allowed_signers"
    ).read_text()
    told = (made / "usr/lib/os-release").read_text().splitlines()
    assert told == ["ID=abupdate-demo", "IMAGE_ID=test-pc", "IMAGE_VERSION=1.0"]


def test_a_rescue_system_serves_the_product_of_the_slots(tmp_path: Path, keys: Path) -> None:
    folder = rootfs.make(tmp_path / "rootfs")
    rootfs.complete(folder, "1.0", keys / "allowed_signers", f"{rootfs.PRODUCT}:rescue")
    settings = load(Paths(root=folder, cmdline=folder / "none")).settings
    assert settings.device.compatible == rootfs.PRODUCT


def test_settings_of_the_product_follow_and_are_checked(tmp_path: Path, keys: Path) -> None:
    folder, config = rootfs.make(tmp_path / "rootfs"), tmp_path / "more.toml"
    (tmp_path / "initrd").write_bytes(b"initrd")
    product = yocto_release.Product(
        rootfs.PRODUCT, Version("1"), "quiet", keys / "allowed_signers", config
    )
    config.write_text("[boot]\ntries = 5\n")
    yocto_release.prepare_rootfs(folder, tmp_path / "initrd", product)
    assert load(Paths(root=folder, cmdline=folder / "none")).settings.boot.tries == 5
    config.write_text("[boot]\ntrys = 5\n")
    with pytest.raises(UsageError, match="tries"):
        yocto_release.prepare_rootfs(folder, tmp_path / "initrd", product)


def test_python_is_compiled_for_a_root_that_nobody_writes(tmp_path: Path, keys: Path) -> None:
    folder = rootfs.make(tmp_path / "rootfs")
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in (minor, "3.99"):
        path = folder / f"usr/lib/python{version}/site-packages/product.py"
        path.parent.mkdir(parents=True)
        path.write_text("raise ValueError")
    rootfs.complete(folder, "1", keys / "allowed_signers")
    (made,) = folder.rglob("*.pyc")  # not of a Python that would not take it
    assert made.parent.parent.parent.name == f"python{minor}"
    code = marshal.loads(made.read_bytes()[16:])
    assert code.co_filename == f"/usr/lib/python{minor}/site-packages/product.py"
    assert made.read_bytes()[4:8] == b"\1\0\0\0"  # PEP 552: a hash that is not checked


def test_no_kernel_and_two_kernels_are_refused(tmp_path: Path, keys: Path) -> None:
    folder = rootfs.make(tmp_path / "rootfs")
    (folder / "boot/bzImage-6.18.1").write_bytes(b"another")
    with pytest.raises(UsageError, match=r"found bzImage-6.18.0.*, bzImage-6.18.1"):
        rootfs.complete(folder, "1", keys / "allowed_signers")
    for path in (folder / "boot").glob("bzImage-*"):
        path.unlink()
    with pytest.raises(UsageError, match="found none"):
        rootfs.complete(folder, "1", keys / "allowed_signers")


def test_a_link_in_the_rootfs_leads_nowhere(tmp_path: Path, keys: Path) -> None:
    folder, outside = rootfs.make(tmp_path / "rootfs"), tmp_path / "outside"
    outside.write_text("as it was")
    (folder / "usr/lib/abupdate/config.toml").symlink_to(outside)
    rootfs.complete(folder, "1", keys / "allowed_signers")
    assert outside.read_text() == "as it was"


def test_times_are_cut_to_seconds(made: Path) -> None:
    times = [path.lstat().st_mtime_ns for path in [made, *made.rglob("*")]]
    assert [time for time in times if time % 10**9] == []
    assert (made / "usr/bin/program").stat().st_mtime_ns == rootfs.TIME_NS // 10**9 * 10**9
    assert yocto_release.whole_seconds(made) == 0


@pytest.mark.row("S51")
def test_the_manifest_has_the_owners_of_the_tar(made: Path, tmp_path: Path, keys: Path) -> None:
    tar = rootfs.tar(made, tmp_path / "image.tar", owner=(4711, 42))
    (bundle,) = yocto_release.make_bundles(tar, wanted(tmp_path, keys), Events())
    assert bundle == tmp_path / "image-1.0.bundle"
    found = entries(tmp_path, "1.0")
    assert {(entry.uid, entry.gid) for entry in found.values()} == {(4711, 42)}
    assert found[b"usr/bin/program"].mode == 0o4755
    assert found[b"tmp"].mode == 0o1777
    assert b"usr/bin/same-program" in found


def test_a_bundle_is_believed_by_its_key_alone(made: Path, tmp_path: Path, keys: Path) -> None:
    tar = rootfs.tar(made, tmp_path / "image.tar")
    (bundle,) = yocto_release.make_bundles(tar, wanted(tmp_path, keys), Events())
    trust = TrustFiles((keys / "allowed_signers",))
    checked = publisher.check_bundle(bundle, trust, None, Events())
    assert (checked.release.version, checked.release.compatible) == (Version("1.0"), "test-pc")
    others = yocto_release.demo_keys(tmp_path / "others/keys")
    with pytest.raises(NotTrustedError):
        publisher.check_bundle(bundle, TrustFiles((others,)), None, Events())


def test_a_key_that_devices_do_not_list_fails_the_build(
    made: Path, tmp_path: Path, keys: Path
) -> None:
    others = yocto_release.demo_keys(tmp_path / "others/keys")
    tar = rootfs.tar(made, tmp_path / "image.tar")
    with pytest.raises(NotTrustedError):
        yocto_release.make_bundles(tar, replace(wanted(tmp_path, keys), signers=others), Events())


@pytest.mark.row("S51")
def test_the_next_build_brings_a_delta(made: Path, tmp_path: Path, keys: Path) -> None:
    first = wanted(tmp_path, keys)
    yocto_release.make_bundles(rootfs.tar(made, tmp_path / "1.tar"), first, Events())
    (made / "etc/motd").write_text("new in 2.0\n")
    rootfs.complete(made, "2.0", keys / "allowed_signers")
    second = replace(wanted(tmp_path, keys, "2.0"), since=(Version("1.0"),))
    full, delta = yocto_release.make_bundles(rootfs.tar(made, tmp_path / "2.tar"), second, Events())
    assert delta.name == "image-2.0-from-1.0.bundle"
    with full.open("rb") as whole, delta.open("rb") as part:
        assert not read_header(whole).prerequisites
        assert read_header(part).prerequisites
    assert delta.stat().st_size < full.stat().st_size / 2


def test_a_version_is_published_once(made: Path, tmp_path: Path, keys: Path) -> None:
    one, tar = wanted(tmp_path, keys), rootfs.tar(made, tmp_path / "image.tar")
    (before,) = yocto_release.make_bundles(tar, one, Events())
    content = before.read_bytes()
    (again,) = yocto_release.make_bundles(tar, one, Events())
    assert again.read_bytes() == content
    (made / "etc/motd").write_text("other content, no new version\n")
    with pytest.raises(RefusedError, match="signed already, with other content"):
        yocto_release.make_bundles(rootfs.tar(made, tmp_path / "other.tar"), one, Events())


def test_another_machine_can_sign(made: Path, tmp_path: Path, keys: Path) -> None:
    one, tar = replace(wanted(tmp_path, keys), key=None), rootfs.tar(made, tmp_path / "image.tar")
    assert yocto_release.make_bundles(tar, one, Events()) == []
    (listed,) = publisher.releases(publisher.open_repository(one.repository))
    assert (listed.version, listed.tag) == (Version("1.0"), None)


def test_a_missing_tar_is_told(tmp_path: Path, keys: Path) -> None:
    with pytest.raises(SourceError, match="tar was expected"):
        yocto_release.make_bundles(tmp_path / "none.tar", wanted(tmp_path, keys), Events())


def test_the_demo_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    first = yocto_release.demo_keys(tmp_path / "keys").read_text()
    assert yocto_release.demo_keys(tmp_path / "keys").read_text() == first
    assert (tmp_path / "keys/release").stat().st_mode & 0o077 == 0


def _task(*words: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """As a task runs it: an interpreter, the script, the build's PATH."""
    env = {"PATH": path or os.environ["PATH"], "PYTHONPATH": str(rootfs.ROOT)}
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tasks_command_lines_do_it(tmp_path: Path) -> None:
    folder = rootfs.make(tmp_path / "rootfs")
    (tmp_path / "initrd").write_bytes(b"an initramfs")
    common = ["--compatible", rootfs.PRODUCT, "--version", "3"]
    signers = ["--signers", tmp_path / "keys/allowed_signers"]
    assert _task("demo-keys", tmp_path / "keys").returncode == 0
    words = ["rootfs", folder, "--initrd", tmp_path / "initrd", "--cmdline", "quiet"]
    done = _task(*words, *common, *signers)
    assert (done.returncode, done.stderr) == (0, "")
    assert _task("whole-seconds", folder).returncode == 0
    tar = rootfs.tar(folder, tmp_path / "image.tar")
    words = ["bundle", tar, "--repo", tmp_path / "r.git", "--out", tmp_path, "--name", "image"]
    done = _task(*words, *common, *signers, "--key", tmp_path / "keys/release", "--zstd")
    assert done.returncode == 0, done.stderr
    assert "image.bundle: " in done.stdout


def test_a_task_that_fails_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    words = ["--compatible", "x", "--version", "1", "--cmdline", "quiet", "--initrd", tmp_path]
    done = _task("rootfs", tmp_path, *words, "--signers", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: One kernel was expected")
    assert 'IMAGE_INSTALL should have "kernel-image"' in done.stderr


def test_programs_are_those_of_the_builds_path(tmp_path: Path) -> None:
    done = _task("demo-keys", tmp_path / "keys", path=str(tmp_path))
    assert done.returncode != 0
    assert "ssh-keygen not found" in done.stderr


def test_an_error_of_the_product_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code = yocto_release.main(["whole-seconds", "/nonexistent"])
    assert code == 0
    with pytest.raises(AbupdateError):
        yocto_release.grub_images(Path("/nonexistent"), Path("/nonexistent"), ["coreboot"])
    assert capsys.readouterr().err == ""
