"""The table of hostile inputs: what each is, and what a person is told about it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from abupdate.store.manifest import Entry, Kind
from tests.slots.device import NOBODY
from tests.slots.hostile.packs import Pack, oid, swap_in_index
from tests.slots.hostile.releases import FILES, Craft, Manifest, Node, file
from tests.slots.hostile.workshop import Workshop

SOURCE, NOT_TRUSTED, REFUSED, NO_SPACE = 9, 6, 7, 8
VERSION = "7"
_BACKDATED = 1_500_000_000  # 2017: the expired key was good then
_GIB = 1 << 30

# Makes the input; gives what to install.
Make = Callable[[Workshop], Path | str]


@dataclass(frozen=True)
class Case:
    """One hostile input. `says`: a good part of the sentence.

    `plants`: it changes the store first. `writes`: seen only once the slot is written, which
    then is never armed. `long`: not in `make test`.
    """

    make: Make
    says: str
    code: int
    plants: bool = False
    writes: bool = False
    long: bool = False
    title: str = ""

    def around(self, shop: Workshop) -> AbstractContextManager[None]:
        return shop.changed_store() if self.plants else nullcontext()


def bundle(
    what: Craft, *, key: str = "good", change: Callable[[bytes], bytes] | None = None
) -> Make:
    """A release by hand, its bundle perhaps changed afterwards."""

    def make(shop: Workshop) -> Path:
        made = shop.craft(VERSION, what, key).bundle
        path = shop.folder / "bundle"
        path.write_bytes(change(made) if change else made)
        return path

    return make


# Keys and tags.

_END = b"-----END SSH SIGNATURE-----\n"


def _pgp(shop: Workshop) -> Path | str:
    """Signed by gpg, with a key that is in the keyring of who runs the command."""
    home = shop.folder / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
    gpg += ["--passphrase", ""]

    def signed(raw: bytes) -> bytes:
        text = raw[: raw.index(b"-----BEGIN")]
        sign_it = [*gpg, "--armor", "--detach-sign"]
        return text + subprocess.run(sign_it, input=text, check=True, capture_output=True).stdout

    words = ["--quick-generate-key", "release@example.org", "ed25519", "sign"]
    subprocess.run([*gpg, *words], check=True, capture_output=True)
    try:
        return bundle(Craft(raw=signed))(shop)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)


def _wrong_key(raw: bytes) -> bytes:
    """The good key's signature over another text."""
    return raw.replace(b"Release 7", b"Release 8")


def _tag_on_a_tag(pack: Pack, ids: dict[str, str]) -> tuple[str, str]:
    who = b"A <a@example.org> 1 +0000"
    inner = b"object %s\ntype commit\ntag inner\ntagger %s\n\nx\n" % (ids["commit"].encode(), who)
    return pack.add("tag", inner), "tag"


_KEYS = {
    "signature over another text": Case(
        bundle(Craft(raw=_wrong_key)), "does not fit the tag", NOT_TRUSTED),
    "expired key, tag backdated to 2017": Case(
        bundle(Craft(when=_BACKDATED), key="expired"), "has expired", NOT_TRUSTED),
    "revoked key": Case(bundle(Craft(), key="revoked"), "revokes", NOT_TRUSTED),
    "unlisted key": Case(
        bundle(Craft(), key="unlisted"), "not in the list of signers", NOT_TRUSTED),
    "no signature": Case(
        bundle(Craft(raw=lambda raw: raw[: raw.index(b"-----BEGIN")])),
        "has no signature", NOT_TRUSTED),
    "PGP signature, its key in the keyring": Case(_pgp, "signed with SSH keys only", NOT_TRUSTED),
    "text after the signature": Case(
        bundle(Craft(raw=lambda raw: raw + b"more\n")), "text after its signature", NOT_TRUSTED),
    "two signatures": Case(
        bundle(Craft(raw=lambda raw: raw + raw[raw.index(b"-----BEGIN") :])),
        "exactly one SSH signature", NOT_TRUSTED),
    "tag on a tree": Case(
        bundle(Craft(on=lambda _, ids: (ids["tree"], "tree"))), "is on a tree", NOT_TRUSTED),
    "tag on a blob": Case(
        bundle(Craft(on=lambda _, ids: (ids["one"], "blob"))), "is on a blob", NOT_TRUSTED),
    "tag on another tag": Case(bundle(Craft(on=_tag_on_a_tag)), "is on a tag", NOT_TRUSTED),
    "tag of 100 MB": Case(
        bundle(Craft(raw=lambda raw: raw.replace(b"\n\n", b"\n\n" + b"x" * 100_000_000, 1))),
        "65536 at most are taken", NOT_TRUSTED),
    "signed for another product": Case(
        bundle(Craft(compatible="otherbox")), "takes releases for 'testbox'", REFUSED),
}  # fmt: skip


