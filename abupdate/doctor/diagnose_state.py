"""What `doctor` sees of the boot state: each copy, the two together, GRUB's mark, grub.cfg.

There is no check for fragments: GRUB keeps a list of the sectors of a loaded
file and writes each where it is (grub-core/commands/loadenv.c), wherever that
may be. A hole is in no list, and GRUB refuses to save.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from abupdate.boot.cmdline import BootArguments
from abupdate.boot.envblock import SIZE, parse_lines
from abupdate.boot.grubenv import (
    BACKUP,
    PRIMARY,
    VALUES,
    LostError,
    decode,
)
from abupdate.boot.inplace import SECTOR, read_from_disk
from abupdate.boot.state import NONE, BootState, Ustate, grub, other_of
from abupdate.disk.layout import Slot
from abupdate.doctor.findings import Finding, finding
from abupdate.paths import Paths
from abupdate.update.seen import UNKNOWN

# Longer than any copy or grub.cfg may be.
_LIMIT = 64 * 1024
_MOST_TRIES = 9
# Every set of systems that may load: what GRUB does depends on nothing else.
_LOADS = [loads for count in range(4) for loads in combinations("ABR", count)]


def copy_findings(folder: Path, obstacle: str | None) -> tuple[list[Finding], list[BootState]]:
    """Each copy in `folder` by itself: what is wrong with it, and the states of whole ones.

    `obstacle` is why the copies may not be written again now, None when they may.
    """
    found: list[Finding] = []
    states: list[BootState] = []
    for name in (PRIMARY, BACKUP):
        path = folder / name
        state, problems = _copy(path)
        if state is not None:
            states.append(state)
        found += [
            finding(
                kind,
                f"{path} should be {SIZE} bytes of boot state, found {what}.",
                obstacle or "abupdate doctor --repair writes it again from the state in use.",
                repairable=obstacle is None,
            )
            for kind, what in problems
        ]
    return found, states


def _copy(path: Path) -> tuple[BootState | None, list[tuple[str, str]]]:
    """The state in a copy, if it is whole, and what is wrong: kind of finding and words."""
    try:
        raw = read_from_disk(path, _LIMIT)
        holes = _has_holes(path)
    except FileNotFoundError:
        return None, [("copy-missing", "no such file")]
    except OSError as error:
        return None, [("copy-unreadable", f"that it cannot be read: {error.strerror}")]
    problems = []
    if holes:
        problems.append(("copy-sparse", "holes in it, which GRUB cannot write into"))
    try:
        state = decode(raw)
    except LostError as error:
        if len(raw) != SIZE:
            problems.append(("copy-length", f"{len(raw)} bytes, lost to GRUB: {error.message}"))
        else:
            problems.append(("copy-lost", error.message))
        return None, problems
    if len(raw) != SIZE:
        problems.append(("copy-length", f"{len(raw)} bytes"))
    elif [name for name, _ in parse_lines(raw) or []] != list(VALUES) or raw[SECTOR:].strip(b"#"):
        problems.append(
            ("copy-layout", f"variables out of order or beyond the first {SECTOR} bytes")
        )
    return state, problems


def _has_holes(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) < os.fstat(fd).st_size
    except OSError:  # ENXIO: an empty file has none
        return False
    finally:
        os.close(fd)


def why_not_from_backup(
    backup: BootState, booted: Slot | None, arguments: BootArguments
) -> str | None:
    """Why a lost primary may not be made from the backup now, None when it may.

    GRUB would use the backup at the next boot, so writing it to the primary
    decides nothing that is not decided already, as long as this boot agrees
    with it: rescue or a slot that the backup calls good runs. The backup
    never holds a trial. While one runs, it was in the primary when GRUB
    started; writing the backup over that would give it up without a word, and
    the fallback, which GRUB makes at the next boot by itself, would look like
    an ordinary one.
    """
    if booted is None:
        return None
    on_trial = arguments.how == "trial" and booted != backup.slot
    if booted in backup.good and not on_trial:
        return None
    return (
        f"Slot {booted} runs, and the whole copy does not know it as confirmed: its trial is lost "
        f"with the other one. Reboot: GRUB returns to slot {backup.slot}; then repair."
    )


def grub_may_have_left(primary: BootState, backup: BootState) -> bool:
    """Whether the copies were written together, and only GRUB has changed the primary since.

    GRUB saves to the copy that it loaded, and userland's next write brings the
    other one along; so after each boot they differ, in ways that follow from
    the rules. Anything else is a write that was cut between the copies, or
    one that was not ours.
    """
    if backup.ustate == Ustate.INSTALLED:
        return False
    waiting = [backup]
    if backup.countdown == backup.limit and backup.failed == NONE:
        armed = replace(backup, trial=other_of(backup.slot), ustate=Ustate.INSTALLED)
        waiting += [replace(armed, countdown=left) for left in range(_MOST_TRIES + 1)]
    known = set(waiting)
    while waiting and primary not in known:
        state = waiting.pop()
        after = {grub(state, None, loads).state for loads in _LOADS}
        fresh = {new for new in after if new is not None} - known
        known |= fresh
        waiting += fresh
    return primary in known


def together_findings(
    primary: BootState, backup: BootState, obstacle: str | None
) -> Iterator[Finding]:
    """The two copies, both whole, compared. `obstacle` is why they may not be mended now."""
    if not grub_may_have_left(primary, backup):
        yield finding(
            "copies-differ",
            f"{BACKUP} should be {PRIMARY} without its trial, as of the last write, found "
            f"{_difference(primary, backup)}: a write was cut between the two, or another "
            "program wrote one of them.",
            f"GRUB uses {PRIMARY}. The next write heals it; so does abupdate doctor --repair."
            if obstacle is None
            else obstacle,
            repairable=obstacle is None,
        )


def _difference(primary: BootState, backup: BootState) -> str:
    differing = [name for name in vars(primary) if getattr(primary, name) != getattr(backup, name)]
    return ", ".join(
        f"{name} {getattr(backup, name):d} instead of {getattr(primary, name):d}"
        if isinstance(getattr(primary, name), int)
        else f"{name} {getattr(backup, name)} instead of {getattr(primary, name)}"
        for name in differing
    )


def mark_findings(seen: str, booted: Slot | None, arguments: BootArguments) -> Iterator[Finding]:
    """GRUB's mark of this boot. `seen` is what it was before a judgement set it back.

    A choice in the menu saves nothing and looks like any other boot (only
    "without the changes in /etc" tells itself), so a missing mark is a warning
    that names both causes. A fallback is never a choice in the menu. A mark
    left by an earlier boot of the same slot that nobody judged hides a
    missing one.
    """
    expected = str(booted) if booted else "R"
    if seen in (expected, UNKNOWN) or arguments.etc_clean or arguments.rules_lost:
        return
    found = "none" if seen == NONE else f"the one of an earlier boot ({seen})"
    expectation = f"GRUB should have left its mark of this boot, seen={expected}"
    advice = (
        "Reboot without touching the menu and ask again; if it is still so, GRUB cannot write to "
        "the ESP, and a slot that dies before its health check is tried without end."
    )
    if arguments.how == "fallback":
        yield finding(
            "save-failed", f"{expectation}, as it fell back, found {found}: it cannot save.", advice
        )
    else:
        yield finding(
            "save-unseen",
            f"{expectation}, found {found}: either it was chosen in the menu, which saves "
            "nothing, or GRUB's save_env is without effect.",
            advice,
        )


def grub_cfg_findings(paths: Paths, *, confirmed: bool) -> Iterator[Finding]:
    """grub.cfg on the ESP against the one that the running release brings.

    It is the switch, which releases leave alone. One that is missing is put back:
    nothing can be worse than without it. One that differs is reported only: it
    is one file, and a FAT has no atomic replacement. A rename writes the
    directory entry and frees the old file's clusters in any order, so that a
    power cut between the two leaves one whose end is gone, and GRUB's image goes
    on to the rules only where it is new enough to know of them.
    """
    used, own = paths.esp / "grub" / "grub.cfg", reference(paths)
    wanted = _content(own)
    found = _content(used)
    if wanted is None:
        yield finding(
            "grub-cfg-unknown",
            f"The running release should bring {own}, found none: {used} was not compared.",
            "Add the files of grub/ to the root filesystem of the next release.",
        )
    if not found:
        yield finding(
            "grub-cfg-missing",
            f"{used} should be what GRUB runs, found {'an empty' if found == b'' else 'no'} file.",
            "abupdate doctor --repair copies the release's own there."
            if wanted and confirmed
            else "Copy the one of a confirmed release there before the next reboot.",
            repairable=bool(wanted) and confirmed,
        )
    elif wanted is not None and found != wanted:
        advice = (
            f"If the release's own is the newer one, and the power is safe: "
            f"mount -o remount,rw {paths.esp} && cp {own} {used}.new && sync && "
            f"mv {used}.new {used} && sync && mount -o remount,ro {paths.esp}"
        )
        if b"\0" in found or wanted.startswith(found):
            yield finding(
                "grub-cfg-damaged",
                f"{used} should be a whole text, found one that is cut off or has NUL bytes: "
                "new rules may not be tried, and where GRUB's image is old it may loop.",
                advice if confirmed else "Copy the one of a confirmed release there now.",
            )
            return
        yield finding(
            "grub-cfg-differs",
            f"{used} should equal {own}, found another one: older, or newer after a rollback, "
            "or damaged.",
            advice if confirmed else "Ask again when the release that runs is confirmed.",
        )


def reference(paths: Paths) -> Path:
    """The grub.cfg that the running release brings."""
    return paths.vendor / "grub" / "grub.cfg"


def _content(path: Path) -> bytes | None:
    """A file as GRUB would find it; None when it cannot be read, which is as good as missing."""
    try:
        return read_from_disk(path, _LIMIT)
    except OSError:
        return None
