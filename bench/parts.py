"""What the methods start from, made once: trees, stores of each peer, images; cached.

Each is made of the two releases of `trees`, with the peer's own program.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cache

from abupdate.events import Events
from abupdate.run import Argument, run
from abupdate.store.capture import capture
from abupdate.store.content import open_commit
from abupdate.store.materialise.plan import plan_from
from abupdate.store.readable import chunks
from abupdate.store.repository import Repository
from bench import device, image_updaters, trees
from bench.device import Bundles

_LONG = 1800.0
_LARGE = 1 << 34
_VERSION = 2  # of how parts are made
XATTRS = ("--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner")


@dataclass(frozen=True)
class Parts:
    """Paths of everything.

    `commits` of both releases in `store`; `changed`: bytes of the files of the
    newer one that are not in the older one as they are.
    """

    tars: dict[str, Path]
    trees: dict[str, Path]
    store: Path
    commits: dict[str, str]
    changed: int
    checkout: Path
    ostree: Path
    ostree_delta: Path
    ostree_new: str
    casync: Path
    image: Path
    images: image_updaters.Bundles
    device: Path
    bundles: Bundles


def build(say: Callable[[str], None]) -> Parts:
    """Make what is not there yet; ten minutes the first time."""
    tars = {}
    for which in ("old", "new"):
        say(f"release {which}")
        tars[which] = trees.tar(which)
    say("trees")
    unpacked = {which: _cached(f"tree-{which}", tar, _unpack) for which, tar in tars.items()}
    say("abupdate's store")
    both = (tars["old"], tars["new"])
    store = cache.cached(
        "bench-store", (*(tar.name for tar in both), _VERSION), "", lambda p: _store(p, tars)
    )
    commits = dict(line.split() for line in (store / "commits").read_text().splitlines())
    say("abupdate's device and bundles")
    made, bundles = device.build(tars)
    say("git's, ostree's and casync's stores; the image")
    ostree, image = _both("ostree", unpacked, _ostree), _both("image", unpacked, _image)
    say("RAUC's and SWUpdate's bundles")
    return Parts(
        tars, unpacked, store / "store.git", commits, _changed(store / "store.git", commits),
        checkout=_both("checkout", unpacked, _checkout),
        ostree=ostree / "repo",
        ostree_delta=ostree / "delta",
        ostree_new=(ostree / "new").read_text(),
        casync=_both("casync", unpacked, _casync),
        image=image,
        images=image_updaters.build(image / "new.ext4"),
        device=made,
        bundles=bundles,
    )  # fmt: skip


def _cached(kind: str, source: Path, make: Callable[[Path, Path], None]) -> Path:
    return cache.cached(f"bench-{kind}", (source.name,), "", lambda path: make(path, source))


def _both(kind: str, made: dict[str, Path], make: Callable[[Path, dict[str, Path]], None]) -> Path:
    names = tuple(path.name for path in made.values())
    return cache.cached(f"bench-{kind}", (*names, _VERSION), "", lambda path: make(path, made))


def _unpack(path: Path, tar: Path) -> None:
    path.mkdir()
    run(["tar", *XATTRS, "-xpf", tar, "-C", path], timeout=_LONG)


def _store(path: Path, tars: dict[str, Path]) -> None:
    """A device's store: the old release from its full bundle, the new one from a delta."""
    path.mkdir()
    with tempfile.TemporaryDirectory(dir=path) as name:
        (Path(name) / "publisher.git").mkdir()
        publisher = Repository.create(Path(name) / "publisher.git")
        (path / "store.git").mkdir()
        device = Repository.create(path / "store.git")
        commits: dict[str, str] = {}
        for which, tar in tars.items():
            captured = capture(tar, publisher, lambda _: b"format = 1\n", Events(), subject=which)
            pack = Path(name) / "pack"
            since = list(commits.values())
            with (
                pack.open("wb") as out,
                publisher.packing([], captured.commit, since, small=True) as packed,
            ):
                out.writelines(chunks(packed))
            with pack.open("rb") as stream:
                device.index_pack(stream, _LARGE)
            commits[which] = captured.commit
            (path / f"{which}.pack-size").write_text(str(pack.stat().st_size))
    (path / "commits").write_text("".join(f"{name} {oid}\n" for name, oid in commits.items()))


def _changed(store: Path, commits: dict[str, str]) -> int:
    with open_commit(Repository(store), commits["new"]) as content:
        return plan_from(content.beside(commits["old"]), content).size


def _checkout(path: Path, made: dict[str, Path]) -> None:
    """What git alone makes of the trees: content and the executable bit."""
    run(["git", "init", "--quiet", "--bare", path])
    for which, tree in made.items():
        git: list[Argument] = ["git", "--git-dir", path, "--work-tree", tree]
        run([*git, "add", "-A", "-f", "."], timeout=_LONG)
        run([*git, "-c", "user.name=b", "-c", "user.email=b@localhost", "commit", "-qm", which],
            timeout=_LONG)  # fmt: skip
        run([*git, "tag", which])
    run(["git", "--git-dir", path, "repack", "-adq"], timeout=_LONG)
    (path / "index").unlink()


def _ostree(path: Path, made: dict[str, Path]) -> None:
    """The publisher's repository, in the form that is served, and a delta as one file."""
    path.mkdir()
    repo = f"--repo={path / 'repo'}"
    run(["ostree", repo, "init", "--mode=archive"])
    for which, tree in made.items():
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            # OSTree has no device nodes: it takes a tree without them.
            plain = Path(name) / "tree"
            run(["cp", "-a", tree, plain], timeout=_LONG)
            shutil.rmtree(plain / "dev")
            run(["ostree", repo, "commit", "-b", which, f"--tree=dir={plain}"], timeout=_LONG)
    commits = {which: run(["ostree", repo, "rev-parse", which]).stdout.decode().strip()
               for which in made}  # fmt: skip
    run(["ostree", repo, "static-delta", "generate", f"--from={commits['old']}",
         f"--to={commits['new']}", "--min-fallback-size=0", "--inline",
         f"--filename={path / 'delta'}"], timeout=_LONG)  # fmt: skip
    (path / "new").write_text(commits["new"])


def _casync(path: Path, made: dict[str, Path]) -> None:
    path.mkdir()
    for which, tree in made.items():
        run(["casync", "make", f"--store={path}/store.castr", path / f"{which}.caidx", tree],
            timeout=_LONG)  # fmt: skip


def _image(path: Path, made: dict[str, Path]) -> None:
    """A filesystem image of each release, as an image-based updater ships it."""
    path.mkdir()
    for which, tree in made.items():
        used = int(run(["du", "-sx", "--block-size=1M", tree]).stdout.split()[0])
        image = path / f"{which}.ext4"
        with image.open("wb") as file:
            os.truncate(file.fileno(), (used * 5 // 4 + 64) << 20)
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-d", tree, image], timeout=_LONG)
