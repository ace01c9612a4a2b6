"""/etc across an update: real overlays, a real install, and the verbs `abupdate etc`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abupdate.etc import upper
from abupdate.etc.merge import merge
from abupdate.etc.policy import Policy
from abupdate.etc.tree import Node, Tree, read_overlay, read_tree
from abupdate.etc.upper import describe, write_node, write_upper
from tests.slots.device import Device, make_release
from tests.slots.rootfs import make_rootfs
from tests.unit.etc_trees import no_text, trees

OPTIONS = "index=off,metacopy=off,redirect_dir=off,nfs_export=off,xino=off"  # abupdate-mount's


@contextmanager
def overlay(lower: Path, upper: Path, work: Path, at: Path) -> Iterator[Path]:
    layers = f"lowerdir={lower},upperdir={upper},workdir={work},{OPTIONS}"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@contextmanager
def folders(*names: str) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="abupdate-") as top:
        found = [Path(top, name) for name in names]
        for path in found:
            path.mkdir()
        yield found


def write_tree(tree: Tree, top: Path) -> None:
    describe(top, tree[b""])
    for name in sorted(tree):
        if name:
            write_node(top / os.fsdecode(name), tree[name])


def assert_same(found: Tree, wanted: Tree) -> None:
    assert found.keys() == wanted.keys()
    for name, node in found.items():
        assert node.same(wanted[name]), (name, node, wanted[name])


@settings(max_examples=60, deadline=None)
@given(trees(), trees(), trees())
def test_an_overlay_shows_what_was_merged(base: Tree, mine: Tree, theirs: Tree) -> None:
    with folders("base", "mine", "theirs", "new", "work", "at") as (
        lower, upper, other, new, work, at,
    ):  # fmt: skip
        write_tree(base, lower)
        write_upper(mine, base, upper)
        write_tree(theirs, other)
        release = read_tree(lower)
        owner = read_overlay(release, upper)
        assert_same(owner, mine)
        with overlay(lower, upper, work, at):
            assert_same(read_tree(at), mine)
        done = merge(release, owner, read_tree(other), Policy({}), no_text)
        write_upper(done.tree, theirs, new)
        assert_same(read_overlay(read_tree(other), new), done.tree)
        shutil.rmtree(work)
        work.mkdir()
        with overlay(other, new, work, at):
            assert_same(read_tree(at), done.tree)


WORK = st.lists(
    st.tuples(
        st.sampled_from(["rm -rf {0}", "mkdir -p {0}", "mv -T {0} {1}", "cp -a {0} {1}",
                         "rm -rf {0} && mkdir {0} && echo x > {0}/a", "chmod 700 {0}",
                         "echo more >> {0}", "ln -s {1} {0}", "ln {0} {1}"]),
        st.sampled_from(["a", "b", "d", "d/a", "d/e"]), st.sampled_from(["b", "c", "d/b", "d/f"]),
    ), max_size=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(trees(), WORK)
def test_what_people_do_is_read_as_the_kernel_shows_it(
    base: Tree, work: list[tuple[str, str, str]]
) -> None:
    with folders("base", "upper", "work", "at") as (lower, upper, inner, at):
        write_tree(base, lower)
        with overlay(lower, upper, inner, at):
            for command, one, other in work:
                words = ["sh", "-c", command.format(one, other)]
                subprocess.run(words, cwd=at, check=False, stderr=subprocess.DEVNULL)
            assert_same(read_overlay(read_tree(lower), upper), read_tree(at))


def test_a_folder_that_was_made_anew_hides_the_releases() -> None:
    with folders("base", "upper", "work", "at") as (lower, upper, inner, at):
        (lower / "d").mkdir()
        (lower / "d/default").write_text("default")
        with overlay(lower, upper, inner, at):
            shutil.rmtree(at / "d")
            (at / "d").mkdir()
            (at / "d/mine").write_text("mine")
            found = read_overlay(read_tree(lower), upper)
            assert_same(found, read_tree(at))
            assert found.keys() == {b"", b"d", b"d/mine"}


SETTINGS = "".join(f"option{number} = {number}\n" for number in range(20))


@pytest.fixture
def updated(plain_device: Device) -> Device:
    """Release 61 runs; 62 changes one file at the start and another in one line; 63 neither."""
    device = plain_device
    for version in ("61", "62", "63"):
        rootfs = device.top / f"rootfs{version}"
        if not rootfs.exists():
            make_rootfs(rootfs, version)
            signers = device.top / "keys/allowed_signers"
            shutil.copy(signers, rootfs / "usr/lib/abupdate/allowed_signers")
            new = version != "61"
            first = "option0 = new\n" if new else "option0 = 0\n"
            (rootfs / "etc/app.conf").write_text(SETTINGS.replace("option0 = 0\n", first))
            (rootfs / "etc/line.conf").write_text("theirs\n" if new else "default\n")
            (rootfs / "etc/plain.conf").write_text(f"{version}\n")
            (rootfs / "etc/private").write_text(f"{version}\n")
            (rootfs / "etc/private").chmod(0o600)
            make_release(device, rootfs, version)
    assert device.run("install", device.top / "61.bundle") == 0
    device.boot(device.booted.other, "trial")
    assert device.run("confirm") == 0
    device.boot(device.booted, "normal")
    return device


@contextmanager
def etc(device: Device) -> Iterator[Path]:
    """/etc of what runs, as the initramfs mounts it."""
    data = device.paths.data / "etc" / str(device.booted)
    for name in ("upper", "work"):
        (data / name).mkdir(parents=True, exist_ok=True)
    at = device.paths.root / "etc"
    with overlay(at, data / "upper", data / "work", at):
        yield at


def shown(device: Device) -> bytes:
    """All of an overlay's upper folder, as bytes."""
    folder = device.paths.data / "etc" / str(device.booted) / "upper"
    words: list[str | Path]
    words = ["tar", "--xattrs", "--xattrs-include=*", "--sort=name", "--numeric-owner",
             "--pax-option=delete=atime,delete=ctime", "-C", folder, "-cf", "-", "."]  # fmt: skip
    return subprocess.run(words, check=True, capture_output=True).stdout


