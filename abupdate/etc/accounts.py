"""passwd, group, shadow and their like, merged by entry: an account is a line with a name.

The owner's accounts keep their ids, since their files on data have them. Where a new account
of the release has the id of one that the owner made, the release's gets another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

FILES = (b"group", b"gshadow", b"passwd", b"shadow", b"subgid", b"subuid")

# Which field of a line has the ids; ranges of ids are start and length.
_ID = {b"passwd": 2, b"group": 2}
_GROUP_OF_A_USER = 3
_RANGES = (b"subuid", b"subgid")
# Fields that are lists of names (administrators, members).
_LISTS = {b"group": (3,), b"gshadow": (2, 3)}
# Ids of services and of people (Debian policy 9.2, shadow's defaults).
_SERVICES = range(999, 99, -1)
_PEOPLE = range(1000, 60000)

# A line, told from others: by its name and how many with that name come before it; what is
# no entry (a comment, an empty line) is told by all of it.
Key = tuple[bytes, int]
Entry = tuple[bytes, ...]
Entries = dict[Key, Entry]
Ids = dict[int, int]


@dataclass
class Accounts:
    """The merged files, and what is to be told: (file, text), conflicts apart."""

    files: dict[bytes, bytes] = field(default_factory=dict)
    conflicts: list[tuple[bytes, str]] = field(default_factory=list)
    renumbered: list[tuple[bytes, str]] = field(default_factory=list)


def merge(
    base: Mapping[bytes, bytes], mine: Mapping[bytes, bytes], theirs: Mapping[bytes, bytes]
) -> Accounts:
    """Merge those of `FILES` that are in all three."""
    found = Accounts()
    ids: Ids = {}
    for name in sorted(set(base) & set(mine) & set(theirs)):  # group comes before passwd
        found.files[name] = _merge(name, base[name], mine[name], theirs[name], ids, found)
    return found


def _merge(
    name: bytes, base: bytes, mine: bytes, theirs: bytes, groups: Ids, found: Accounts
) -> bytes:
    """One file. `groups`: ids of the release's groups that have others here; group fills it."""
    if theirs == base:
        return mine
    olds, ours, news = (_parse(text) for text in (base, mine, theirs))
    if name == b"passwd":
        news = {key: _in_group(entry, groups) for key, entry in news.items()}
    merged: Entries = {}
    for key in _order(news, ours):
        entry = _entry(name, key, olds.get(key), ours.get(key), news.get(key), found)
        if entry is not None:
            merged[key] = entry
    if name in _ID:
        renumbered = _apart(name, merged, olds, ours, news, found)
        if name == b"group":
            groups.update(renumbered)
    if name in _RANGES:
        _ranges_apart(name, merged, ours, news, found)
    if mine == base and merged == _parse(theirs):
        return theirs
    return b"".join(b":".join(entry) + b"\n" for entry in merged.values())


def _parse(text: bytes) -> Entries:
    entries: Entries = {}
    for line in text.splitlines():
        fields = tuple(line.split(b":"))
        name = fields[0] if len(fields) > 1 and not line.startswith(b"#") else line
        number = 0
        while (name, number) in entries:
            number += 1
        entries[name, number] = fields
    return entries


def _order(news: Entries, ours: Entries) -> Iterator[Key]:
    """As the release has them; what it has not comes at the end."""
    yield from news
    yield from (key for key in ours if key not in news)