# The bundle's header.


def _ref(text: str) -> Craft:
    return Craft(refs=(text,))


_HEADER = {
    "tag's name is not the ref's": Case(
        bundle(_ref("refs/tags/release/8")), "expected to be named release/8", NOT_TRUSTED),
    "ref renamed by a bit": Case(
        bundle(_ref("refs/tags/reldase/7")), "holds 'refs/tags/reldase/7', not a release", SOURCE),
    "two refs": Case(
        bundle(Craft(refs=("refs/tags/release/7", "refs/tags/release/8"))),
        "a release has one ref", SOURCE),
    "SHA-1 objects for a SHA-256 store": Case(
        bundle(Craft(algorithm="sha1")), "made of sha1 objects, this store of sha256", SOURCE),
    "prerequisite that is missing": Case(
        bundle(Craft(needs=("ab" * 32,))), "which is not in the store", SOURCE),
    "nothing but a header": Case(
        bundle(Craft(), change=lambda raw: raw[: raw.index(b"PACK")]), "whole and sound", SOURCE),
    "header without its last line": Case(
        bundle(Craft(), change=lambda raw: raw[: raw.index(b"PACK") - 1]),
        "ends too early", SOURCE),
    "bytes after the pack": Case(
        bundle(Craft(), change=lambda raw: raw + bytes(1 << 20)),
        "after the end of its pack", SOURCE),
}  # fmt: skip


# What unpacks to more than it is.


def _zeros(size: int) -> Craft:
    return Craft(more=lambda pack: pack.add_zeros(size))


def _deltas(count: int, size: int) -> Craft:
    def more(pack: Pack) -> None:
        pack.add_zeros(1 << 20)
        for number in range(count):
            pack.add_delta_of_zeros(size, b"%d" % number)

    return Craft(more=more)


def _tags_that_git_warns_of(pack: Pack) -> None:
    """Each is a line of git's: it tells of a tag without a tagger, and takes it."""
    commit = pack.add("commit", b"tree %s\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\nx\n"
                      % pack.add("tree", b"").encode())  # fmt: skip
    for number in range(6000):
        pack.add("tag", b"object %s\ntype commit\ntag t%d\n\n" % (commit.encode(), number))


