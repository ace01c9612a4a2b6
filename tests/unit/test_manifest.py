"""The manifest: exact both ways, and strict about what it takes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abupdate.errors import NotTrustedError
from abupdate.store import manifest, names
from abupdate.store.manifest import Entry, Kind

ROOT = Entry(b"", Kind.DIR, 0o755, 0, 0, 0)
DIGEST = "ab" * 32

components = (
    st.binary(min_size=1, max_size=20)
    .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0"))
    .filter(lambda name: name not in (b".", b"..", *manifest.RESERVED))
)
ids = st.integers(0, (1 << 32) - 2)


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    entries = {b"": ROOT}
    folders = [b""]
    for name in draw(st.lists(components, max_size=12)):
        folder = draw(st.sampled_from(folders))
        path = folder + b"/" + name if folder else name
        if path in entries:
            continue
        kind = draw(st.sampled_from([kind for kind in Kind if kind is not Kind.HARDLINK]))
        content = kind in manifest.WITH_CONTENT
        entries[path] = Entry(
            path,
            kind,
            draw(st.integers(0, 0o7777)),
            draw(ids),
            draw(ids),
            draw(st.integers(-(1 << 60), 1 << 60)),
            size=draw(st.integers(1, 4095 if kind is Kind.LINK else 1 << 60)) if content else None,
            sha256=draw(st.binary(min_size=32, max_size=32)).hex() if content else None,
            device=(draw(st.integers(0, 4095)), 7) if kind in manifest.DEVICES else None,
            xattrs=tuple(
                sorted(
                    draw(
                        st.dictionaries(
                            st.binary(min_size=1, max_size=9).filter(lambda raw: b"\0" not in raw),
                            st.binary(max_size=30),
                            max_size=2,
                        )
                    ).items()
                )
            ),
        )
        if kind is Kind.DIR:
            folders.append(path)
    files = [entry for entry in entries.values() if entry.kind is Kind.FILE]
    for file in files[:2]:
        path = file.path + b"~again"
        if path not in entries:
            entries[path] = file._replace(
                path=path, kind=Kind.HARDLINK, size=None, sha256=None, target=file.path
            )
            entries[file.path] = file._replace(links=2)
    return [entries[path] for path in sorted(entries)]


def text(entries: Iterable[Entry]) -> bytes:
    return manifest.HEADER + b"".join(manifest.format_entry(entry) for entry in entries)


def parse(raw: bytes) -> list[Entry]:
    return list(manifest.read(raw))


@pytest.mark.row("S54")
@given(trees())
def test_parse_and_print_are_exact_inverses(entries: list[Entry]) -> None:
    raw = text(entries)
    assert parse(raw) == entries
    assert text(parse(raw)) == raw


@pytest.mark.row("S22")
@given(trees(), st.data())
def test_digest_knows_owner_mode_and_attributes_but_not_times(
    entries: list[Entry], data: st.DataObject
) -> None:
    digest = manifest.tree_digest(entries)
    at = data.draw(st.integers(0, len(entries) - 1))
    changed = {
        "mtime": entries[at]._replace(mtime=entries[at].mtime + 1),
        "uid": entries[at]._replace(uid=entries[at].uid ^ 1),
        "mode": entries[at]._replace(mode=entries[at].mode ^ 1),
        "xattrs": entries[at]._replace(xattrs=((b"user.new", b"1"),)),
    }
    for what, entry in changed.items():
        other = manifest.tree_digest([*entries[:at], entry, *entries[at + 1 :]])
        assert (other == digest) == (what == "mtime"), what


@given(trees(), st.data())
def test_a_flipped_byte_never_reads_as_the_same_tree(
    entries: list[Entry], data: st.DataObject
) -> None:
    raw = bytearray(text(entries))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        found = parse(bytes(raw))
    except NotTrustedError:
        return
    assert found != entries
    assert text(found) == bytes(raw)


FILE = b"f 0644 0:0 0 size=1 sha256=" + DIGEST.encode()
TWICE = FILE.replace(b"size", b"links=2 size")


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([b"a d 0755 0:0 0"], id="no root"),
        pytest.param([b". " + FILE], id="root is a file"),
        pytest.param([b". d 0755 0:0 0", b"a/b " + FILE], id="no parent"),
        pytest.param([b". d 0755 0:0 0", b"a " + FILE, b"a/b " + FILE], id="parent is a file"),
        pytest.param([b". d 0755 0:0 0", b"b " + FILE, b"a " + FILE], id="not sorted"),
        pytest.param([b". d 0755 0:0 0", b"a " + FILE, b"a " + FILE], id="twice"),
        pytest.param([b". d 0755 0:0 0", b".. d 0755 0:0 0"], id="dot dot"),
        pytest.param([b". d 0755 0:0 0", b"/a " + FILE], id="absolute"),
        pytest.param([b". d 0755 0:0 0", b"a%00b " + FILE], id="NUL"),
        pytest.param([b". d 0755 0:0 0", b"%61 " + FILE], id="needless escape"),
        pytest.param([b". d 0755 0:0 0", b"a%FF " + FILE], id="upper-case escape"),
        pytest.param([b". d 00755 0:0 0"], id="second way to write a mode"),
        pytest.param([b". d 0755 0:0 +1"], id="second way to write a time"),
        pytest.param([b". d 17777 0:0 0"], id="mode too large"),
        pytest.param([b". d 0755 0:4294967295 0"], id="no such group"),
        pytest.param([b". d 0755 0:0 0", b"a f 0644 0:0 0"], id="file without content"),
        pytest.param([b". d 0755 0:0 0", b"a c 0644 0:0 0"], id="device without number"),
        pytest.param([b". d 0755 0:0 0", b"a h 0644 0:0 0 to=b"], id="link to nothing"),
        pytest.param(
            [b". d 0755 0:0 0", b"a " + TWICE, b"b h 0600 0:0 0 to=a"], id="link with other mode"
        ),
        pytest.param([b". d 0755 0:0 0", b"a " + FILE, b"b h 0644 0:0 0 to=a"], id="not counted"),
        pytest.param([b". d 0755 0:0 0", b"a " + TWICE], id="a link too few"),
        pytest.param(
            [b". d 0755 0:0 0", b"a " + TWICE, *(b"%c h 0644 0:0 0 to=a" % c for c in b"bc")],
            id="a link too many",
        ),
        pytest.param(
            [b". d 0755 0:0 0", b"a " + FILE.replace(b"size", b"links=1 size")], id="one link"
        ),
        pytest.param([b". d 0755 0:0 0 links=2"], id="a folder with links"),
        pytest.param([b". d 0755 0:0 0 x.a=1 x.a=2"], id="attribute twice"),
        pytest.param([b". d 0755 0:0 0 what=ever"], id="unknown field"),
        pytest.param([b". d 0755 0:0 0", b"a" * 256 + b" " + FILE], id="component too long"),
        pytest.param([b". d 0755 0:0 0", b".abupdate d 0755 0:0 0"], id="reserved"),
        pytest.param([b". d 0755 0:0 0", b"lost+found d 0755 0:0 0"], id="ext4's own"),
        pytest.param(
            [b". d 0755 0:0 0", b"l l 0777 0:0 0 size=4096 sha256=" + DIGEST.encode()],
            id="symlink too long",
        ),
        pytest.param(
            [b". d 0755 0:0 0", *(b"/".join([b"d"] * n) + b" d 0755 0:0 0" for n in range(1, 258))],
            id="too deep",
        ),
        pytest.param([b". d 0755 0:0 0 x.user.a=" + b"a" * 65537], id="attribute too large"),
        pytest.param([], id="nothing"),
    ],
)
def test_refuses(lines: list[bytes]) -> None:
    raw = manifest.HEADER + b"".join(line + b"\n" for line in lines)
    with pytest.raises(NotTrustedError):
        parse(raw)


def test_refuses_other_formats_and_cut_lines() -> None:
    for raw in (b"", b"abupdate-manifest 2\n", manifest.HEADER + b". d 0755 0:0 0"):
        with pytest.raises(NotTrustedError):
            parse(raw)


@given(st.lists(components, min_size=1, max_size=4).map(b"/".join))
def test_stored_names_lead_back(path: bytes) -> None:
    assert names.true(names.stored(path)) == path


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        (b"a/.git/config", b"a/.abu%.git/config"),
        (b".GIT", b".abu%.GIT"),
        (b".g\xe2\x80\x8cit", b".abu%.g\xe2\x80\x8cit"),
        (b"git~1", b".abu%git~1"),
        (b"gi7eba~1", b".abu%gi7eba~1"),
        (b"a\\.git", b"a\\.abu%.git"),
        (b"\\.abu%", b"\\.abu%.abu%"),
        (b".gitmodules", b".abu%.gitmodules"),
        (b".abu%x", b".abu%.abu%x"),
        (b".gitignore", b".gitignore"),
        (b".gitkeep", b".gitkeep"),
        (b".git-fixups/1", b".git-fixups/1"),
        (b".GIT-fixups", b".abu%.GIT-fixups"),
        (b"usr/bin/git", b"usr/bin/git"),
    ],
)
def test_names_that_git_refuses(path: bytes, stored: bytes) -> None:
    assert names.stored(path) == stored
    assert names.true(stored) == path


@pytest.mark.parametrize("stored", [b".git", b".abu%plain", b"a/.abu%.gitignore", b".abu%a\\.git"])
def test_names_that_nobody_stores_are_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match="does not write"):
        names.true(stored)
