"""Three small releases whose kernel is the probe, so that a boot takes a third of a second.

And two rescue systems of the same kind.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cache
from publisher import MADE_BY

from abupdate.cli.main import main
from abupdate.rescue.release import product
from abupdate.store.manifest import Entry, Kind
from abupdate.store.outputs import NOTHING, Outputs, make_outputs
from abupdate.store.repository import Repository
from tests.grub.grubbox import HERE, build_probe, write_boot_files
from tests.slots.rootfs import PRODUCT, make_rootfs

_VERSIONS = ("1", "2", "3")
_RESCUES = ("1", "2")
_TIME = 1_750_000_000
_FIXUP = Path(__file__).with_name("fixup.c")
# Judged at once, by checks that say nothing of the machine that it is recorded on; two tries.
_CONFIG = f"""\
[device]
compatible = "{PRODUCT}"
[boot]
tries = 2
[confirm]
settle = 0
[health]
wait = 0
off = ["failed-units", "clock", "space"]
"""
# What its fixup leaves of a release; the first has none, since a new device runs none.
_WRITES = ("etc/made*", "usr/bin/program-1")
# Fails the health check of its release.
FAILING = "#!/bin/sh\necho broken\nexit 1\n"


@dataclass(frozen=True)
class Releases:
    """What the publisher made: below one folder, by version."""

    folder: Path

    @property
    def store(self) -> Repository:
        """Its repository, with all commits."""
        return Repository(self.folder / "publisher")

    @property
    def signers(self) -> Path:
        """Whom devices believe."""
        return self.folder / "keys" / "allowed_signers"

    def bundle(self, version: str) -> Path:
        """Release 1 in full, the others as a delta to the one before."""
        return self.folder / f"{version}.bundle"

    @property
    def rescue_store(self) -> Repository:
        """The repository of the rescue systems."""
        return Repository(self.folder / "rescue-publisher")

    def commits(self) -> dict[str, str]:
        """Version → commit."""
        return {version: _commit(self.store, version) for version in _VERSIONS}

    def rescue_commits(self) -> dict[str, str]:
        """`rescue-` and version → commit."""
        store = self.rescue_store
        return {f"rescue-{version}": _commit(store, version) for version in _RESCUES}

    def outputs(self, version: str) -> Outputs:
        """What the fixup of a release leaves (fixup.c)."""
        if version == _VERSIONS[0] or version.startswith("rescue-"):
            return NOTHING
        text, target = b"made\n" * 10_000 * int(version), b"made"
        made = Entry(b"etc/made", Kind.FILE, 0o644, 0, 0, _TIME * 10**9, *_content(text))
        again = Entry(b"etc/made-again", Kind.LINK, 0o777, 0, 0, _TIME * 10**9, *_content(target))
        entries = {entry.path: entry for entry in (made, again)}
        return make_outputs({**entries, b"usr/bin/program-1": None})


def build() -> Releases:
    """Release 1, 2, and 3, which does not get through its health check; cached."""
    project = cache.PROJECT
    inputs = (
        *(project / "abupdate" / name for name in MADE_BY),
        *(Path(__file__), _FIXUP, HERE / "probe.S", project / "tests/slots/rootfs.py"),
    )
    return Releases(cache.cached("cuts-releases", inputs, "", _make))


def _make(folder: Path) -> None:
    folder.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        probe, fixup = build_probe(Path(scratch)), Path(scratch) / "fixup"
        subprocess.run(["gcc", "-static", "-s", "-O1", "-o", fixup, _FIXUP], check=True)
        _publish("keygen", "--out", folder / "keys")
        for version in _VERSIONS:
            tree = make_rootfs(Path(scratch) / version, version)
            _complete(tree, version, probe, folder / "keys" / "allowed_signers")
            repo = ("--repo", folder / "publisher", "--version", version)
            words: list[str | Path] = ["commit", tree, *repo, "--compatible", PRODUCT]
            if version != _VERSIONS[0]:
                (tree / ".git-fixups").mkdir()
                shutil.copy(fixup, tree / ".git-fixups" / "10-make")
                words += [word for pattern in _WRITES for word in ("--fixups-write", pattern)]
            _publish(*words)
            _publish("sign", *repo, "--key", folder / "keys" / "release")
            since = () if version == "1" else ("--since", str(int(version) - 1))
            _publish("bundle", *repo, *since, "-o", folder / f"{version}.bundle")
        for version in _RESCUES:
            _make_rescue(folder, Path(scratch) / f"rescue-{version}", version, probe)


def _make_rescue(folder: Path, tree: Path, version: str, probe: bytes) -> None:
    make_rootfs(tree, version)
    generators = tree / "usr/lib/systemd/system-generators"
    generators.mkdir(parents=True)
    for path in (
        generators / "abupdate-rescue-generator",
        tree / "usr/bin/abupdate",
        tree / "usr/lib/abupdate/abupdate-mount",
    ):
        path.write_text("#!/bin/sh\n")
    _complete(tree, f"rescue-{version}", probe, folder / "keys" / "allowed_signers")
    repo = ("--repo", folder / "rescue-publisher", "--version", version)
    _publish("commit", tree, *repo, "--compatible", product(PRODUCT))
    _publish("sign", *repo, "--key", folder / "keys" / "release")
    _publish("bundle", *repo, "-o", folder / f"rescue-{version}.bundle")


def _commit(store: Repository, version: str) -> str:
    commit = store.resolve(f"refs/tags/release/{version}^{{commit}}")
    assert commit is not None
    return commit


def _complete(tree: Path, version: str, probe: bytes, signers: Path) -> None:
    (tree / "boot").rmdir()
    write_boot_files(tree / "boot", version, probe)
    vendor = tree / "usr/lib/abupdate"
    (vendor / "config.toml").write_text(_CONFIG)
    shutil.copy(signers, vendor / "allowed_signers")
    if version == "3":
        check = vendor / "required.d" / "50-broken"
        check.write_text(FAILING)
        check.chmod(0o755)
    for number in range(20):  # half of them are other ones in each release
        seed = f"{number} {version if number % 2 else ''}"
        content = random.Random(seed).randbytes(150_000 if number % 4 < 2 else 3_000)
        (tree / "usr/bin" / f"program-{number}").write_bytes(content)
    for path in [tree, *tree.rglob("*")]:  # `mke2fs -d`, which makes slot A, keeps whole seconds
        os.utime(path, (_TIME, _TIME), follow_symlinks=False)


def _content(text: bytes) -> tuple[int, str]:
    return len(text), hashlib.sha256(text).hexdigest()


def _publish(*words: str | Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["publish", *map(str, words)]) == 0
