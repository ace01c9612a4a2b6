"""Small signed releases by hand, each with something that no publisher of ours would make."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from abupdate.release.metadata import ReleaseToml, format_release_toml
from abupdate.release.version import Version
from abupdate.signing.signature import format_payload, sign
from abupdate.store.manifest import HEADER, Entry, Kind, format_entry
from tests.slots.hostile.packs import Pack
from tests.slots.rootfs import PRODUCT

_TIME = 1_790_000_000
_WHO = b"Acme <release@example.org> %d +0000" % _TIME
FILES = {"etc/one": b"one\n", "etc/two": b"the second\n", "usr/tool": b"a tool\n" * 100}


@dataclass(frozen=True)
class Node:
    """A line of a tree. `content`: a blob's bytes, a folder's nodes, or the id of anything."""

    mode: str
    name: bytes
    content: bytes | list[Node] | str


Manifest = list[Entry]


@dataclass(frozen=True)
class Craft:
    """What is other than it should be. Each function gets the right thing, and gives the wrong.

    `raw`: the tag with its signature. `before` adds objects to the pack first, and gives the
    id and type of what the tag is to be on (None: the commit), from the right ids.
    """

    manifest: Callable[[Manifest], Manifest] = lambda entries: entries
    lines: Callable[[bytes], bytes] = lambda raw: raw
    tree: Callable[[list[Node]], list[Node]] = lambda nodes: nodes
    payload: Callable[[bytes], bytes] = lambda text: text
    raw: Callable[[bytes], bytes] = lambda tag: tag
    more: Callable[[Pack], object] = lambda pack: None
    on: Callable[[Pack, dict[str, str]], tuple[str, str] | None] = lambda pack, ids: None
    toml: Callable[[bytes], bytes] = lambda text: text
    compatible: str = PRODUCT
    algorithm: str = "sha256"
    when: int = _TIME
    needs: Sequence[str] = ()
    refs: Sequence[str] = ()


@dataclass(frozen=True)
class Made:
    """A bundle, and the ids of its `tag`, `commit`, `tree`, `manifest` and `one` (a file)."""

    bundle: bytes
    ids: dict[str, str]


def craft(version: str, key: Path, what: Craft) -> Made:
    """A bundle that is right in everything but what `what` says."""
    pack = Pack(what.algorithm)
    what.more(pack)
    text = HEADER + b"".join(map(format_entry, what.manifest(_entries())))
    text = what.lines(text)
    toml = format_release_toml(
        ReleaseToml(
            version=Version(version),
            compatible=what.compatible,
            bytes=10_000,
            inodes=10,
            created=_TIME,
        )
    )
    own = [Node("100644", b"manifest", text), Node("100644", b"release.toml", what.toml(toml))]
    nodes = [Node("40000", b".abupdate", own), *_nodes()]
    tree = _write(pack, what.tree(nodes))
    commit = pack.add(
        "commit", b"tree %s\nauthor %s\ncommitter %s\n\n%s\n"
        % (tree.encode(), _WHO, _WHO, version.encode())
    )  # fmt: skip
    ids = {
        "commit": commit,
        "tree": tree,
        "manifest": Pack(what.algorithm).add("blob", text),
        "one": Pack(what.algorithm).add("blob", FILES["etc/one"]),
    }
    payload = format_payload(
        commit=commit,
        version=Version(version),
        manifest_sha256=hashlib.sha256(text).hexdigest(),
        compatible=what.compatible,
        tagger="Acme <release@example.org>",
        tagger_time=what.when,
    )
    other = what.on(pack, ids)
    if other is not None:
        payload = payload.replace(
            b"object %s\ntype commit" % commit.encode(),
            b"object %s\ntype %s" % (other[0].encode(), other[1].encode()),
        )
    tag = pack.add("tag", what.raw(sign(what.payload(payload), key)))
    opening = ["# v2 git bundle"]
    if what.algorithm == "sha256":
        opening = ["# v3 git bundle", "@object-format=sha256"]
    refs = what.refs or (f"refs/tags/release/{version}",)
    header = [*opening, *(f"-{oid}" for oid in what.needs), *(f"{tag} {ref}" for ref in refs)]
    bundle = "\n".join([*header, "", ""]).encode() + pack.close()
    return Made(bundle, {**ids, "tag": tag})


def file(path: str | bytes, content: bytes, kind: Kind = Kind.FILE) -> Entry:
    """The line of a file or symlink."""
    name = path.encode() if isinstance(path, str) else path
    digest = hashlib.sha256(content).hexdigest()
    return Entry(name, kind, 0o644, 0, 0, 0, len(content), digest)


def folder(path: str | bytes) -> Entry:
    """The line of a folder."""
    return Entry(path.encode() if isinstance(path, str) else path, Kind.DIR, 0o755, 0, 0, 0)


def _entries() -> Manifest:
    folders = [folder(name) for name in ("", "etc", "usr")]
    files = [file(path, content) for path, content in FILES.items()]
    return sorted([*folders, *files], key=lambda entry: entry.path)


def _nodes() -> list[Node]:
    found: dict[str, list[Node]] = {}
    for path, content in FILES.items():
        above, _, name = path.partition("/")
        found.setdefault(above, []).append(Node("100644", name.encode(), content))
    return [Node("40000", name.encode(), nodes) for name, nodes in found.items()]


def _write(pack: Pack, nodes: list[Node]) -> str:
    """The id of a tree, after all that it has was added; nothing is sorted."""
    raw = b""
    for node in nodes:
        if isinstance(node.content, str):
            found = node.content
        elif isinstance(node.content, bytes):
            found = pack.add("blob", node.content)
        else:
            found = _write(pack, node.content)
        raw += node.mode.encode() + b" " + node.name + b"\0" + bytes.fromhex(found)
    return pack.add("tree", raw)
