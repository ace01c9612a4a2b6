"""Three ways: what the old release had, what the owner made of it, what the new one brings.

The rules, path by path. All that only one side changed is as that side has it. Where both
changed a path in the same way, it is so. Where they changed it in different ways, its `Rule`
decides; by `merge`, that is for

1. accounts: their entries (`abupdate.etc.accounts`);
2. two of a kind: mode, owner, group and each xattr for themselves, and a file's text where
   the changes do not touch each other;
3. all else, a conflict: the owner's stays, and the release's lies beside it, its name with
   `BESIDE` at its end.

A file that the release renamed keeps the owner's changes under its new name. One that the
owner renamed stays as the owner has it, which is a conflict where the release changed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from abupdate.etc import accounts
from abupdate.etc.policy import Policy, Rule
from abupdate.etc.tree import Kind, Node, Tree, below, parent, shown

BESIDE = b".abupdate-new"

# Old text, the owner's, the release's → both changes in one; None where they touch.
MergeText = Callable[[bytes, bytes, bytes], bytes | None]


class Outcome(StrEnum):
    """What became of a path that both changed.

    `theirs`: the release's took the owner's place; `moved`: the owner's changes are under the
    name that the release gave it; `renumbered`: an account of the release has another id.
    """

    MERGED = "merged"
    CONFLICT = "conflict"
    THEIRS = "theirs"
    MOVED = "moved"
    RENUMBERED = "renumbered"
    DROPPED = "dropped"


@dataclass(frozen=True)
class Finding:
    """What became of one path, and why."""

    path: bytes
    outcome: Outcome
    text: str


@dataclass
class Merged:
    """The new tree, what is to be told, how many paths the owner has changed, and their hash."""

    tree: Tree
    findings: list[Finding] = field(default_factory=list)
    changed: int = 0
    source: str = ""

    def tell(self, path: bytes, outcome: Outcome, text: str) -> None:
        self.findings.append(Finding(path, outcome, text))


def merge(
    base: Tree,
    mine: Tree,
    theirs: Tree,
    policy: Policy,
    merge_text: MergeText,
    unsettled: Mapping[bytes, str] | None = None,
) -> Merged:
    """What /etc of the new release is with the owner's changes.

    `unsettled`: conflicts of the update before that nobody has settled, with their words.
    They stay, as long as the owner's is not what the release has.
    """
    unsettled = unsettled or {}
    beside = {name + BESIDE for name in unsettled} - base.keys()
    without = {name: node for name, node in mine.items() if name not in beside}
    done = _Merge(base, without, theirs, policy, merge_text).run()
    told = {found.path for found in done.findings if found.outcome is Outcome.CONFLICT}
    for name in sorted(unsettled.keys() - told):
        _still(done, name, theirs.get(name), name + BESIDE in mine, unsettled[name])
    done.findings.sort(key=lambda found: (found.path, found.outcome))
    return done


def _still(done: Merged, name: bytes, new: Node | None, beside: bool, text: str) -> None:
    if _same(done.tree.get(name), new):
        return
    if (
        beside
        and new is not None
        and new.kind in (Kind.FILE, Kind.LINK)
        and parent(name) in done.tree
    ):
        done.tree[name + BESIDE] = new
    done.tell(name, Outcome.CONFLICT, text)


def fits(name: bytes) -> bool:
    """Whether there can be such a path (Linux: 255 bytes a part, 4095 in all)."""
    return len(name) < 4096 and all(len(part) < 256 for part in name.split(b"/"))


def changes(base: Tree, mine: Tree) -> list[bytes]:
    """The paths that differ, sorted."""
    return sorted(
        name
        for name in base.keys() | mine.keys()
        if (found := mine.get(name)) is not base.get(name)
        and (found is None or not found.same(base.get(name)))
    )


def fingerprint(base: Tree, mine: Tree) -> str:
    """A hash of what differs, its content included."""
    digest = hashlib.sha256()
    for name in changes(base, mine):
        node = mine.get(name)
        content = None if node is None else hashlib.sha256(node.read()).hexdigest()
        digest.update(repr((name, node and node.about, content)).encode())
    return digest.hexdigest()


class _Merge:
    def __init__(
        self, base: Tree, mine: Tree, theirs: Tree, policy: Policy, merge_text: MergeText
    ) -> None:
        self._base, self._mine, self._theirs = base, mine, theirs
        self._policy, self._merge_text = policy, merge_text
        self._done = Merged(dict(theirs))
        self._tree = self._done.tree
        self._renamed: set[bytes] = set()

    def run(self) -> Merged:
        changed = changes(self._base, self._mine)
        self._done.changed = len(changed)
        waiting = [name for name in changed if not self._dropped(name)]
        for step in (self._accounts, self._moved_by_the_release, self._moved_by_the_owner):
            waiting = step(waiting)
        for name in waiting:
            self._one(name)
        self._folders()
        return self._done

    def _dropped(self, name: bytes) -> bool:
        if self._policy.rule(name) is not Rule.DROP or self._policy.is_union(name):
            return False
        self._done.tell(name, Outcome.DROPPED, "your change does not go along, as etc.policy says")
        return True

    def _put(self, name: bytes, node: Node | None) -> None:
        if node is None:
            self._tree.pop(name, None)
        else:
            self._tree[name] = node

    def _accounts(self, waiting: list[bytes]) -> list[bytes]:
        if not set(waiting) & set(accounts.FILES):
            return waiting
        texts = [
            {
                name: tree[name].read()
                for name in accounts.FILES
                if name in tree and tree[name].kind is Kind.FILE
                and self._policy.rule(name) is Rule.MERGE
            }
            for tree in (self._base, self._mine, self._theirs)
        ]  # fmt: skip
        merged = accounts.merge(*texts)
        for name, text in merged.files.items():
            about = self._about(name, *(t[name] for t in (self._base, self._mine, self._theirs)))
            self._put(name, replace(about, content=text))
        for name, told in merged.conflicts:
            self._done.tell(name, Outcome.CONFLICT, told)
        for name, told in merged.renumbered:
            self._done.tell(name, Outcome.RENUMBERED, told)
        return [name for name in waiting if name not in merged.files]

    def _moved_by_the_release(self, waiting: list[bytes]) -> list[bytes]:
        """A file that the owner changed is under another name in the release."""
        left = []
        for name in waiting:
            old, ours = self._base.get(name), self._mine.get(name)
            to = None
            if old is not None and ours is not None and name not in self._theirs:
                to = self._new_name(name, ours, self._theirs, self._mine)
            if to is None or old is None or ours is None:
                left.append(name)
                continue
            about = self._about(to, old, ours, self._theirs[to])
            self._put(to, replace(about, content=ours.content))
            text = f"the release renamed {shown(name)}; your changes are here"
            self._done.tell(to, Outcome.MOVED, text)
        return left

    def _moved_by_the_owner(self, waiting: list[bytes]) -> list[bytes]:
        """The release changed a file that the owner has under another name."""
        left = []
        for name in waiting:
            old, new = self._base.get(name), self._theirs.get(name)
            to = None
            if old is not None and new is not None and name not in self._mine and not new.same(old):
                to = self._new_name(name, new, self._mine, self._theirs)
            if to is None:
                left.append(name)
                continue
            self._put(name, None)
            text = f"you renamed {shown(name)}, the release changed it"
            self._conflict(to, self._mine[to], new, text)
        return left

    def _new_name(self, name: bytes, changed: Node, there: Tree, elsewhere: Tree) -> bytes | None:
        """Where the bytes of a file lie that one side renamed, when there is one such place.

        Nothing else may have been renamed to it, and no rule of its own may speak of either.
        """
        old = self._base[name]
        if old.kind is not Kind.FILE or changed.kind is not Kind.FILE or not old.size:
            return None
        found = [
            to
            for to, node in there.items()
            if to not in self._base and to not in elsewhere
            and node.kind is Kind.FILE and node.same_content(old)
        ]  # fmt: skip
        if len(found) != 1 or found[0] in self._renamed or not all(map(self._free, (name, *found))):
            return None
        self._renamed.add(found[0])
        return found[0]

    def _free(self, name: bytes) -> bool:
        return self._policy.rule(name) is Rule.MERGE and not self._policy.is_union(name)

    def _one(self, name: bytes) -> None:
        old, ours, new = (tree.get(name) for tree in (self._base, self._mine, self._theirs))
        if _same(new, old):
            self._put(name, ours)
        elif _same(ours, new):
            self._put(name, new)
        elif self._policy.is_union(name):
            self._union(name, ours, new)
        elif self._policy.rule(name) is Rule.MINE:
            self._put(name, ours)
        elif self._policy.rule(name) is Rule.THEIRS:
            self._done.tell(
                name, Outcome.THEIRS, "both changed it: the release's took yours' place"
            )
        else:
            self._both(name, old, ours, new)

    def _both(self, name: bytes, old: Node | None, ours: Node | None, new: Node | None) -> None:
        if ours is None:
            self._conflict(name, None, new, "you removed it, the release changed it")
        elif new is None:
            self._conflict(name, ours, None, "you changed it, the release has it no more")
        elif ours.kind is not new.kind or (old is not None and old.kind is not new.kind):
            text = f"yours is a {ours.kind}, the release's a {new.kind}"
            self._conflict(name, ours, new, text)
        elif old is None and ours.kind is not Kind.FOLDER:
            self._conflict(name, ours, new, "both brought it, each in its own way")
        else:
            self._of_a_kind(name, old or new, ours, new)

    def _of_a_kind(self, name: bytes, old: Node, ours: Node, new: Node) -> None:
        about = self._about(name, old, ours, new)
        text: bytes | None
        if ours.same_content(old) or ours.same_content(new):
            content = new.content
        elif new.same_content(old):
            content = ours.content
        else:
            text = self._merge_text(old.read(), ours.read(), new.read())
            if text is None:
                self._conflict(name, replace(about, content=ours.content), new, "both changed it")
                return
            content = text
        if ours.target != new.target and old.target not in (ours.target, new.target):
            self._conflict(name, replace(about, content=content), new, "both changed it")
            return
        self._put(name, replace(about, content=content))
        self._done.tell(name, Outcome.MERGED, "your changes and the release's are both in it")

    def _about(self, name: bytes, old: Node, ours: Node, new: Node) -> Node:
        """The owner's node with what the release alone changed of mode, owner and the like."""
        different: list[str] = []

        def value(what: str, was: object, mine: object, theirs: object) -> object:
            if mine in (was, theirs):
                return theirs
            if theirs != was:
                different.append(what)
            return mine

        mode = value("mode", old.mode, ours.mode, new.mode)
        uid = value("owner", old.uid, ours.uid, new.uid)
        gid = value("group", old.gid, ours.gid, new.gid)
        target = value("target", old.target, ours.target, new.target)
        sides = [dict(node.xattrs) for node in (old, ours, new)]
        names = sorted({key for side in sides for key in side})
        xattrs = {key: value(key, *(side.get(key) for side in sides)) for key in names}
        kept = tuple((key, found) for key, found in xattrs.items() if isinstance(found, bytes))
        told = [what for what in different if what != "target"]
        if told:
            text = f"both changed its {', '.join(told)}: yours stays"
            self._done.tell(name, Outcome.CONFLICT, text)
        assert isinstance(mode, int) and isinstance(uid, int) and isinstance(gid, int)
        assert isinstance(target, bytes)
        return replace(ours, mode=mode, uid=uid, gid=gid, target=target, xattrs=kept)

    def _union(self, name: bytes, ours: Node | None, new: Node | None) -> None:
        nodes = [node for node in (new, ours) if node is not None]
        if any(node.kind is not Kind.FILE or b"\0" in node.read() for node in nodes):
            self._conflict(name, ours, new, "both changed it")  # such as OpenSSH's binary form
            return
        lines = dict.fromkeys(line for node in nodes for line in node.read().splitlines())
        self._put(name, replace(nodes[0], content=b"".join(line + b"\n" for line in lines)))
        self._done.tell(name, Outcome.MERGED, "the lines of both are in it")

    def _conflict(self, name: bytes, ours: Node | None, new: Node | None, text: str) -> None:
        self._put(name, ours)
        stays = "yours stays" if ours is not None else "it stays away"
        beside = name + BESIDE
        if new is not None and new.kind in (Kind.FILE, Kind.LINK) and fits(beside):
            self._tree[beside] = new
            stays += f", and the release's is beside it, {shown(beside.rpartition(b'/')[2])}"
        self._done.tell(name, Outcome.CONFLICT, f"{text}: {stays}")

    def _folders(self) -> None:
        """Everything lies in a folder."""
        for name in sorted(self._tree):
            above = parent(name)
            while name in self._tree and name and not self._is_folder(above):
                self._make_folder(above)
                above = parent(above)

    def _is_folder(self, name: bytes) -> bool:
        return name in self._tree and self._tree[name].kind is Kind.FOLDER

    def _make_folder(self, above: bytes) -> None:
        """For what is in it, or else that has to go."""
        there, ours = self._tree.get(above), self._mine.get(above)
        if there is None:
            trees = (self._mine, self._theirs, self._base)
            self._tree[above] = next(
                tree[above] for tree in trees if above in tree and tree[above].kind is Kind.FOLDER
            )
        elif ours is not None and ours.kind is Kind.FOLDER:
            text = f"the release made it a {there.kind}, you changed what is in it"
            self._conflict(above, ours, there, text)
            # All of it, and not the changes alone: what is read from there must be whole.
            for name in below(self._mine, above):
                self._tree.setdefault(name, self._mine[name])
        else:
            for gone in below(self._tree, above)[1:]:
                text = "the release changed it, and the folder that it is in is none here"
                self._done.tell(gone, Outcome.CONFLICT, text)
                self._put(gone, None)


def _same(one: Node | None, other: Node | None) -> bool:
    return one is other or (one is not None and one.same(other))
