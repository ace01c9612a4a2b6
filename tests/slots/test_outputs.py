"""Random changes in an overlay over random slots: found, taken over, and known to the next."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from abupdate.disk import filesystem
from abupdate.events import Events
from abupdate.store.content import open_commit
from abupdate.store.materialise.apply import apply
from abupdate.store.materialise.overlay import look, make_upper, take
from abupdate.store.materialise.plan import plan_from
from abupdate.store.outputs import parse_outputs
from abupdate.store.repository import Repository
from abupdate.store.verify import compare, compare_changed
from tests.slots import loop
from tests.slots.random_trees import Node, build, trees
from tests.slots.test_materialise import Bench, clear

EXAMPLES = int(os.environ.get("ABUPDATE_TREES", "30"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    top = tmp_path_factory.mktemp("outputs")
    (top / "store.git").mkdir()
    repository = Repository.create(top / "store.git")
    with loop.ext4(top, 64 << 20) as (mountpoint, _):
        yield Bench(top, repository, mountpoint)


def plain(tree: list[Node]) -> list[Node]:
    """Without what a fixup cannot make, or must not change."""
    return [node for node in tree if node[0] not in ("hard link", "device")]


def disturb(root: Path, marks: list[int]) -> None:
    """Remove some of what is there, change some, and replace some by another kind."""
    for number, path in enumerate(sorted(root.rglob("*"))):
        if path.name == "lost+found" or ".abupdate" in path.parts or not os.path.lexists(path):
            continue
        what = marks[number % len(marks)] if marks else 9
        if what == 0:
            gone(path)
        elif what == 1 and not path.is_symlink():
            path.chmod(0o711)
        elif what == 2:
            folder = stat.S_ISDIR(path.lstat().st_mode)
            gone(path)
            path.write_text("was a folder") if folder else path.mkdir()
        elif what == 3 and path.is_dir() and not path.is_symlink():
            gone(path)
            path.mkdir()
        elif what == 4 and not path.is_symlink() and path.is_file():
            with path.open("ab") as file:
                file.write(b"more")
        elif what == 5:
            os.utime(path, ns=(7, 7), follow_symlinks=False)
        elif what == 6:
            away = path.with_name(path.name[:100] + "-moved")
            if not os.path.lexists(away):
                subprocess.run(["mv", path, away], check=True)


def gone(path: Path) -> None:
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(before=trees, fixed=trees, after=trees, marks=st.lists(st.integers(0, 9), max_size=12))
def test_a_slot_with_outputs_equals_what_is_kept_and_the_next_release_fits_over_it(
    bench: Bench, before: list[Node], fixed: list[Node], after: list[Node], marks: list[int]
) -> None:
    clear(bench.slot)
    commits = []
    for number, tree in enumerate((plain(before), [*plain(before)[::2], *after])):
        source = bench.top / f"source{number}"
        shutil.rmtree(source, ignore_errors=True)
        build(source, tree)
        commits.append(bench.capture(source))
    memory = bench.top / "memory"
    with open_commit(bench.repository, commits[0].commit) as content:
        plan = plan_from(None, content)
        apply(plan, bench.repository, bench.slot, Events())
        with filesystem.in_memory(memory, 64 << 20):
            upper = memory / "upper"
            make_upper(upper, bench.slot)
            root = memory / "root"
            with filesystem.overlaid(bench.slot, upper, memory / "work", root):
                disturb(root, marks)
                build(root, plain(fixed))
                expected = seen_by(root)
            seen = look(upper, bench.slot, lambda path: path != b"", 64 << 20)
            assert seen.refused == {}
            outputs = parse_outputs(seen.outputs.text)
            take(outputs, upper, bench.slot, plan)
        assert seen_by(bench.slot) == expected
        assert compare(bench.slot, content, Events(), outputs) == []
        assert compare_changed(bench.slot, plan, Events(), outputs) == []
        if outputs:
            assert compare(bench.slot, content, Events()) != []
    with open_commit(bench.repository, commits[1].commit) as content:
        plan = plan_from(content.beside(commits[0].commit), content, outputs)
        apply(plan, bench.repository, bench.slot, Events())
        assert compare(bench.slot, content, Events()) == []
        assert compare_changed(bench.slot, plan, Events()) == []


def seen_by(root: Path) -> dict[bytes, tuple[object, ...]]:
    """All but `.abupdate`, and all but the times of folders, in which we put things ourselves."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        name = os.fsencode(path.relative_to(root))
        if name.split(b"/")[0] in (b".abupdate", b"lost+found"):
            continue
        status = path.lstat()
        regular, link = stat.S_ISREG(status.st_mode), stat.S_ISLNK(status.st_mode)
        content = path.read_bytes() if regular else str(path.readlink()) if link else b""
        time = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
        found[name] = (status.st_mode, status.st_uid, status.st_gid, content, time)
    return found
