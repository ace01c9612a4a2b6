"""The three-way merge of /etc: nothing that one side changed is lost, nothing is invented."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from abupdate.etc.merge import BESIDE, Finding, Merged, Outcome, merge
from abupdate.etc.policy import Policy
from abupdate.etc.text import merge_text
from abupdate.etc.tree import Kind, Node, Tree, parent
from tests.unit.etc_trees import FOLDER, TEXTS, no_text, trees


def file(text: str, **changes: object) -> Node:
    return replace(Node(Kind.FILE, 0o644, content=text.encode()), **changes)  # type: ignore[arg-type]


def tree(**files: Node | str) -> Tree:
    """Names with `__` are in folders."""
    found: Tree = {b"": FOLDER}
    for key, value in files.items():
        name = key.replace("__", "/").encode()
        above = parent(name)
        while above:
            found.setdefault(above, FOLDER)
            above = parent(above)
        found[name] = file(value) if isinstance(value, str) else value
    return found


def merged(base: Tree, mine: Tree, theirs: Tree, **rules: str) -> Merged:
    policy = Policy({pattern.replace("__", "/"): rule for pattern, rule in rules.items()})
    return merge(base, mine, theirs, policy, merge_text)


def told(found: Merged) -> list[tuple[bytes, Outcome]]:
    return [(one.path, one.outcome) for one in found.findings]


LINES = "".join(f"line {number}\n" for number in range(20))


def test_what_only_one_side_changed() -> None:
    base = tree(a="1", b="1", c="1", d="1", e__f="1")
    mine = tree(a="2", b="1", c="1", new="mine", e__f="1")
    theirs = tree(a="1", b="2", d="1", other="theirs", e__f="1", e__g="1")
    found = merged(base, mine, theirs)
    assert found.tree == tree(a="2", b="2", new="mine", other="theirs", e__f="1", e__g="1")
    assert found.findings == []
    assert found.changed == 3


def test_one_text_changed_in_two_places() -> None:
    mine, theirs = LINES.replace("line 3\n", "mine\n"), LINES.replace("line 15", "theirs")
    found = merged(tree(a=LINES), tree(a=mine), tree(a=theirs))
    assert found.tree == tree(a=mine.replace("line 15", "theirs"))
    assert told(found) == [(b"a", Outcome.MERGED)]


def test_one_line_changed_in_two_ways() -> None:
    mine, theirs = LINES.replace("line 3\n", "mine\n"), LINES.replace("line 3\n", "theirs\n")
    found = merged(tree(a=LINES), tree(a=mine), tree(a=theirs))
    assert found.tree == {**tree(a=mine), b"a" + BESIDE: file(theirs)}
    assert told(found) == [(b"a", Outcome.CONFLICT)]
    assert found.findings[0].text == (
        "both changed it: yours stays, and the release's is beside it, a.abupdate-new"
    )


def test_the_same_change_is_none() -> None:
    found = merged(tree(a="1"), tree(a="2"), tree(a="2"))
    assert (found.tree, found.findings) == (tree(a="2"), [])


def test_bytes_that_are_no_text() -> None:
    found = merged(tree(a="1\0"), tree(a="2\0"), tree(a="3\0"))
    assert told(found) == [(b"a", Outcome.CONFLICT)]


@pytest.mark.parametrize(
    ("mine", "theirs", "expected", "outcomes"),
    [
        (tree(), tree(a="2"), {**tree(), b"a" + BESIDE: file("2")}, [Outcome.CONFLICT]),
        (tree(a="2"), tree(), tree(a="2"), [Outcome.CONFLICT]),
        (tree(), tree(), tree(), []),
        (tree(a=Node(Kind.LINK, 0o777, target=b"x")), tree(a="2"),
         {**tree(a=Node(Kind.LINK, 0o777, target=b"x")), b"a" + BESIDE: file("2")},
         [Outcome.CONFLICT]),
    ],
)  # fmt: skip
def test_what_one_removed_and_the_other_changed(
    mine: Tree, theirs: Tree, expected: Tree, outcomes: list[Outcome]
) -> None:
    found = merged(tree(a="1"), mine, theirs)
    assert found.tree == expected
    assert [one.outcome for one in found.findings] == outcomes


def test_mode_owner_and_xattrs_for_themselves() -> None:
    mine = tree(a=file("1", mode=0o600, xattrs=(("user.m", b"1"),)))
    theirs = tree(a=file("2", uid=7, xattrs=(("user.t", b"1"),)))
    found = merged(tree(a="1"), mine, theirs)
    both = (("user.m", b"1"), ("user.t", b"1"))
    assert found.tree == tree(a=file("2", mode=0o600, uid=7, xattrs=both))
    assert told(found) == [(b"a", Outcome.MERGED)]
    found = merged(tree(a="1"), tree(a=file("1", mode=0o600)), tree(a=file("1", mode=0o640)))
    assert found.tree == tree(a=file("1", mode=0o600))
    assert (b"a", Outcome.CONFLICT) in told(found)


def test_links() -> None:
    def link(target: bytes) -> Tree:
        return tree(a=Node(Kind.LINK, 0o777, target=target))

    found = merged(link(b"1"), link(b"2"), link(b"3"))
    assert found.tree == {**link(b"2"), b"a" + BESIDE: link(b"3")[b"a"]}
    assert merged(link(b"1"), link(b"1"), link(b"3")).tree == link(b"3")


def test_a_file_that_the_release_renamed() -> None:
    mine = LINES.replace("line 3\n", "mine\n")
    found = merged(tree(a=LINES), tree(a=mine), tree(d__b=LINES))
    assert found.tree == tree(d__b=mine)
    assert told(found) == [(b"d/b", Outcome.MOVED)]


def test_a_file_that_the_owner_renamed() -> None:
    found = merged(tree(a=LINES), tree(b=LINES), tree(a=LINES + "new\n"))
    assert found.tree == {**tree(b=LINES), b"b" + BESIDE: file(LINES + "new\n")}
    assert told(found) == [(b"b", Outcome.CONFLICT)]
    assert merged(tree(a=LINES), tree(b=LINES), tree(a=LINES)).tree == tree(b=LINES)


def test_a_folder_that_the_owner_removed_gets_what_is_new() -> None:
    found = merged(tree(d__a="1", d__b="1"), tree(), tree(d__a="1", d__b="2", d__c="1"))
    assert found.tree == {**tree(d__c="1"), b"d/b" + BESIDE: file("2")}
    assert told(found) == [(b"d/b", Outcome.CONFLICT)]


def test_a_folder_that_the_release_removed_keeps_what_the_owner_changed() -> None:
    found = merged(tree(d__a="1", d__b="1"), tree(d__a="2", d__b="1", d__c="3"), tree())
    assert found.tree == tree(d__a="2", d__c="3")
    assert told(found) == [(b"d/a", Outcome.CONFLICT)]


def test_a_folder_that_one_made_a_file() -> None:
    found = merged(tree(d__a="1"), tree(d="mine"), tree(d__a="2", d__b="1"))
    assert found.tree == tree(d="mine")
    assert {path for path, _ in told(found)} == {b"d/a", b"d/b", b"d/a" + BESIDE}
    found = merged(tree(d__a="1"), tree(d__a="2"), tree(d="theirs"))
    assert found.tree == {**tree(d__a="2"), b"d" + BESIDE: file("theirs")}


def test_policies() -> None:
    base, mine, theirs = tree(a="1", d__b="1"), tree(a="2", d__b="2"), tree(a="3", d__b="3")
    found = merged(base, mine, theirs, a="mine", d="theirs")
    assert found.tree[b"a"] == file("2")
    assert merged(base, mine, theirs, **{"**": "theirs"}).tree == theirs
    found = merged(base, mine, base, **{"d/**": "drop"})
    assert found.tree == tree(a="2", d__b="1")
    assert told(found) == [(b"d/b", Outcome.DROPPED)]
    assert merged(base, mine, base, **{"**": "theirs"}).tree == mine


def test_an_old_word_keeps_no_key() -> None:
    name = b"abupdate/allowed_signers.d/vendor"
    base, mine, theirs = (
        tree(abupdate__revoked=revoked) | tree(**{"abupdate__allowed_signers.d__vendor": keys})
        for revoked, keys in (("", "a\nb\n"), ("m\n", "a\nb\nc\n"), ("t\n", "b\n"))
    )
    found = merged(base, mine, theirs, **{"**": "mine"})
    assert found.tree[name] == file("b\n")
    assert found.tree[b"abupdate/revoked"] == file("t\nm\n")


PASSWD = "root:x:0:0:root:/root:/bin/bash\nsync:x:4:65534:sync:/bin:/bin/sync\n"
GROUP = "root:x:0:\nsudo:x:27:demo\n"


def test_accounts_by_entry() -> None:
    base = tree(passwd=PASSWD, group=GROUP)
    mine = tree(
        passwd=PASSWD.replace("/bin/bash", "/bin/sh") + "anna:x:1000:1000::/home/anna:/bin/sh\n",
        group=GROUP.replace("demo", "demo,anna") + "anna:x:1000:\n",
    )
    theirs = tree(
        passwd=PASSWD.replace(":sync:/bin:", ":sync:/:") + "web:x:998:998::/:/usr/sbin/nologin\n",
        group=GROUP.replace("demo", "web,demo") + "web:x:998:\n",
    )
    found = merged(base, mine, theirs)
    assert found.tree[b"passwd"].read().decode().splitlines() == [
        "root:x:0:0:root:/root:/bin/sh",
        "sync:x:4:65534:sync:/:/bin/sync",
        "web:x:998:998::/:/usr/sbin/nologin",
        "anna:x:1000:1000::/home/anna:/bin/sh",
    ]
    assert found.tree[b"group"].read().decode() == (
        "root:x:0:\nsudo:x:27:web,demo,anna\nweb:x:998:\nanna:x:1000:\n"
    )
    assert found.findings == []


def test_accounts_whose_ids_collide() -> None:
    base = tree(passwd=PASSWD, group=GROUP, subuid="")
    mine = tree(passwd=PASSWD + "box:x:998:998::/:/bin/sh\n", group=GROUP + "box:x:998:\n",
                subuid="box:100000:65536\n")  # fmt: skip
    theirs = tree(passwd=PASSWD + "web:x:998:998::/:/bin/sh\nlog:x:997:998::/:/bin/sh\n",
                  group=GROUP + "web:x:998:\n", subuid="web:100000:65536\n")  # fmt: skip
    found = merged(base, mine, theirs)
    assert found.tree[b"passwd"].read().decode() == (
        PASSWD + "web:x:999:999::/:/bin/sh\nlog:x:997:999::/:/bin/sh\nbox:x:998:998::/:/bin/sh\n"
    )
    assert found.tree[b"group"].read().decode() == GROUP + "web:x:999:\nbox:x:998:\n"
    assert found.tree[b"subuid"].read() == b"web:165536:65536\nbox:100000:65536\n"
    assert found.findings == [
        Finding(b"group", Outcome.RENUMBERED,
                "'web' of the release has id 999 here, since 998 is of 'box'"),
        Finding(b"passwd", Outcome.RENUMBERED,
                "'web' of the release has id 999 here, since 998 is of 'box'"),
        Finding(b"subuid", Outcome.RENUMBERED, "'web' of the release begins at 165536 here"),
    ]  # fmt: skip


def test_an_account_that_both_changed() -> None:
    base, mine, theirs = (
        tree(shadow=f"root:{word}:1:0:99999:7:::\ndemo:*:1:::::{last}:\n")
        for word, last in (("!", ""), ("$y$mine", ""), ("*", "5"))
    )
    found = merged(base, mine, theirs)
    assert found.tree[b"shadow"].read() == (b"root:$y$mine:1:0:99999:7:::\ndemo:*:1:::::5:\n")
    assert told(found) == [(b"shadow", Outcome.CONFLICT)]
    assert "$y$" not in found.findings[0].text


def accounts(**files: str) -> Tree:
    return tree(
        **{name: "".join(f"{line}\n" for line in text.split()) for name, text in files.items()}
    )


def test_an_account_that_the_owner_uses_stays_whole() -> None:
    base = accounts(passwd="root:x:0:0::/:/s demo:x:1000:1000::/d:/s", shadow="root:!:: demo:!::",
                    group="root:x:0: sudo:x:27:demo,web demo:x:1000:")  # fmt: skip
    mine = accounts(passwd="root:x:0:0::/:/s demo:x:1000:1000::/d:/s",
                    shadow="root:!:: demo:secret::",
                    group="root:x:0: sudo:x:27:demo,web demo:x:1000:")  # fmt: skip
    theirs = accounts(passwd="root:x:0:0::/:/s user:x:1001:1001::/u:/s",
                      shadow="root:!:: user:!::",
                      group="root:x:0: sudo:x:27:web,user user:x:1001:")  # fmt: skip
    found = merged(base, mine, theirs)
    assert found.tree[b"passwd"].read().split() == [
        b"root:x:0:0::/:/s", b"user:x:1001:1001::/u:/s", b"demo:x:1000:1000::/d:/s"
    ]  # fmt: skip
    assert b"demo:secret::" in found.tree[b"shadow"].read()
    assert found.tree[b"group"].read().split() == [
        b"root:x:0:", b"sudo:x:27:web,user,demo", b"user:x:1001:", b"demo:x:1000:"
    ]  # fmt: skip
    assert told(found) == [(b"passwd", Outcome.CONFLICT)]
    # One that the owner never touched goes with the release.
    found = merged(base, base | tree(other="1"), theirs)
    assert b"demo" not in found.tree[b"passwd"].read() + found.tree[b"group"].read()


def test_groups_of_the_owners_accounts_keep_their_ids() -> None:
    base = accounts(passwd="root:x:0:0::/:/s", group="root:x:0: staff:x:500:")
    mine = accounts(passwd="root:x:0:0::/:/s anna:x:1000:500::/a:/s",
                    group="root:x:0: staff:x:500:")  # fmt: skip
    for group in ("root:x:0: staff:x:501: other:x:500:", "root:x:0: other:x:500:"):
        theirs = accounts(passwd="root:x:0:0::/:/s web:x:9:501::/w:/s log:x:8:500::/w:/s",
                          group=group)  # fmt: skip
        found = merged(base, mine, theirs)
        assert {b"staff:x:500:", b"other:x:999:"} <= set(found.tree[b"group"].read().split())
        assert b"anna:x:1000:500::/a:/s" in found.tree[b"passwd"].read()
        assert b"log:x:8:999::/w:/s" in found.tree[b"passwd"].read()
        assert [outcome for _, outcome in told(found)] == [Outcome.RENUMBERED] * 2


def test_a_group_that_was_renumbered_stays_so() -> None:
    """By the update before; this one brings an account of that group."""
    base = accounts(passwd="root:x:0:0::/:/s", group="root:x:0: web:x:998:")
    mine = accounts(passwd="root:x:0:0::/:/s", group="root:x:0: web:x:999: box:x:998:")
    theirs = accounts(passwd="root:x:0:0::/:/s log:x:997:998::/:/s",
                      group="root:x:0: web:x:998:")  # fmt: skip
    found = merged(base, mine, theirs)
    assert b"log:x:997:999::/:/s" in found.tree[b"passwd"].read()


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ("demo:200000:65536", "demo:100000:65536 web:200000:65536",
         "demo:200000:65536 web:265536:65536"),
        ("demo:100000:65536 anna:300000:65536", "demo:100000:65536 web:300000:65536",
         "demo:100000:65536 web:365536:65536 anna:300000:65536"),
        ("demo:100000:65536 anna:4294836224:65536", "demo:100000:65536 web:4294836224:131072",
         "demo:100000:65536 web:4294836224:131072 anna:4294836224:65536"),
    ],
)  # fmt: skip
def test_ranges_of_ids(mine: str, theirs: str, expected: str) -> None:
    found = merged(accounts(subuid="demo:100000:65536"), accounts(subuid=mine),
                   accounts(subuid=theirs))  # fmt: skip
    assert found.tree[b"subuid"].read().decode().split() == expected.split()
    assert len(found.findings) == 1


def test_odd_lines_of_accounts() -> None:
    base = tree(passwd="root:x:0:0::/:/s\nodd:x:5:5:a\rb:/:/s\n+::::::\n")
    mine = tree(passwd="root:x:0:0::/:/s\nodd:x:5:5:a\rb:/:/s\nbig:x:" + "9" * 5000
                + ":1::/:/s\ntoor:x:0:0::/:/s\n-bad::::::\n+::::::\n")  # fmt: skip
    theirs = tree(passwd="root:x:0:0::/:/s\nodd:x:5:5:a\rb:/:/s\nadmin:x:0:0::/:/s\n+::::::\n")
    lines = merged(base, mine, theirs).tree[b"passwd"].read().split(b"\n")
    assert lines[1] == b"odd:x:5:5:a\rb:/:/s"
    assert b"admin:x:0:0::/:/s" in lines
    assert lines[-3:] == [b"-bad::::::", b"+::::::", b""]


def test_a_conflict_stays_until_somebody_settles_it() -> None:
    name = b"a" + BESIDE
    mine = tree(a="mine") | {name: file("2")}
    policy, text = Policy({}), "both changed it: yours stays"

    def again(theirs: Tree) -> Merged:
        return merge(tree(a="2"), mine, theirs, policy, merge_text, {b"a": text})

    found = again(tree(a="3"))  # and once more
    assert found.tree == tree(a="mine") | {name: file("3")}
    found = again(tree(a="2", other="1"))
    assert found.tree == tree(a="mine", other="1") | {name: file("2")}
    assert found.findings == [Finding(b"a", Outcome.CONFLICT, text)]
    found = again(tree(a="mine"))  # the release has what the owner wanted
    assert (found.tree, found.findings) == (tree(a="mine"), [])
    # One that the owner removed stays away, and what the release has of it beside.
    removed = tree() | {name: file("2")}
    found = merge(tree(a="2"), removed, tree(a="2"), policy, merge_text, {b"a": text})
    assert found.tree == removed
    assert told(found) == [(b"a", Outcome.CONFLICT)]


def test_two_files_that_were_renamed_into_one() -> None:
    found = merged(tree(a=LINES, b=LINES), tree(a=LINES + "A\n", b="B\n" + LINES), tree(c=LINES))
    assert found.tree == tree(c=LINES + "A\n", b="B\n" + LINES)
    assert told(found) == [(b"b", Outcome.CONFLICT), (b"c", Outcome.MOVED)]


def test_a_file_that_may_have_been_renamed_to_two_places() -> None:
    found = merged(tree(a=LINES), tree(a=LINES + "A\n"), tree(b=LINES, c=LINES))
    assert found.tree == tree(a=LINES + "A\n", b=LINES, c=LINES)
    assert told(found) == [(b"a", Outcome.CONFLICT)]


def test_rules_are_not_passed_by_by_a_rename() -> None:
    keys = "abupdate__allowed_signers.d__"
    base = tree(**{f"{keys}vendor": "good\nbad\n"})
    found = merged(
        base, tree(**{f"{keys}mine": "good\nbad\n"}), tree(**{f"{keys}vendor": "good\n"})
    )
    assert found.tree[b"abupdate/allowed_signers.d/vendor"] == file("good\n")
    found = merged(base, tree(**{f"{keys}vendor": "good\nbad\nevil\n"}),
                   tree(**{f"{keys}vendor2": "good\nbad\n"}))  # fmt: skip
    assert found.tree == tree(**{f"{keys}vendor2": "good\nbad\n"})
    revoked = "abupdate__revoked"
    found = merged(tree(**{revoked: "one\n"}), tree(), tree(**{revoked: "one\ntwo\n"}),
                   **{"abupdate__**": "drop"})  # fmt: skip
    assert found.tree[b"abupdate/revoked"] == file("one\ntwo\n")


def test_a_folder_that_the_release_made_a_link_stays_whole() -> None:
    """Nobody could log in with a pam.d that has the owner's file alone."""
    link = Node(Kind.LINK, 0o777, target=b"../usr/lib/pam.d")
    mine = tree(d__login="1", d__own="own")
    found = merged(tree(d__login="1"), mine, tree(d=link))
    assert found.tree == mine | {b"d" + BESIDE: link}


