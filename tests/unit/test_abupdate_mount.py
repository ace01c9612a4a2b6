"""What the initramfs does with files: its own functions, run by the shell that Debian has there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from abupdate.config import Settings, load
from abupdate.errors import UsageError
from abupdate.paths import Paths

SCRIPT = Path(__file__).parents[2] / "initramfs/abupdate-mount"
DEFAULTS = Settings().state.model_dump()
# No mounts, no console; steps that may take long are simply done.
_PRELUDE = """
patiently() { "$@"; }
note() { echo "$*" >> "$report"; }
argument() { echo "${boot:-}"; }
have_data=y
"""
Shell = Callable[..., str]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    def run(commands: str, slot: str = "A", boot: str = "normal") -> str:
        text = (
            f". {SCRIPT}\nreport={tmp_path}/report\nslot={slot}\nboot={boot}\n{_PRELUDE}{commands}"
        )
        done = subprocess.run(
            ["sh", "-uc", text, "sh", tmp_path], check=False, capture_output=True, text=True
        )
        assert done.stderr == ""
        return done.stdout

    return run


def report(tmp_path: Path) -> str:
    path = tmp_path / "report"
    return path.read_text() if path.exists() else ""


def settings(tmp_path: Path, text: str) -> Paths:
    vendor = tmp_path / "usr/lib/abupdate"
    vendor.mkdir(parents=True, exist_ok=True)
    (vendor / "config.toml").write_text(text)
    return Paths(root=tmp_path, cmdline=tmp_path / "cmdline")


def test_the_defaults_are_the_settings_own() -> None:
    text = SCRIPT.read_text()
    for key, value in DEFAULTS.items():
        found = re.search(rf'^{key}="(.*)"$', text, re.MULTILINE)
        assert found
        assert tuple(found[1].split()) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[state]\nbind = ["/var", "/opt/app/data"]\n',
        "[device]\ncompatible = \"x\"\n[state] # here\nvolatile=['/var/tmp',  '/a b c'[0:0]]\n",
        '[state]\nsnapshot = ["/var/lib/app",] # and no more\nvolatile = []\n[boot]\ntries = 2\n',
    ],
)
def test_lists_are_read_as_the_settings_read_them(tmp_path: Path, shell: Shell, text: str) -> None:
    paths = settings(tmp_path, text.replace(",  '/a b c'[0:0]", ""))
    wanted = load(paths).settings.state.model_dump()
    for key, default in DEFAULTS.items():
        found = shell(f"listed {key} '{' '.join(default)}'")
        assert tuple(found.split()) == wanted[key], key
    assert report(tmp_path) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[state]\nbind = [\n  "/var",\n]\n', "a list in one line"),
        ('state.bind = ["/var"]\n', "a list in one line"),
        ('[state]\nbind = ["/var/../etc"]\n', "state.bind"),
        ('[state]\nbind = ["var"]\n', "state.bind"),
        ('[state]\nbind = ["/"]\n', "state.bind"),
    ],
)
def test_what_the_initramfs_would_not_read_is_an_error(
    tmp_path: Path, text: str, says: str
) -> None:
    paths = settings(tmp_path, text)
    with pytest.raises(UsageError, match=re.escape(says)):
        load(paths)


def test_the_owners_files_have_no_such_table(tmp_path: Path) -> None:
    paths = settings(tmp_path, "")
    paths.etc.mkdir(parents=True)
    (paths.etc / "config.toml").write_text('[state]\nbind = ["/var"]\n')
    with pytest.raises(UsageError, match=r"release's config\.toml alone"):
        load(paths)


def test_what_is_not_a_path_is_told(tmp_path: Path, shell: Shell) -> None:
    settings(tmp_path, '[state]\nbind = ["/var", "home", "/x/../y", "*"]\n')
    assert shell("listed bind ''").split() == ["/var"]
    assert report(tmp_path).count("a path from / was expected") == 3


FILL = 'slot_itself=$root/slot; bind="/var /home"; fill_new'


def test_another_release_brings_what_is_new_in_it(tmp_path: Path, shell: Shell) -> None:
    slot, state = tmp_path / "slot", tmp_path / "data/state"
    for name in ("var/lib/app/deep", "var/lib/new", "var/log", "home/demo", "var/.hidden"):
        (slot / name).mkdir(parents=True)
    (slot / "var/lib/new/file").write_text("new\n")
    (slot / "var/lib/app/deep/file").write_text("default\n")
    (slot / "var/lib/app/other").write_text("default\n")
    (slot / "var/lib/odd name*").write_text("odd\n")
    for name in ("var/lib/app", "home"):
        (state / name).mkdir(parents=True)
    (state / "var/lib/app/mine").write_text("mine\n")
    (tmp_path / ".abupdate").mkdir()
    (tmp_path / ".abupdate/release.toml").write_text("2\n")
    shell(FILL)
    found = {str(path.relative_to(state)) for path in state.rglob("*")}
    assert found == {
        ".filled", "home", "var", "var/lib", "var/lib/app", "var/lib/app/mine", "var/lib/new",
        "var/lib/new/file", "var/log", "var/.hidden", "var/lib/odd name*",
    }  # fmt: skip
    # What the owner removed stays away until yet another release comes.
    (state / "var/.hidden").rmdir()
    shell(FILL)
    assert not (state / "var/.hidden").exists()
    shell(FILL, slot="R")
    (tmp_path / ".abupdate/release.toml").write_text("3\n")
    shell(FILL, slot="R")
    assert not (state / "var/.hidden").exists()
    shell(FILL)
    assert (state / "var/.hidden").exists()


def test_the_machine_keeps_its_id(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "data/state").mkdir(parents=True)
    here, kept = tmp_path / "etc/machine-id", tmp_path / "data/state/machine-id"
    shell("keep_machine_id")
    here.write_text("")
    shell("keep_machine_id")
    assert not kept.exists()
    here.write_text("one\n")
    shell("keep_machine_id")
    assert kept.read_text() == "one\n"
    for empty in ("", "uninitialized\n"):
        here.write_text(empty)  # the overlay was lost
        shell("keep_machine_id")
        assert here.read_text() == "one\n"
    here.write_text("two\n")  # the owner's own
    shell("keep_machine_id")
    assert (here.read_text(), kept.read_text()) == ("two\n", "two\n")


CARE = 'snapshot="/var/lib/app /var/lib/late"; care_for_data'


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "var/lib/app"
    folder.mkdir(parents=True)
    (folder / "database").write_text("old\n")
    (tmp_path / "data/abupdate").mkdir(parents=True)
    return folder


def spoil(app: Path) -> None:
    (app / "database").write_text("new\n")
    (app / "more").write_text("more\n")
    (app.parent / "late").write_text("late\n")


def test_a_fallback_finds_data_as_it_was(tmp_path: Path, shell: Shell, app: Path) -> None:
    snapshot = tmp_path / "data/abupdate/snapshot"
    shell(CARE, slot="B", boot="trial")
    assert (snapshot / "complete").read_text() == "B\n"
    spoil(app)
    shell(CARE, slot="B", boot="trial")  # its second boot: kept is what was before the first
    shell("snapshot=; care_for_data", slot="A", boot="fallback")
    assert [path.name for path in app.iterdir()] == ["database"]
    assert (app / "database").read_text() == "old\n"
    assert not (app.parent / "late").exists()
    assert [path.name for path in app.parent.iterdir()] == ["app"]
    assert not snapshot.exists()
    assert "repaired /var/lib/app is as it was before the trial" in report(tmp_path)
    (app / "database").write_text("newer\n")
    shell("snapshot=; care_for_data", slot="A")
    assert (app / "database").read_text() == "newer\n"


def test_what_was_confirmed_stays(tmp_path: Path, shell: Shell, app: Path) -> None:
    shell(CARE, slot="B", boot="trial")
    spoil(app)
    shell(CARE, slot="B", boot="normal")
    assert not (tmp_path / "data/abupdate/snapshot").exists()
    shell(CARE, slot="A", boot="trial")  # a rollback is a trial of its own
    assert (app / "database").read_text() == "new\n"
    assert (tmp_path / "data/abupdate/snapshot/complete").read_text() == "A\n"


@pytest.mark.parametrize("steps", range(12))
def test_put_back_is_cut_off_anywhere(tmp_path: Path, shell: Shell, app: Path, steps: int) -> None:
    """After so many commands that change something, the power goes."""
    shell(CARE, slot="B", boot="trial")
    spoil(app)
    cut = f"""
    budget={steps}
    step() {{ [ $budget -gt 0 ] || exit 0; budget=$((budget - 1)); command "$@"; }}
    cp() {{ step cp "$@"; }}; mv() {{ step mv "$@"; }}; rm() {{ step rm "$@"; }}
    """
    shell(cut + "snapshot=; care_for_data", slot="A", boot="fallback")
    shell("snapshot=; care_for_data", slot="A", boot="normal")
    assert (app / "database").read_text() == "old\n"
    assert [path.name for path in app.parent.iterdir()] == ["app"]
    assert list((tmp_path / "data/abupdate").iterdir()) == []


def test_no_room_to_keep_it(tmp_path: Path, shell: Shell, app: Path) -> None:
    shell("cp() { return 1; }\n" + CARE, slot="B", boot="trial")
    assert not (tmp_path / "data/abupdate/snapshot").exists()
    assert "a fallback will not bring it back" in report(tmp_path)


def test_no_room_to_put_it_back(tmp_path: Path, shell: Shell, app: Path) -> None:
    shell(CARE, slot="B", boot="trial")
    spoil(app)
    shell("cp() { return 1; }\nsnapshot=; care_for_data", slot="A", boot="fallback")
    assert (app / "database").read_text() == "new\n"
    left = tmp_path / "data/abupdate/snapshot-not-put-back"
    assert (left / "1/database").read_text() == "old\n"
    assert "no room to put /var/lib/app back" in report(tmp_path)
