"""passwd, group, shadow and their like, merged by entry: an account is a line with a name.

The owner's accounts keep their ids, since their files on data have them. Where a new account
of the release has the id of one that the owner made, the release's gets another.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from abupdate.etc.tree import shown

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
_LAST_ID = (1 << 32) - 2
_DIGITS = re.compile(rb"[0-9]{1,10}")

# A line, told from others: by its name and how many with that name come before it; what is
# no entry (a comment, an empty line) is told by all of it.
Key = tuple[bytes, int]
Entry = tuple[bytes, ...]
Entries = dict[Key, Entry]
Files = dict[bytes, Entries]
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
    names = sorted(set(base) & set(mine) & set(theirs))  # group comes before passwd
    sides = [{name: _parse(side[name]) for name in names} for side in (base, mine, theirs)]
    found = _Merge(*sides).run()
    for name in names:
        # In the order in which a side has it, where there is nothing else in it.
        for side in (mine, theirs):
            if _parse(found.files[name]) == _parse(side[name]):
                found.files[name] = side[name]
                break
    return found


class _Merge:
    def __init__(self, olds: Files, ours: Files, news: Files) -> None:
        self._olds, self._ours, self._news = olds, ours, news
        self._found = Accounts()
        # Ids of the release's groups that have others here.
        self._groups: Ids = {}
        # Entries that are as they were though the release has them otherwise, or no more.
        self._kept: set[Key] = set()

    def run(self) -> Accounts:
        self._keep_accounts()
        self._keep_groups()
        for name in self._news:
            self._found.files[name] = self._file(name)
        return self._found

    def _keep_accounts(self) -> None:
        """An account that the release removed, and the owner changed, stays in every file."""
        olds, ours, news = (
            side.get(b"passwd", {}) for side in (self._olds, self._ours, self._news)
        )
        for key in olds:
            if key not in ours or key in news or not self._is_changed(key):
                continue
            text = f"'{_shown(key)}' was removed by the release and changed by you: it stays"
            self._found.conflicts.append((b"passwd", text))
            self._kept.add(key)
            for file, entries in self._news.items():
                if key in self._olds[file] and key not in entries:
                    entries[key] = self._olds[file][key]
                for where in _LISTS.get(file, ()):
                    _keep_in_lists(key[0], where, self._olds[file], entries)

    def _is_changed(self, key: Key) -> bool:
        return any(self._olds[file].get(key) != self._ours[file].get(key) for file in self._olds)

    def _keep_groups(self) -> None:
        """A group whose id the owner's own accounts have stays what they know it as."""
        if not {b"passwd", b"group"} <= self._olds.keys():
            return
        users, groups = self._ours[b"passwd"], self._ours[b"group"]
        needed = {
            _number(entry, _GROUP_OF_A_USER)
            for key, entry in users.items()
            if self._olds[b"passwd"].get(key) != entry
        }
        news = self._news[b"group"]
        for key, entry in groups.items():
            gid, new = _number(entry, _ID[b"group"]), news.get(key)
            if gid not in needed or self._olds[b"group"].get(key) != entry or gid is None:
                continue
            if _number(new, _ID[b"group"]) != gid:
                text = f"'{_shown(key)}' keeps id {gid}, which accounts of yours have"
                self._found.renumbered.append((b"group", text))
                if (moved := _number(new, _ID[b"group"])) is not None:
                    self._groups[moved] = gid
                news[key] = entry
                self._kept.add(key)

    def _file(self, name: bytes) -> bytes:
        olds, ours, news = (side[name] for side in (self._olds, self._ours, self._news))
        if name == b"passwd":
            news = {key: _in_group(entry, self._groups) for key, entry in news.items()}
        merged: Entries = {}
        for key in _order(news, ours):
            entry = _entry(name, key, olds.get(key), ours.get(key), news.get(key), self._found)
            if entry is not None:
                merged[key] = entry
        if name in _ID:
            renumbered = _apart(name, merged, olds, ours, news, self._kept, self._found)
            if name == b"group":
                self._groups.update(renumbered)
        if name in _RANGES:
            _ranges_apart(name, merged, ours, news, self._found)
        # NIS takes over at `+`: nothing may come behind it, and what it must leave out (`-`) not.
        ordered = sorted(merged.items(), key=lambda item: b"-+".find(item[0][0][:1] or b" "))
        return b"".join(b":".join(entry) + b"\n" for _, entry in ordered)


