"""Random trees of settings."""

from __future__ import annotations

from hypothesis import strategies as st

from abupdate.etc.tree import Kind, Node, Tree, parent

FOLDER = Node(Kind.FOLDER)
NAMES = st.sampled_from([b"a", b"b", b"d", b"d/a", b"d/b", b"d/e/a", b"passwd", b"group"])
TEXTS = st.lists(st.sampled_from([b"one:x:1:1\n", b"two:x:2:2\n", b"three\n", b"four:x:1:\n"]),
                 max_size=5).map(b"".join)  # fmt: skip
FILES = st.builds(
    Node, st.just(Kind.FILE), st.sampled_from([0o644, 0o600]), st.integers(0, 1),
    xattrs=st.sampled_from([(), (("user.a", b"1"),)]), content=TEXTS,
)  # fmt: skip
LINKS = st.builds(Node, st.just(Kind.LINK), st.just(0o777), target=st.sampled_from([b"x", b"y"]))
NODES = st.one_of(FILES, LINKS, st.just(FOLDER))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Random ones, of few names and texts, so that they have much in common."""
    found: Tree = {b"": FOLDER}
    for name, node in sorted(draw(st.dictionaries(NAMES, NODES, max_size=6)).items()):
        for above in (parent(parent(name)), parent(name)):
            found.setdefault(above, FOLDER)
        if all(found[above].kind is Kind.FOLDER for above in (parent(name), parent(parent(name)))):
            found[name] = node
    return {name: node for name, node in found.items() if not name or is_in(found, name)}


def is_in(found: Tree, name: bytes) -> bool:
    return not name or (found[parent(name)].kind is Kind.FOLDER and is_in(found, parent(name)))


def no_text(_old: bytes, ours: bytes, new: bytes) -> bytes | None:
    """In place of diff3, which takes milliseconds: they always touch."""
    return None
