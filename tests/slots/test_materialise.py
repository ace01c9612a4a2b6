"""Commits onto real ext4: faithful over anything, and every difference is found."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from abupdate.errors import NotTrustedError, SourceError
from abupdate.events import Events
from abupdate.store.capture import Captured, capture
from abupdate.store.content import open_commit
from abupdate.store.materialise.apply import Written, apply, materialise
from abupdate.store.materialise.plan import plan_from
from abupdate.store.repository import Repository
from abupdate.store.verify import compare, compare_changed
from tests.slots import loop
from tests.slots.random_trees import Node, build, trees
from tests.slots.rootfs import make_rootfs

RELEASE = b"format = 1\n"

# Random pairs of trees; ABUPDATE_TREES=3000 takes a larger spread (six a second).
EXAMPLES = int(os.environ.get("ABUPDATE_TREES", "80"))


@dataclass
class Bench:
    """A repository, and a mounted ext4 to materialise onto."""

    top: Path
    repository: Repository
    slot: Path

    def capture(self, source: Path) -> Captured:
        return capture(source, self.repository, lambda _: RELEASE, Events(), subject="test")

    def materialise(self, captured: Captured) -> Written:
        with open_commit(self.repository, captured.commit, captured.manifest_sha256) as content:
            return materialise(content, self.repository, self.slot, Events())

    def differences(self, captured: Captured) -> list[str]:
        with open_commit(self.repository, captured.commit) as content:
            return [str(difference) for difference in compare(self.slot, content, Events())]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    top = tmp_path_factory.mktemp("bench")
    (top / "store.git").mkdir()
    repository = Repository.create(top / "store.git")
    with loop.ext4(top, 64 << 20) as (mountpoint, _):
        yield Bench(top, repository, mountpoint)


def clear(slot: Path) -> None:
    """Empty the slot, but for what ext4 made."""
    for leftover in slot.iterdir():
        if leftover.name != "lost+found":
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else (
                leftover.unlink()
            )


def rsync_finds(source: Path, target: Path) -> str:
    """What an independent program finds different."""
    return subprocess.run(
        ["rsync", "-aHAXnc", "--delete", "--itemize-changes", "--modify-window=-1",
         "--exclude=/.abupdate", "--exclude=/lost+found", f"{source}/", target],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@pytest.mark.row("S24")
def test_what_git_alone_would_lose_survives(bench: Bench) -> None:
    source = make_rootfs(bench.top / "faithful", "1")
    captured = bench.capture(source)
    bench.materialise(captured)
    assert bench.differences(captured) == []
    assert rsync_finds(source, bench.slot) == ""
    slot = bench.slot
    assert (slot / "usr/bin/su").stat().st_mode & 0o7777 == 0o4755
    assert "cap_net_raw" in subprocess.getoutput(f"getcap {slot}/usr/bin/ping")
    assert "user:1234:r--" in subprocess.getoutput(f"getfacl -p -n {slot}/etc/acl")
    assert (slot / "usr/bin/tool").stat().st_ino == (slot / "usr/bin/tool-again").stat().st_ino
    assert (slot / "etc/.gitattributes").read_text() == "* text=auto eol=crlf\n"
    assert (slot / "etc/release").stat().st_uid == 1000
    assert (slot / "dev/null").stat().st_rdev == os.makedev(1, 3)
    assert (slot / "empty/inside").is_dir()


def test_every_process_of_a_read_back_tells_what_it_finds(bench: Bench) -> None:
    """More paths than one process takes at a time, damaged all over; ours, too."""
    clear(bench.slot)
    source = bench.top / "many"
    for number in range(1500):
        path = source / f"{number % 13}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content {number}")
    captured = bench.capture(source)
    with open_commit(bench.repository, captured.commit) as content:
        plan = plan_from(None, content)
    apply(plan, bench.repository, bench.slot, Events())
    assert compare_changed(bench.slot, plan, Events()) == []
    damaged = [f"{number % 13}/{number}" for number in range(0, 1500, 50)]
    damaged.append(".abupdate/release.toml")
    for name in damaged:
        path = bench.slot / name
        status = path.stat()
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = [str(difference) for difference in compare_changed(bench.slot, plan, Events())]
    assert found == [f"{name}: content differs" for name in sorted(damaged)]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # A slow example that fails would be shrunk for many minutes; it is small as it is.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(before=trees, after=trees)
@example(
    before=[],
    after=[("file", b"a", 0o644, 0, b"", False, 0), ("hard link", b"b/b", 0o644, 0, b"", False, 0)],
)
def test_any_tree_over_any_other(bench: Bench, before: list[Node], after: list[Node]) -> None:
    clear(bench.slot)
    source = bench.top / "random"
    shutil.rmtree(source, ignore_errors=True)
    build(bench.slot, before)
    build(source, after)
    captured = bench.capture(source)
    bench.materialise(captured)
    assert bench.differences(captured) == []
    assert rsync_finds(source, bench.slot) == ""
    again = bench.materialise(captured)
    assert (again.files, again.bytes) == (0, 0)
    assert bench.differences(captured) == []


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(before=trees, after=trees, shared=trees)
def test_any_release_over_any_other_as_planned(
    bench: Bench, before: list[Node], after: list[Node], shared: list[Node]
) -> None:
    """From the two commits alone, without a look at the slot."""
    old, new = (bench.top / name for name in ("old", "new"))
    commits = []
    clear(bench.slot)
    for source, tree in ((old, before), (new, after)):
        shutil.rmtree(source, ignore_errors=True)
        build(source, [*tree[: len(tree) // 2], *shared, *tree[len(tree) // 2 :]])
        commits.append(bench.capture(source))
    with open_commit(bench.repository, commits[0].commit) as content:
        apply(plan_from(None, content), bench.repository, bench.slot, Events())
    assert bench.differences(commits[0]) == []
    with open_commit(bench.repository, commits[1].commit) as content:
        plan = plan_from(content.beside(commits[0].commit), content)
    apply(plan, bench.repository, bench.slot, Events())
    assert compare_changed(bench.slot, plan, Events()) == []
    assert bench.differences(commits[1]) == []
    assert rsync_finds(new, bench.slot) == ""


def test_only_what_differs_is_written(bench: Bench) -> None:
    first = bench.capture(make_rootfs(bench.top / "first", "1"))
    second = bench.capture(make_rootfs(bench.top / "second", "2"))
    bench.materialise(first)
    written = bench.materialise(second)
    assert bench.differences(second) == []
    changed = (bench.top / "second/usr/bin/tool").stat().st_size + len("release 2\n")
    assert written.bytes == changed
    assert written.kept > 5


def write_inside(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"X")


def replace_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/bin/evil")


def replace_device(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o020666, os.makedev(1, 5))


def split_link(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "content": (lambda top: write_inside(top / "usr/bin/tool"), "usr/bin/tool: content differs"),
    "owner": (lambda top: os.chown(top / "etc/release", 0, 0), "etc/release: owner 1000:1001"),
    "mode": (lambda top: (top / "usr/bin/su").chmod(0o755), "usr/bin/su: mode 4755 expected"),
    "capability": (
        lambda top: subprocess.run(["setcap", "-r", top / "usr/bin/ping"], check=True),
        "usr/bin/ping: attributes differ: security.capability",
    ),
    "attribute": (
        lambda top: os.setxattr(top / "etc/release", "user.x", b"1"),
        "etc/release: attributes differ: user.x",
    ),
    "extra file": (lambda top: (top / "etc/extra").touch(), "etc/extra: is not in the release"),
    "empty folder gone": (
        lambda top: (top / "empty/inside").rmdir(),
        "empty/inside: is missing",
    ),
    "hard link split": (
        lambda top: split_link(top / "usr/bin/tool-again"),
        "usr/bin/tool-again: should be a hard link to usr/bin/tool",
    ),
    "link target": (
        lambda top: replace_link(top / "usr/bin/sh"),
        "usr/bin/sh: content differs",
    ),
    "device number": (
        lambda top: replace_device(top / "dev/null"),
        "dev/null: time differs; device (1, 3) expected, (1, 5) found",
    ),
    "time": (lambda top: os.utime(top / "etc/release", (1, 1)), "etc/release: time differs"),
    "its own manifest": (
        lambda top: write_inside(top / ".abupdate/manifest"),
        ".abupdate/manifest: content differs",
    ),
}


@pytest.mark.row("S22")
@pytest.mark.parametrize("what", TAMPERED)
def test_every_difference_is_named_and_mended(bench: Bench, what: str) -> None:
    source = bench.top / "sound"
    if not source.exists():
        make_rootfs(source, "1")
    captured = bench.capture(source)
    bench.materialise(captured)
    change, says = TAMPERED[what]
    change(bench.slot)
    found = bench.differences(captured)
    assert any(line.startswith(says) for line in found), found
    bench.materialise(captured)
    assert bench.differences(captured) == []
    assert rsync_finds(source, bench.slot) == ""


def test_a_tar_and_its_directory_give_the_same_commit(bench: Bench) -> None:
    source = make_rootfs(bench.top / "as-tar", "3")
    tar = bench.top / "rootfs.tar"
    subprocess.run(
        ["tar", "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner",
         "-C", source, "-cf", tar, "."],
        check=True,
    )  # fmt: skip
    from_tar, from_directory = bench.capture(tar), bench.capture(source)
    assert from_tar.commit == from_directory.commit
    assert from_tar.warnings == ()
    with tar.open("rb") as stream:
        streamed = capture(stream, bench.repository, lambda _: RELEASE, Events(), subject="test")
    assert streamed.commit == from_tar.commit


def test_what_a_tar_cannot_say_is_refused_or_warned_about(bench: Bench, tmp_path: Path) -> None:
    source = make_rootfs(tmp_path / "source", "1")
    gnu = tmp_path / "gnu.tar"
    subprocess.run(["tar", "--format=gnu", "-C", source, "-cf", gnu, "."], check=True)
    assert "already lost" in bench.capture(gnu).warnings[0]
    text = tmp_path / "text.tar"
    text.write_text("not a tar\n" * 1000)
    with pytest.raises(SourceError, match="cannot be read"):
        bench.capture(text)
    acl = tmp_path / "acl.tar"
    subprocess.run(["tar", "--format=pax", "--acls", "-C", source, "-cf", acl, "."], check=True)
    with pytest.raises(SourceError, match="ACL that the tar holds as text"):
        bench.capture(acl)
    flat = tmp_path / "flat.tar"
    for names, said in (
        (["usr/bin/tool"], "no entry for the root folder"),
        ([".", "usr/bin/tool"], "no entry for its folder 'usr/bin'"),
    ):
        command = ["tar", "--format=pax", "--no-recursion", "-C", str(source), "-cf", str(flat)]
        subprocess.run([*command, *names], check=True)
        with pytest.raises(SourceError, match=said):
            bench.capture(flat)


def test_a_reserved_name_is_refused(bench: Bench, tmp_path: Path) -> None:
    source = make_rootfs(tmp_path / "source", "1")
    (source / ".abupdate").mkdir()
    with pytest.raises(SourceError, match="reserved"):
        bench.capture(source)


def test_a_store_that_lies_is_caught(bench: Bench, tmp_path: Path) -> None:
    captured = bench.capture(make_rootfs(tmp_path / "source", "9"))
    with (
        pytest.raises(NotTrustedError, match="signature covers the manifest"),
        open_commit(bench.repository, captured.commit, "0" * 64),
    ):
        pass
    # The same tree under a commit that claims another manifest: other bytes under good names.
    lying = tmp_path / "lying.git"
    lying.mkdir()
    other = Repository.create(lying, alternates=bench.repository.path / "objects")
    listing = other.git("ls-tree", "-r", "-t", captured.commit).stdout.decode()
    blob = next(line.split()[2] for line in listing.splitlines() if line.endswith("etc/release"))
    evil = other.write_object("blob", b"evil 9!!!\n")
    folder = lying / "objects" / blob[:2]
    folder.mkdir(exist_ok=True)
    shutil.copy(lying / "objects" / evil[:2] / evil[2:], folder / blob[2:])
    with (
        open_commit(other, captured.commit, captured.manifest_sha256) as content,
        pytest.raises(NotTrustedError, match="etc/release"),
    ):
        for _, chunks in content.read(content.files()):
            b"".join(chunks)
