"""What `abupdate doctor` decides without a disk, and that its page lists what it can find."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abupdate.boot import state as boot
from abupdate.boot.cmdline import parse
from abupdate.boot.state import BootState, Ustate, backup_of, grub, provision
from abupdate.disk import find
from abupdate.disk.layout import BootDisk, Partition, Slot
from abupdate.doctor import diagnose_state
from abupdate.doctor.findings import KINDS
from abupdate.errors import RefusedError
from abupdate.update import seen

ROOT = Path(__file__).parent.parent.parent
NEW = provision(3, 8)


@pytest.mark.row("U15")
def test_the_page_lists_every_finding() -> None:
    page = (ROOT / "docs/doctor.md").read_text()
    rows = [
        f"| `{name}` | {kind.severity} | {'yes' if kind.mended else ''} | {kind.meaning} |"
        for name, kind in KINDS.items()
    ]
    severities = ("| error |", "| warning |")
    found = [line for line in page.splitlines() if any(one in line for one in severities)]
    assert found == rows


def test_the_page_lists_every_repair() -> None:
    page = (ROOT / "docs/doctor.md").read_text().partition("| id | what it does |")[2]
    listed = {
        name
        for line in page.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }
    sources = "".join(path.read_text() for path in (ROOT / "abupdate/doctor").glob("mend_*.py"))
    made = set(re.findall(r'Repair\(\s*f?"([a-z{][^"]*)"', sources))
    made |= set(re.findall(r'\("(gpt-[a-z]+)", (?:FIRST|SECOND)', sources))
    made = {re.sub(r"\{.*\}", "*", name) for name in made}
    listed = {re.sub("NAME|DEVICE|[AB]$", "*", name) for name in listed}
    assert listed == made


def test_every_finding_is_made_somewhere_and_has_its_row() -> None:
    folder = ROOT / "abupdate/doctor"
    sources = [folder / "look.py", *folder.glob("diagnose_*.py")]
    text = "".join(path.read_text() for path in sources)
    made = set(re.findall(r'(?:finding)?[(\[]\(?\s*"((?:[a-z]+-)+[a-z]+)"', text))
    assert made == set(KINDS)


class _Device:
    """Both copies as `Grubenv.write` and GRUB leave them."""

    def __init__(self) -> None:
        self.primary = self.backup = NEW
        self.booted = "A"
        self.before: tuple[BootState, BootState] | None = None

    def write(self, state: BootState) -> None:
        settled = next(
            (s.ustate for s in (self.primary, self.backup) if s.ustate != Ustate.INSTALLED),
            Ustate.OK,
        )
        self.before = (self.primary, self.backup)
        self.primary, self.backup = state, backup_of(state, settled)

    def power_on(self, loads: frozenset[str], saves: bool) -> None:
        done = grub(self.primary, self.backup, loads, saves=saves)
        assert done.state is not None
        self.primary, self.booted = done.state, done.boots or self.booted

    def act(self, name: str) -> None:
        other = "B" if self.booted == "A" else "A"
        steps: dict[str, Callable[[BootState], BootState]] = {
            "begin": lambda s: boot.begin(s, other, self.booted),
            "arm": lambda s: boot.arm(s, other),
            "confirm": lambda s: boot.confirm(s, self.booted, 2, 7),
            "reject": boot.reject,
            "rollback": lambda s: boot.rollback(s, self.booted),
            "healthy": lambda s: boot.healthy(s, self.booted, 4, 0),
            "acknowledge": boot.acknowledge,
            "retry": boot.retry,
            "rescue_once": boot.rescue_once,
        }
        try:
            self.write(steps[name](self.primary))
        except RefusedError:
            return


_ACTIONS = st.sampled_from(
    [
        *("begin", "arm", "confirm", "reject", "rollback", "healthy"),
        *("acknowledge", "retry", "rescue_once"),
    ]
)
_BOOTS = st.tuples(st.frozensets(st.sampled_from("ABR")), st.booleans())


@given(st.lists(st.one_of(_ACTIONS, _BOOTS, _BOOTS), max_size=25))
def test_what_grub_does_to_its_copy_is_no_finding(
    steps: list[str | tuple[frozenset[str], bool]],
) -> None:
    device = _Device()
    for step in steps:
        if isinstance(step, str):
            device.act(step)
        else:
            device.power_on(*step)
        assert diagnose_state.grub_may_have_left(device.primary, device.backup)


@pytest.mark.parametrize(
    ("primary", "backup"),
    [
        (boot.begin(replace(NEW, good="AB"), "B", "A"), replace(NEW, good="AB")),
        (replace(NEW, good="AB"), boot.begin(replace(NEW, good="AB"), "B", "A")),
        (boot.confirm(boot.arm(NEW, "B"), "B", 3, 8), NEW),
        (NEW, boot.arm(NEW, "B")),
        (boot.arm(NEW, "B"), boot.arm(NEW, "B")),
        (replace(NEW, countdown=8), replace(NEW, countdown=7)),
        (replace(NEW, tries=4), NEW),
        (replace(NEW, good="AB"), NEW),
    ],
)
def test_a_write_cut_between_the_copies_is_a_finding(primary: BootState, backup: BootState) -> None:
    assert not diagnose_state.grub_may_have_left(primary, backup)
    (found,) = diagnose_state.together_findings(primary, backup, None)
    assert (found.id, found.repairable) == ("copies-differ", True)
    (found,) = diagnose_state.together_findings(primary, backup, "later")
    assert (found.advice, found.repairable) == ("later", False)


@pytest.mark.parametrize(
    ("booted", "how", "slot", "good", "may"),
    [
        (Slot.A, "normal", "A", "Ax", True),
        (Slot.A, "fallback", "A", "AB", True),
        (Slot.B, "normal", "A", "AB", True),  # chosen in the menu
        (Slot.B, "trial", "B", "AB", True),  # confirmed in this boot
        (Slot.B, "trial", "A", "Ax", False),
        (Slot.B, "trial", "A", "AB", False),  # a rollback on trial
        (Slot.B, "normal", "A", "Ax", False),
        (None, "rescue", "A", "xx", True),
    ],
)
def test_when_the_backup_may_become_the_primary(
    booted: Slot | None, how: str, slot: str, good: str, may: bool
) -> None:
    backup = replace(NEW, slot=slot, good=good)
    arguments = parse(f"abupdate.slot={booted or 'R'} abupdate.boot={how}")
    why = diagnose_state.why_not_from_backup(backup, booted, arguments)
    assert (why is None) == may


@pytest.mark.parametrize(
    ("mark", "booted", "line", "ids"),
    [
        ("A", Slot.A, "abupdate.boot=normal", []),
        ("R", None, "abupdate.boot=rescue", []),
        ("?", Slot.A, "abupdate.boot=fallback", []),
        ("x", Slot.A, "abupdate.boot=normal abupdate.etc=clean", []),
        ("x", Slot.A, "abupdate.boot=normal", ["save-unseen"]),
        ("B", Slot.A, "abupdate.boot=normal", ["save-unseen"]),
        ("x", Slot.B, "abupdate.boot=trial", ["save-unseen"]),
        ("A", None, "abupdate.boot=rescue", ["save-unseen"]),
        ("B", Slot.A, "abupdate.boot=fallback", ["save-failed"]),
    ],
)
def test_the_mark(mark: str, booted: Slot | None, line: str, ids: list[str]) -> None:
    found = list(diagnose_state.mark_findings(mark, booted, parse(line)))
    assert [one.id for one in found] == ids


def test_only_the_first_mark_of_a_boot_is_grubs(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    assert seen.recall(runtime) is None
    seen.remember(runtime, "A")
    seen.remember(runtime, "x")
    assert seen.recall(runtime) == "A"


def _part(number: int, name: str, label: str | None, uuid: str = "u") -> Partition:
    return Partition(Path(f"/dev/v{number}"), number, name, f"{uuid}{number}", label, None, 1)


@pytest.mark.row("S40")
def test_a_label_on_a_second_partition_is_refused_by_name() -> None:
    own, other = _part(4, "rootA", "rootA"), _part(5, "rootB", "newB")
    stranger = _part(7, "mine", "rootB")
    disk = BootDisk(Path("/dev/v"), (own, other, stranger), own)
    assert disk.slot(Slot.A) == own
    with pytest.raises(RefusedError, match=r"'rootB' .* /dev/v5 only, found on /dev/v7"):
        disk.slot(Slot.B)


@pytest.mark.row("S40")
def test_a_copy_of_the_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    root = _part(4, "rootA", "rootA", uuid="AB-")
    disk = BootDisk(Path("/dev/v"), (root,), root)
    everywhere = [
        {"node": "/dev/v4", "ID_PART_ENTRY_UUID": "ab-4"},
        {"node": "/dev/w4", "PARTUUID": "ab-4"},
        {"node": "/dev/w5", "ID_PART_ENTRY_UUID": "ab-5"},
        {"node": "/dev/x1"},
    ]

    class _Context:
        def list_devices(self, **_: str) -> list[SimpleNamespace]:
            return [SimpleNamespace(device_node=one["node"], properties=one) for one in everywhere]

    monkeypatch.setattr("pyudev.Context", _Context)
    assert find.twins(disk) == [Path("/dev/w4")]
    unknown = replace(root, partuuid="")
    assert find.twins(replace(disk, root=unknown)) == []