def test_an_update_merges(updated: Device, capsys: pytest.CaptureFixture[str]) -> None:
    device = updated
    with etc(device) as top:
        (top / "app.conf").write_text(SETTINGS.replace("option15 = 15", "option15 = mine"))
        (top / "line.conf").write_text("mine\n")
        (top / "acl").unlink()
        (top / "own.conf").write_text("own\n")
        before = shown(device)
        assert device.run("install", device.top / "62.bundle") == 0
        told = "/etc/line.conf: both changed it: yours stays, and the release's is beside it, "
        assert told in " ".join(capsys.readouterr().err.split())
        assert shown(device) == before
    capsys.readouterr()
    assert device.run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["etc"]["conflicts"] == []
    device.boot(device.booted.other, "trial")
    with etc(device) as top:
        text = SETTINGS.replace("option0 = 0", "option0 = new")
        assert (top / "app.conf").read_text() == text.replace("option15 = 15", "option15 = mine")
        assert (top / "line.conf").read_text() == "mine\n"
        assert (top / "line.conf.abupdate-new").read_text() == "theirs\n"
        assert not (top / "acl").exists()
        assert (top / "own.conf").read_text() == "own\n"
        assert (top / "plain.conf").read_text() == "62\n"
        assert device.run("status", "--json") == 0
        found = json.loads(capsys.readouterr().out)["etc"]
        assert found["changed"] == 4
        assert [told.partition(":")[0] for told in found["conflicts"]] == ["/etc/line.conf"]
        assert device.run("status") == 0
        assert "conflict /etc/line.conf: both changed it" in capsys.readouterr().out
        assert device.run("etc", "status", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["added"] == ["line.conf.abupdate-new", "own.conf"]
        assert found["changed"] == ["app.conf", "line.conf"]
        assert found["removed"] == ["acl"]
        assert device.run("etc", "resolve", "/etc/line.conf") == 0
        assert not (top / "line.conf.abupdate-new").exists()
        assert device.run("etc", "resolve", "/etc/line.conf") == 3
        assert device.run("etc", "reset", "/etc/app.conf", "/etc/acl", "/etc/own.conf") == 0
        assert (top / "app.conf").read_text() == text
        assert (top / "acl").read_text() == "acl\n"
        acl = subprocess.run(["getfacl", "-nc", top / "acl"], check=True, capture_output=True)
        assert b"user:1234:r--" in acl.stdout
        assert not (top / "own.conf").exists()
        capsys.readouterr()
        assert device.run("etc", "status") == 0
        assert capsys.readouterr().out == "changed    /etc/line.conf\n"


def test_changes_as_a_patch(updated: Device, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    device = updated
    rootfs = device.top / "rootfs61"
    with etc(device) as top:
        (top / "app.conf").write_text(SETTINGS.replace("option15 = 15", "option15 = mine"))
        (top / "plain.conf").unlink()
        (top / "own.conf").write_text("own")
        (top / "own.conf").chmod(0o755)
        (top / "link").symlink_to("own.conf")
        (top / "private").write_text("secret\n")
        os.chown(top / "own.conf", 5, 6)
        wanted = {path.name: path.read_bytes() for path in top.iterdir() if path.is_file()}
        capfdbinary.readouterr()
        assert device.run("etc", "diff") == 0
        found = capfdbinary.readouterr()
        assert b"secret" not in found.out
        assert b"Left out: private; --secrets takes them." in found.err
        assert b"# etc/own.conf: owner 5:6" in found.out
        assert device.run("etc", "diff", "--secrets", "/etc/private") == 0
        assert b"+secret" in capfdbinary.readouterr().out
        assert device.run("etc", "diff", "/etc/nothing") == 2
    for command in (["git", "apply"], ["patch", "-p1", "--quiet"]):
        with folders("root") as (root,):
            shutil.copytree(rootfs / "etc", root / "etc", symlinks=True,
                            ignore=lambda top, _: ["pipe"])  # fmt: skip
            subprocess.run(command, cwd=root, input=found.out, check=True)
            here = {path.name: path.read_bytes() for path in (root / "etc").iterdir()
                    if path.is_file()}  # fmt: skip
            assert here == {**wanted, "private": b"61\n"}
            assert (root / "etc/own.conf").stat().st_mode & 0o777 == 0o755
            assert (root / "etc/link").readlink() == Path("own.conf")


def test_reset_writes_through_no_link(updated: Device, capsys: pytest.CaptureFixture[str]) -> None:
    device = updated
    with etc(device) as top, folders("elsewhere") as (elsewhere,):
        shutil.rmtree(top / ".git")
        (top / ".git").symlink_to(elsewhere)
        assert device.run("etc", "reset", "/etc/.git/config") == 7
        assert "/etc/.git should be a folder" in capsys.readouterr().err
        assert list(elsewhere.iterdir()) == []
        assert device.run("etc", "reset", "/etc/.git") == 0
        assert (top / ".git/config").read_text() == "[core]\n"
        assert device.run("etc", "reset", "/etc/.git") == 3
        assert device.run("etc", "reset", "../root") == 2


def test_policy_of_the_owner(updated: Device) -> None:
    device = updated
    device.configure('etc.policy={"line.conf"="theirs","app.conf"="drop"}')
    with etc(device) as top:
        (top / "app.conf").write_text("mine\n")
        (top / "line.conf").write_text("mine\n")
        assert device.run("install", device.top / "62.bundle") == 0
    device.boot(device.booted.other, "trial")
    with etc(device) as top:
        assert (top / "line.conf").read_text() == "theirs\n"
        assert (top / "app.conf").read_text().startswith("option0 = new\n")


def test_a_conflict_is_told_until_it_is_settled(
    updated: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    device = updated
    with etc(device) as top:
        (top / "line.conf").write_text("mine\n")
        assert device.run("install", device.top / "62.bundle") == 0
    device.boot(device.booted.other, "trial")
    assert device.run("confirm") == 0
    device.boot(device.booted, "normal")
    capsys.readouterr()
    with etc(device) as top:
        assert device.run("install", device.top / "63.bundle") == 0
    assert "/etc/line.conf: both changed it" in " ".join(capsys.readouterr().err.split())
    device.boot(device.booted.other, "trial")
    with etc(device) as top:
        assert (top / "line.conf.abupdate-new").read_text() == "theirs\n"
        assert device.run("etc", "resolve", "/etc/line.conf") == 0
        assert not (top / "line.conf.abupdate-new").exists()


def test_reset_takes_nothing_that_is_mounted(
    updated: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device, disk = updated, tmp_path / "disk"
    disk.mkdir()
    (disk / "precious").write_text("1")
    with etc(device) as top:
        (top / "backup").mkdir()
        subprocess.run(["mount", "--bind", disk, top / "backup"], check=True)
        try:
            assert device.run("etc", "reset", "/etc") == 7
        finally:
            subprocess.run(["umount", top / "backup"], check=True)
        assert "Something is mounted at" in capsys.readouterr().err
        assert (disk / "precious").exists()
        assert device.run("etc", "reset", "/etc") == 0


def test_reset_takes_back_who_may_read(updated: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content of a private file is never in one that others can read."""
    device, modes = updated, []

    def seen(path: Path, node: Node) -> None:
        modes.append(path.lstat().st_mode & 0o777)
        describe(path, node)

    monkeypatch.setattr(upper, "describe", seen)
    with etc(device) as top:
        (top / "private").write_text("mine\n")
        assert device.run("etc", "reset", "/etc/private") == 0
        assert modes == [0o600]
        change = "u:1234:rwx,d:u:1234:rwx"
        subprocess.run(["setfacl", "-m", change, str(top / ".git")], check=True)
        assert device.run("etc", "reset", "/etc/.git") == 0
        acl = subprocess.run(["getfacl", "-nc", top / ".git"], check=True, capture_output=True)
        assert b"1234" not in acl.stdout


def test_what_a_patch_says_and_does_not(
    updated: Device, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    device = updated
    with etc(device) as top:
        (top / "wireguard").mkdir(mode=0o700)
        (top / "wireguard/wg0.conf").write_text("PrivateKey = secret\n")
        (top / "blob").write_bytes(b"a\0b")
        (top / "app.conf").chmod(0o664)
        (top / "odd\n--- a\n").mkdir(mode=0o750)
        capfdbinary.readouterr()
        assert device.run("etc", "diff") == 0
        found = capfdbinary.readouterr().out
    assert b"secret" not in found
    assert b"# etc/blob: no text, and not in this patch\n" in found
    assert b"# etc/app.conf: mode 664\n" in found
    assert b"\n--- a" not in found


def test_what_was_changed_after_the_install_goes_along(
    updated: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the unit that runs at the shutdown before the trial."""
    device = updated
    with etc(device) as top:
        (top / "own.conf").write_text("own\n")
        assert device.run("install", device.top / "62.bundle") == 0
        assert (device.paths.runtime / "armed").exists()
        record = device.paths.data / "etc" / str(device.booted.other) / "merge.json"
        before = record.stat().st_ino
        capsys.readouterr()
        assert device.run("etc", "carry") == 0  # nothing has happened since
        assert (record.stat().st_ino, capsys.readouterr().out) == (before, "")
        (top / "own.conf").write_text("later\n")
        (top / "line.conf").write_text("mine\n")
        assert device.run("etc", "carry") == 0
        found = capsys.readouterr()
        assert "go along" in found.out
        assert "/etc/line.conf: both changed it" in " ".join(found.err.split())
    device.boot(device.booted.other, "trial")
    with etc(device) as top:
        assert (top / "own.conf").read_text() == "later\n"
        assert (top / "line.conf").read_text() == "mine\n"
        assert device.run("confirm") == 0
    device.boot(device.booted, "normal")
    # A rollback finds the other slot's as it was.
    with etc(device) as top:
        (top / "newer.conf").write_text("newer\n")
        assert device.run("rollback") == 0
        assert device.run("etc", "carry") == 0
    assert not (device.paths.data / "etc" / str(device.booted.other) / "upper/newer.conf").exists()