def _zeros_in_zstd(raw: bytes) -> bytes:
    """A beginning that tells no signer, and then frames of zeros, ten gibibytes in all."""
    beginning = raw[:4096]
    zeros = subprocess.run(
        ["zstd", "-q", "-c"], input=bytes(_GIB // 4), stdout=subprocess.PIPE, check=True
    ).stdout
    opening = struct.pack("<4sI", b"\x50\x2a\x4d\x18", len(beginning)) + beginning
    return (
        opening
        + subprocess.run(
            ["zstd", "-q", "-c"], input=raw[:-64], stdout=subprocess.PIPE, check=True
        ).stdout
        + 40 * zeros
    )


_LARGE = {
    "blob that inflates to 256 MB": Case(bundle(_zeros(_GIB // 4)), "unpacks to", NO_SPACE),
    "blob that inflates to 10 GB": Case(
        bundle(_zeros(10 * _GIB)), "unpacks to", NO_SPACE, long=True),
    "delta that makes 10 GB": Case(bundle(_deltas(1, 10 * _GIB)), "Out of memory", SOURCE),
    "delta that makes 256 MB": Case(bundle(_deltas(1, _GIB // 4)), "unpacks to", NO_SPACE),
    "deltas that make 10 GB": Case(
        bundle(_deltas(80, _GIB // 8)), "unpacks to", NO_SPACE, long=True),
    "zstd without its tags, 10 GB of zeros behind": Case(
        bundle(Craft(), change=_zeros_in_zstd), "should begin with its tags", SOURCE),
    "a million tiny objects": Case(
        bundle(Craft(more=lambda pack: pack.add_tiny_blobs(1_000_000))), "objects", NO_SPACE),
    "four thousand million objects, it says": Case(
        bundle(Craft(), change=lambda raw: raw.replace(
            raw[raw.index(b"PACK") :][:12], b"PACK\0\0\0\2\xff\xff\xff\xff")), "objects", NO_SPACE),
    "tags that git warns of": Case(
        bundle(Craft(more=_tags_that_git_warns_of), key="unlisted"),
        "not in the list of signers", NOT_TRUSTED),
}  # fmt: skip


# Trees.


def _named(name: bytes, mode: str = "100644", content: bytes | str = b"x") -> Craft:
    """One entry more at the end of the root's tree, and none in the manifest."""
    return Craft(tree=lambda nodes: [*nodes, Node(mode, name, content)])


def _first(name: bytes) -> Craft:
    return Craft(tree=lambda nodes: [Node("100644", name, b"x"), *nodes])


def _second(name: bytes) -> Craft:
    """After `.abupdate`, where names that begin with a dot belong."""
    return Craft(tree=lambda nodes: [nodes[0], Node("100644", name, b"x"), *nodes[1:]])


def _link_and_folder(nodes: list[Node]) -> list[Node]:
    """A symlink, and a folder of the same name with a file in it."""
    below = [Node("100644", b"passwd", b"x")]
    return [*nodes, Node("120000", b"z", b"/etc"), Node("40000", b"z", below)]


def _link_then_child(entries: Manifest) -> Manifest:
    return [*entries, file("z", b"/etc", Kind.LINK), file("z/passwd", b"x")]


def _endless() -> Craft:
    """Ten folders in each of ten levels, all the same: ten thousand million paths."""
    levels = [b"100644 x\0" + bytes.fromhex(oid("blob", b"x"))]
    for _ in range(10):
        above = bytes.fromhex(oid("tree", levels[-1]))
        levels.append(b"".join(b"40000 %d\0" % number + above for number in range(10)))

    def more(pack: Pack) -> None:
        pack.add("blob", b"x")
        for level in levels:
            pack.add("tree", level)

    return replace(_named(b"z", "40000", oid("tree", levels[-1])), more=more)


_GIT = "git says"
_TREES = {
    "name '..'": Case(bundle(_first(b"..")), _GIT, SOURCE),
    "name '.'": Case(bundle(_first(b".")), _GIT, SOURCE),
    "name with slashes": Case(bundle(_first(b"../../etc/passwd")), _GIT, SOURCE),
    "absolute name": Case(bundle(_first(b"/etc/passwd")), _GIT, SOURCE),
    "empty name": Case(bundle(_first(b"")), _GIT, SOURCE),
    "'.git'": Case(bundle(Craft(tree=lambda nodes: [
        nodes[0], Node("40000", b".git", [Node("100755", b"hooks", b"x")]), *nodes[1:]])),
        _GIT, SOURCE),
    "'.GIT'": Case(bundle(_first(b".GIT")), _GIT, SOURCE),
    "'.git' of HFS+": Case(bundle(_second(".g\u200cit".encode())), _GIT, SOURCE),
    "'.git' of NTFS, git~1": Case(bundle(Craft(tree=lambda nodes: [
        *nodes[:2], Node("100644", b"git~1", b"x"), *nodes[2:]])), _GIT, SOURCE),
    "'.git ' of NTFS": Case(bundle(_second(b".git ")), _GIT, SOURCE),
    "'.git::$INDEX_ALLOCATION' of NTFS": Case(
        bundle(_second(b".git::$INDEX_ALLOCATION")), _GIT, SOURCE),
    "a name escaped twice": Case(bundle(Craft(tree=lambda nodes: [
        Node("100644", b".abu%etc", b"x"), *nodes])), "does not write", NOT_TRUSTED),
    "symlink, and a folder of its name": Case(
        bundle(Craft(tree=_link_and_folder)), _GIT, SOURCE),
    "symlink, then a file beneath it": Case(
        bundle(Craft(manifest=_link_then_child)), "parent is not a directory", NOT_TRUSTED),
    "a name twice": Case(
        bundle(Craft(tree=lambda nodes: [*nodes, Node("100644", b"z", b"1"),
                                         Node("100644", b"z", b"2")])), _GIT, SOURCE),
    "submodule": Case(
        bundle(_named(b"z", "160000", "ab" * 32)), "mode 160000", NOT_TRUSTED),
    **{f"mode {mode}": Case(bundle(_named(b"z", mode)), f"mode {mode}", NOT_TRUSTED)
       for mode in ("100664", "100600", "104755", "20644")},
    "mode 0100644": Case(bundle(_named(b"z", "0100644")), _GIT, SOURCE),
    "name of 4 KiB": Case(bundle(_named(b"z" * 4096)), "disagree about zzz", NOT_TRUSTED),
    "name of 4 KiB in the manifest too": Case(
        bundle(replace(_named(b"z" * 4096), manifest=lambda entries: [
            *entries, file(b"z" * 4096, b"x")])), "a path may have 4095 bytes", NOT_TRUSTED),
    "folders that hold themselves ten times, ten deep": Case(
        bundle(_endless()), "disagree", NOT_TRUSTED),
}  # fmt: skip


# Manifest and tree.


def _without(path: str) -> Callable[[Manifest], Manifest]:
    return lambda entries: [entry for entry in entries if entry.path != path.encode()]


def _with(path: str, **changes: object) -> Callable[[Manifest], Manifest]:
    def change(entries: Manifest) -> Manifest:
        return [
            entry._replace(**changes) if entry.path == path.encode() else entry  # type: ignore[arg-type]
            for entry in entries
        ]

    return change


def _and(*more: Entry) -> Callable[[Manifest], Manifest]:
    return lambda entries: sorted([*entries, *more], key=lambda entry: entry.path)


def _forward(entries: Manifest) -> Manifest:
    """etc/one is a name of etc/two, which comes later."""
    one = next(entry for entry in entries if entry.path == b"etc/one")
    link = one._replace(kind=Kind.HARDLINK, size=None, sha256=None, target=b"etc/two")
    return [link if entry is one else entry for entry in _with("etc/two", links=2)(entries)]


_DEVICE = Entry(b"null", Kind.CHAR, 0o666, 0, 0, 0, device=(1, 3))


def _devices(shop: Workshop) -> Path | str:
    shop.configure("allow_devices = false")
    return bundle(Craft(manifest=_and(_DEVICE)))(shop)


_MANIFEST = {
    "file that the manifest has not": Case(
        bundle(Craft(manifest=_without("etc/two"))), "disagree about etc/two", NOT_TRUSTED),
    "file that the tree has not": Case(
        bundle(Craft(manifest=_and(file("etc/three", b"3")))),
        "disagree about etc/three", NOT_TRUSTED),
    "file of another size": Case(
        bundle(Craft(manifest=_with("etc/two", size=5))),
        "other content for etc/two", NOT_TRUSTED, writes=True),
    "file of another hash": Case(
        bundle(Craft(manifest=_with("etc/two", sha256="0" * 64))),
        "other content for etc/two", NOT_TRUSTED, writes=True),
    "manifest that the signature does not cover": Case(
        bundle(Craft(payload=lambda text: text.replace(
            b"Manifest-SHA256: ", b"Manifest-SHA256: " + b"0" * 64 + b"\nX: "))),
        "The signature covers the manifest", NOT_TRUSTED),
    "path that leaves the root": Case(
        bundle(Craft(manifest=_and(file("etc/../../x", b"x")))),
        "'..' components", NOT_TRUSTED),
    "hard link to a later file": Case(
        bundle(Craft(manifest=_forward)), "must point to an earlier file", NOT_TRUSTED),
    "device, where devices are not allowed": Case(
        _devices, "has 1 device node, the first null", REFUSED),
    "manifest cut in a line": Case(
        bundle(Craft(lines=lambda raw: raw[:-9])), "Manifest, line", NOT_TRUSTED),
    "release.toml of another version": Case(
        bundle(Craft(toml=lambda raw: raw.replace(b'"7"', b'"8"'))),
        "the release inside says testbox 8", NOT_TRUSTED),
    "release.toml of nested brackets": Case(
        bundle(Craft(toml=lambda raw: raw + b"x = " + b"[" * 50_000)),
        "lists and tables in each", SOURCE),
}  # fmt: skip


# What lies in the store.


def _lying_index(first: str, second: str) -> Make:
    def make(shop: Workshop) -> str:
        made = shop.craft(VERSION, Craft())
        ids = {**made.ids, "two": oid("blob", FILES["etc/two"])}
        swap_in_index(shop.take_in(made, VERSION), ids[first], ids[second])
        return f"release/{VERSION}"

    return make


_WITNESS = "hostile-program-ran"
_CONFIG = """\
[core]
	fsmonitor = {program}
	hooksPath = {hooks}
	sshCommand = {program}
	alternateRefsCommand = {program}
	pager = {program}
	editor = {program}
[alias]
	cat-file = !{program}
	index-pack = !{program}
	rev-parse = !{program}
[gpg]
	program = {program}
[gpg "ssh"]
	program = {program}
[uploadpack]
	packObjectsHook = {program}
[diff]
	external = {program}
[transfer]
	fsckObjects = false
[fsck]
	hasDotgit = ignore
[include]
	path = {more}
"""
_HOOKS = ("reference-transaction", "post-index-change", "pre-auto-gc", "update", "post-update")


def _planted(change: Callable[[Workshop], Path | str]) -> Make:
    """Programs wherever git might run one, each of which would leave a file behind."""

    def make(shop: Workshop) -> Path | str:
        found = change(shop)
        trap = shop.device.top / "trap"
        trap.mkdir(exist_ok=True)
        trap.chmod(0o777)
        program = trap / "program"
        program.write_text(f"#!/bin/sh\necho $0 >> {trap}/{_WITNESS}\n")
        program.chmod(0o755)
        hooks = shop.store / "hooks"
        hooks.mkdir(exist_ok=True)
        for hook in _HOOKS:
            shutil.copy(program, hooks / hook)
        more = shop.store / "more"
        more.write_text(f"[core]\n\tfsmonitor = {program}\n\thooksPath = {hooks}\n")
        with (shop.store / "config").open("a") as config:
            config.write(_CONFIG.format(program=program, hooks=hooks, more=more))
        other = trap / "objects"
        other.mkdir(exist_ok=True)
        (shop.store / "objects/info/alternates").write_text(f"{other}\n")
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", shop.store], check=True)
        return found

    return make


def programs_ran(shop: Workshop) -> bool:
    """Whether a planted program was run."""
    return (shop.device.top / "trap" / _WITNESS).exists()


_STORE = {
    "index that gives other bytes for the tag": Case(
        _lying_index("tag", "commit"), "", NOT_TRUSTED, plants=True),
    "index that gives other bytes for the manifest": Case(
        _lying_index("manifest", "one"), "hands out other content", NOT_TRUSTED, plants=True),
    "index that gives other bytes for a file": Case(
        _lying_index("one", "two"), "other content for etc/", NOT_TRUSTED, plants=True),
    "configuration and hooks in the store; unlisted key": Case(
        _planted(bundle(Craft(), key="unlisted")), "not in the list of signers", NOT_TRUSTED,
        plants=True),
    "configuration and hooks in the store; '.git' in a tree": Case(
        _planted(bundle(_first(b".GIT"))), _GIT, SOURCE, plants=True),
    "configuration and hooks in the store; a good release": Case(
        _planted(bundle(Craft())), "is installed", 0, plants=True, writes=True),
}  # fmt: skip

_ALL = {
    "Keys and tags": _KEYS,
    "The bundle's header": _HEADER,
    "More than it seems": _LARGE,
    "Trees": _TREES,
    "Manifest and tree": _MANIFEST,
    "What lies in the store": _STORE,
}
CASES = {
    name: replace(case, title=title)
    for title, cases in _ALL.items()
    for name, case in cases.items()
}