def test_names_that_are_long_or_steer_a_terminal() -> None:
    name = "x" * 250
    found = merged(tree(**{name: "1"}), tree(**{name: "2"}), tree(**{name: "3"}))
    assert found.tree == tree(**{name: "2"})
    assert found.findings[0].text == "both changed it: yours stays"
    name = "\x1b]0;owned\x07"
    found = merged(tree(**{name: "1"}), tree(**{name: "2"}), tree(**{name: "3"}))
    assert found.findings[0].text.isprintable()


def is_tree(found: Tree) -> bool:
    return all(not name or found.get(parent(name), file("")).kind is Kind.FOLDER for name in found)


@settings(max_examples=1500, deadline=None)
@given(trees(), trees(), trees())
def test_properties(base: Tree, mine: Tree, theirs: Tree) -> None:
    policy = Policy({})
    done = merge(base, mine, theirs, policy, no_text)
    found = done.tree
    assert is_tree(found)
    listed = {one.path for one in done.findings}
    for name in base.keys() | mine.keys() | theirs.keys():
        old, ours, new = base.get(name), mine.get(name), theirs.get(name)
        here = found.get(name)
        above = {parent(name), parent(parent(name))}
        if old == new != ours and ours is not None and not (listed & above):
            # The owner alone changed it. A file may have moved with a rename of the release's.
            assert here == ours or name in listed, name
        if old == ours != new and new is not None and new.kind is not Kind.FOLDER:
            below_it = any(one.startswith(name + b"/") for one in listed | mine.keys())
            assert here == new or name in listed or listed & above or below_it, name
    for name, node in found.items():
        if name.endswith(BESIDE):
            assert name[: -len(BESIDE)] in listed
            continue
        # Nothing is invented: its bytes are those of one side, but for accounts.
        sides = [side for tree in (base, mine, theirs) for side in tree.values()]
        if name not in (b"passwd", b"group"):
            assert any(
                (side.kind, side.content, side.target) == (node.kind, node.content, node.target)
                for side in sides
            ), name
    # The same again, from where it led to: nothing more is changed.
    again = merge(theirs, found, theirs, policy, no_text)
    assert again.tree == found
    assert again.findings == []
    assert merge(base, mine, theirs, policy, no_text).tree == found


@settings(max_examples=300, deadline=None)
@given(trees(), trees())
def test_two_sides_that_agree(one: Tree, other: Tree) -> None:
    policy = Policy({})
    assert merge(one, one, other, policy, no_text).tree == other
    assert merge(one, other, one, policy, no_text).tree == other
    assert merge(one, other, other, policy, no_text).tree == other


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_texts(old: bytes, ours: bytes, new: bytes) -> None:
    """No line comes from nowhere, and one that a side alone brought is there."""
    found = merge_text(old, ours, new)
    if found is None:
        return
    lines = set(found.splitlines())
    before, mine, theirs = (set(side.splitlines()) for side in (old, ours, new))
    assert lines <= mine | theirs
    assert (mine - before) | (theirs - before) <= lines