def _keep_in_lists(name: bytes, where: int, olds: Entries, news: Entries) -> None:
    for key, old in olds.items():
        new = news.get(key)
        if new is None or len(new) <= where or len(old) <= where:
            continue
        if name in old[where].split(b",") and name not in new[where].split(b","):
            names = b",".join(one for one in (new[where], name) if one)
            news[key] = (*new[:where], names, *new[where + 1 :])


def _shown(key: Key) -> str:
    return shown(key[0])


def _parse(text: bytes) -> Entries:
    entries: Entries = {}
    for line in text.removesuffix(b"\n").split(b"\n") if text else ():
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
    what = f"'{_shown(key)}'"
    if ours is None or new is None:
        gone, changed = ("you", "the release") if ours is None else ("the release", "you")
        stays = "it stays away" if ours is None else "yours stays"
        text = f"{what} was removed by {gone} and changed by {changed}: {stays}"
        found.conflicts.append((file, text))
        return ours
    if len(ours) != len(new) or (old is not None and len(old) != len(ours)):
        found.conflicts.append((file, f"{what} has other fields in the release: yours stays"))
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
            text = f"field {number + 1} of {what} was changed by both: yours stays"
            found.conflicts.append((file, text))
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
    if entry is None or len(entry) <= where or not _DIGITS.fullmatch(entry[where]):
        return None
    return int(entry[where])


def _apart(
    file: bytes,
    merged: Entries,
    olds: Entries,
    ours: Entries,
    news: Entries,
    kept: Collection[Key],
    found: Accounts,
) -> Ids:
    """Give what the release brings ids that nobody has here; the ids that are others now."""
    where, changed = _ID[file], Ids()

    def number(entries: Entries, key: Key) -> int | None:
        return _number(entries.get(key), where)

    # Of the owner's own making, or kept for the owner: the release may not know it is taken.
    taken = {
        number(ours, key): key
        for key in ours
        if number(merged, key) == number(ours, key)
        and (number(ours, key) != number(news, key) or key in kept)
    }
    used = {number(entries, key) for entries in (merged, ours, news) for key in entries}
    for key, entry in merged.items():
        here, stated = number(merged, key), number(news, key)
        if here is None or stated is None:
            continue
        if here != stated:  # the owner's id stayed
            changed[stated] = here
            continue
        if here in (0, number(olds, key)) or taken.get(here, key) == key:
            continue
        free = next(one for one in (_SERVICES if here < _PEOPLE.start else _PEOPLE)
                    if one not in used)  # fmt: skip
        used.add(free)
        changed[here] = free
        merged[key] = (*entry[:where], b"%d" % free, *entry[where + 1 :])
        text = (
            f"'{_shown(key)}' of the release has id {free} here, since {here} is of "
            f"'{_shown(taken[here])}'"
        )
        found.renumbered.append((file, text))
    return changed


def _ranges_apart(
    file: bytes, merged: Entries, ours: Entries, news: Entries, found: Accounts
) -> None:
    """Move a range that the release gave, and that overlaps one of the owner's, behind all."""
    from_owner = [
        one for key, entry in merged.items()
        if entry == ours.get(key) != news.get(key) and (one := _range(entry)) is not None
    ]  # fmt: skip
    for key, entry in merged.items():
        asked = _range(entry)
        if asked is None or entry != news.get(key) or entry == ours.get(key):
            continue
        if not any(one.start < asked.stop and asked.start < one.stop for one in from_owner):
            continue
        end = max(one.stop for entry in merged.values() if (one := _range(entry)) is not None)
        if end + len(asked) > _LAST_ID:
            text = f"'{_shown(key)}' of the release shares ids with yours: no others are free"
            found.conflicts.append((file, text))
            continue
        merged[key] = (entry[0], b"%d" % end, *entry[2:])
        text = f"'{_shown(key)}' of the release begins at {end} here"
        found.renumbered.append((file, text))


def _range(entry: Entry | None) -> range | None:
    start, length = _number(entry, 1), _number(entry, 2)
    return range(start, start + length) if start is not None and length is not None else None