def _entry(
    file: bytes, key: Key, old: Entry | None, ours: Entry | None, new: Entry | None, found: Accounts
) -> Entry | None:
    if ours in (old, new):
        return new
    if new == old:
        return ours
    what = f"'{key[0].decode(errors='replace')}'"
    if ours is None or new is None:
        gone, changed = ("you", "the release") if ours is None else ("the release", "you")
        found.conflicts.append((file, f"{what} was removed by {gone} and changed by {changed}"))
        return ours
    if len(ours) != len(new) or (old is not None and len(old) != len(ours)):
        found.conflicts.append((file, f"{what} has other fields in the release"))
        return ours
    before = old if old is not None else (None,) * len(ours)
    lists = _LISTS.get(file, ())
    fields = []
    for number, (was, mine, theirs) in enumerate(zip(before, ours, new, strict=True)):
        if mine in (was, theirs):
            fields.append(theirs)
        elif theirs == was:
            fields.append(mine)
        elif number in lists:
            fields.append(_names(was or b"", mine, theirs))
        else:
            fields.append(mine)
            found.conflicts.append((file, f"field {number + 1} of {what} was changed by both"))
    return tuple(fields)


def _names(old: bytes, mine: bytes, theirs: bytes) -> bytes:
    """A list of names, to which both added, and from which both took."""
    was, ours, news = ([name for name in text.split(b",") if name] for text in (old, mine, theirs))
    kept = [name for name in news if name in ours or name not in was]
    return b",".join(kept + [name for name in ours if name not in was and name not in kept])


def _in_group(entry: Entry, groups: Ids) -> Entry:
    if len(entry) <= _GROUP_OF_A_USER or not entry[_GROUP_OF_A_USER].isdigit():
        return entry
    gid = int(entry[_GROUP_OF_A_USER])
    if gid not in groups:
        return entry
    changed = b"%d" % groups[gid]
    return (*entry[:_GROUP_OF_A_USER], changed, *entry[_GROUP_OF_A_USER + 1 :])


def _number(entry: Entry | None, where: int) -> int | None:
    if entry is None or len(entry) <= where or not entry[where].isdigit():
        return None
    return int(entry[where])


def _apart(
    file: bytes, merged: Entries, olds: Entries, ours: Entries, news: Entries, found: Accounts
) -> Ids:
    """Give what the release brings ids that nobody has here; the ids that are others now."""
    where, changed = _ID[file], Ids()
    # Ids of the owner's own making: the release does not know that they are taken.
    taken = {
        _number(entry, where): key
        for key, entry in ours.items()
        if _number(entry, where) not in (None, _number(news.get(key), where))
        and merged.get(key, ())[where : where + 1] == entry[where : where + 1]
    }
    used = {_number(entry, where) for entries in (merged, ours, news) for entry in entries.values()}
    for key, entry in merged.items():
        number, stated = _number(entry, where), _number(news.get(key), where)
        if number is None or stated is None:
            continue
        if number != stated:  # the owner's id stayed
            changed[stated] = number
            continue
        if number == _number(olds.get(key), where) or taken.get(number, key) == key:
            continue
        free = next(
            one for one in (_SERVICES if number < _PEOPLE.start else _PEOPLE) if one not in used
        )
        used.add(free)
        changed[number] = free
        merged[key] = (*entry[:where], b"%d" % free, *entry[where + 1 :])
        name, holder = (one[0].decode(errors="replace") for one in (key, taken[number]))
        text = f"'{name}' of the release has id {free} here, since {number} is of '{holder}'"
        found.renumbered.append((file, text))
    return changed


def _ranges_apart(
    file: bytes, merged: Entries, ours: Entries, news: Entries, found: Accounts
) -> None:
    """Move a new range of the release's that overlaps one of the owner's behind all others."""
    mine = [range_ for key in ours if key not in news and (range_ := _range(merged.get(key)))]
    for key, entry in merged.items():
        asked = _range(entry)
        if asked is None or key in ours:
            continue
        if not any(one.start < asked.stop and asked.start < one.stop for one in mine):
            continue
        end = max(one.stop for entry in merged.values() if (one := _range(entry)))
        merged[key] = (entry[0], b"%d" % end, *entry[2:])
        name = key[0].decode(errors="replace")
        found.renumbered.append((file, f"'{name}' of the release begins at {end} here"))


def _range(entry: Entry | None) -> range | None:
    start, length = _number(entry, 1), _number(entry, 2)
    return range(start, start + length) if start is not None and length is not None else None
