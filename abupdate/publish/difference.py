"""What an update from one release to another brings: packages, files, and bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from abupdate.errors import UsageError
from abupdate.release.difference import PackageChange, changed_packages, changed_paths
from abupdate.release.metadata import parse_release_toml
from abupdate.release.version import Version
from abupdate.store.content import open_commit
from abupdate.store.manifest import escape
from abupdate.store.readable import chunks
from abupdate.store.repository import Repository

SCHEMA_VERSION = 1


@dataclass
class Paths:
    """Paths that differ, as a manifest writes them. `attributes`: their content stays."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """An update from `old` to `new`. Sizes in bytes.

    `paths` are all but folders whose time alone differs; `etc` and `boot` those of them
    below /etc and /boot. `fetch` is the size of a delta bundle's pack, `fetch_full` of the
    full one's; `write` and `write_files` are what goes into a slot that holds `old`.
    """

    schema_version: int
    old: str
    new: str
    compatible: str
    packages: tuple[PackageChange, ...]
    paths: Paths
    etc: Paths
    boot: Paths
    fetch: int
    fetch_full: int
    write: int
    write_files: int


def difference(repository: Repository, old: Version, new: Version) -> Difference:
    """Compare two releases of a publisher's repository, signed or not. Raises `UsageError`."""
    before, after = _commit(repository, old), _commit(repository, new)
    every, etc, boot = Paths(), Paths(), Paths()
    write = files = 0
    with open_commit(repository, after) as content:
        stated = parse_release_toml(content.release_toml)
        earlier = content.beside(before)
        changed = changed_packages(earlier, content)
        for change, kind in changed_paths(earlier, content):
            path = (change.new or change.old).path  # type: ignore[union-attr]
            if change.oid is not None and change.new is not None:
                write += change.new.size or 0
                files += 1
            text = escape(path).decode() or "."
            for group, folder in ((every, b""), (etc, b"etc/"), (boot, b"boot/")):
                if path.startswith(folder):
                    getattr(group, kind).append(text)
    return Difference(
        schema_version=SCHEMA_VERSION,
        old=str(old),
        new=str(new),
        compatible=stated.compatible,
        packages=changed,
        paths=every,
        etc=etc,
        boot=boot,
        fetch=_pack_size(repository, after, [before]),
        fetch_full=_pack_size(repository, after, []),
        write=write,
        write_files=files,
    )


def _commit(repository: Repository, version: Version) -> str:
    for ref in (f"{version.ref}^{{commit}}", f"refs/abupdate/commits/{version}"):
        if (found := repository.resolve(ref)) is not None:
            return found
    raise UsageError(
        f"{repository.path} has no release {version}.",
        "`abupdate publish log` lists what it has.",
    )


def _pack_size(repository: Repository, commit: str, since: list[str]) -> int:
    """Made as a bundle's pack is, and thrown away: nothing less tells its size."""
    with repository.packing([], commit, since, small=True) as pack:
        return sum(map(len, chunks(pack)))
