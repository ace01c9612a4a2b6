"""What the initramfs does with files: its own functions, run by the shell that Debian has there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from abupdate.boot.grubenv import encode
from abupdate.boot.state import provision
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
bind=/var
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
        ('[state]\nbind = ["/us*"]\n', "state.bind"),
        ('[state]\nbind = ["/opt", "/opt/app"]\n', "/opt/app lies in /opt"),
        ('[state]\nbind = [ # [on data]\n"/var",\n]\n', "a list in one line"),
        ('[state]\nbind = ["/opt/\\u0041"]\n', "a list in one line"),
        (
            '[state]\nbind = ["/var"]\n[boot]\n[device]\ncompatible = """\n[state]\n'
            'bind = ["/x"]\n"""\n',
            "a list in one line",
        ),
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
    assert report(tmp_path).count("a plain path from / was expected") == 3


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
    assert {name for name in found if not name.startswith(".filled")} == {
        "home", "var", "var/lib", "var/lib/app", "var/lib/app/mine", "var/lib/new",
        "var/lib/new/file", "var/log", "var/.hidden", "var/lib/odd name*",
    }  # fmt: skip
    # What the owner removed stays away, also when yet another release comes with it.
    (state / "var/.hidden").rmdir()
    shell(FILL)
    assert not (state / "var/.hidden").exists()
    (tmp_path / ".abupdate/release.toml").write_text("3\n")
    (slot / "var/newer").mkdir()
    shell(FILL, slot="R")
    assert not (state / "var/newer").exists()
    shell("copy=false; " + FILL)  # no room
    assert not (state / "var/newer").exists()
    shell(FILL)
    assert (state / "var/newer").exists()
    assert not (state / "var/.hidden").exists()


def test_nothing_is_added_to_folders_of_users(tmp_path: Path, shell: Shell) -> None:
    """They could have put a link in the way."""
    slot, state = tmp_path / "slot", tmp_path / "data/state"
    (slot / "var/lib/user/new").mkdir(parents=True)
    (state / "var/lib/user").mkdir(parents=True)
    os.chown(state / "var/lib", 1000, 1000)
    shell("slot_itself=$root/slot; add_missing $slot_itself/var $state/var 99")
    assert list((state / "var/lib/user").iterdir()) == []


@pytest.mark.parametrize("steps", range(8))
def test_filled_for_the_first_time_and_cut_off(tmp_path: Path, shell: Shell, steps: int) -> None:
    """A folder in it may be on data already, of a release before."""
    slot, state = tmp_path / "slot", tmp_path / "data/state"
    for name in ("opt/app/data", "opt/tool", "var/lib"):
        (slot / name).mkdir(parents=True)
        (slot / name / "file").write_text("release\n")
    (state / "opt/app/data").mkdir(parents=True)
    (state / "opt/app/data/file").write_text("mine\n")
    fill = "slot_itself=$root/slot; fill_state /opt; fill_state /var"
    shell(CUT.format(steps=steps) + fill)
    shell(fill)
    assert (state / "opt/app/data/file").read_text() == "mine\n"
    assert (state / "opt/tool/file").read_text() == "release\n"
    assert (state / "var/lib/file").read_text() == "release\n"
    assert {path.name for path in state.iterdir()} == {".filled", "opt", "var"}
    shutil.rmtree(state / "opt/tool")
    shell(fill)
    assert not (state / "opt/tool").exists()


def test_data_that_is_encrypted(tmp_path: Path, shell: Shell) -> None:
    """What was opened lies on the partition; as long as it was not, it is the partition."""
    holders = tmp_path / "sda6/holders"
    holders.mkdir(parents=True)
    commands = f"classes={tmp_path}; opened /dev/sda6"
    assert shell(commands) == "/dev/sda6\n"
    (holders / "dm-3").mkdir()
    assert shell(commands) == "/dev/dm-3\n"
    (holders / "md0").mkdir()
    assert shell(commands) == "/dev/sda6\n"


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
BACK = "snapshot=; care_for_data"
# After so many commands that change something, the power goes.
CUT = """
budget={steps}
step() {{ [ $budget -gt 0 ] || exit 0; budget=$((budget - 1)); command "$@"; }}
cp() {{ step cp "$@"; }}; mv() {{ step mv "$@"; }}; rm() {{ step rm "$@"; }}
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "data/state/var/lib/app"
    folder.mkdir(parents=True)
    (folder / "database").write_text("old\n")
    (tmp_path / "data/abupdate").mkdir(parents=True)
    confirmed(tmp_path, "A")
    return folder


def confirmed(tmp_path: Path, slot: str) -> None:
    """What normally boots."""
    grubenv = tmp_path / "boot/efi/grub/grubenv"
    grubenv.parent.mkdir(parents=True, exist_ok=True)
    grubenv.write_bytes(encode(replace(provision(3, 8), slot=slot)))


def spoil(app: Path) -> None:
    (app / "database").write_text("new\n")
    (app / "more").write_text("more\n")
    (app.parent / "late").write_text("late\n")


def assert_as_it_was(tmp_path: Path, app: Path) -> None:
    assert [path.name for path in app.iterdir()] == ["database"]
    assert (app / "database").read_text() == "old\n"
    assert [path.name for path in app.parent.iterdir()] == ["app"]
    assert list((tmp_path / "data/abupdate").iterdir()) == []


def test_a_fallback_finds_data_as_it_was(tmp_path: Path, shell: Shell, app: Path) -> None:
    shell(CARE, slot="B", boot="trial")
    assert (tmp_path / "data/abupdate/snapshot/complete").read_text() == "B\n"
    spoil(app)
    shell(CARE, slot="B", boot="trial")  # its second boot: kept is what was before the first
    shell(CARE, slot="B", boot="normal")  # from the menu
    for other in ("R", ""):
        shell(BACK, slot=other)
    assert (app / "database").read_text() == "new\n"
    shell(BACK, slot="A", boot="fallback")
    assert_as_it_was(tmp_path, app)
    assert "repaired /var/lib/app is as it was before the trial" in report(tmp_path)
    (app / "database").write_text("newer\n")
    shell(BACK, slot="A")
    assert (app / "database").read_text() == "newer\n"


def test_what_was_confirmed_stays(tmp_path: Path, shell: Shell, app: Path) -> None:
    """Also where the power went before the confirm could drop the snapshot."""
    shell(CARE, slot="B", boot="trial")
    spoil(app)
    confirmed(tmp_path, "B")
    shell(BACK, slot="A", boot="normal")  # from the menu
    assert (app / "database").read_text() == "new\n"
    shell(CARE, slot="A", boot="trial")  # a rollback is a trial of its own
    assert (app / "database").read_text() == "new\n"
    assert (tmp_path / "data/abupdate/snapshot/complete").read_text() == "A\n"


@pytest.mark.parametrize("steps", range(16))
def test_put_back_is_cut_off_anywhere(tmp_path: Path, shell: Shell, app: Path, steps: int) -> None:
    shell(CARE, slot="B", boot="trial")
    spoil(app)
    shell(CUT.format(steps=steps) + BACK, slot="A", boot="fallback")
    shell(BACK, slot="A", boot="normal")
    assert_as_it_was(tmp_path, app)


@pytest.mark.parametrize("steps", range(4))
def test_keeping_it_is_cut_off_anywhere(
    tmp_path: Path, shell: Shell, app: Path, steps: int
) -> None:
    shell(CUT.format(steps=steps) + CARE, slot="B", boot="trial")
    shell(CARE, slot="B", boot="trial")
    spoil(app)
    shell(BACK, slot="A", boot="normal")
    assert_as_it_was(tmp_path, app)


def test_no_room_to_keep_it(tmp_path: Path, shell: Shell, app: Path) -> None:
    """Nor is it kept by a later boot of the trial, which may have changed it by then."""
    shell("copy=false; " + CARE, slot="B", boot="trial")
    assert "a fallback will not find it as it was" in report(tmp_path)
    spoil(app)
    shell(CARE, slot="B", boot="trial")
    shell(BACK, slot="A", boot="fallback")
    assert (app / "database").read_text() == "new\n"
    assert "data is as the trial left it" in report(tmp_path)
    assert list((tmp_path / "data/abupdate").iterdir()) == []


@pytest.mark.parametrize("steps", range(4))
def test_no_room_to_put_it_back(tmp_path: Path, shell: Shell, app: Path, steps: int) -> None:
    shell(CARE, slot="B", boot="trial")
    spoil(app)
    shell("copy=false; " + CUT.format(steps=steps) + BACK, slot="A", boot="fallback")
    shell("copy=false; " + BACK, slot="A", boot="fallback")
    assert (app / "database").read_text() == "new\n"
    left = tmp_path / "data/abupdate/snapshot-not-put-back"
    assert (left / "1.kept/database").read_text() == "old\n"
    assert "/var/lib/app is as the trial left it: what it was before" in report(tmp_path)


def test_no_link_of_a_user_is_followed(tmp_path: Path, shell: Shell, app: Path) -> None:
    """Root reads and writes here what is below folders that others may change."""
    home = tmp_path / "data/state/var/home"
    (home / "data/app").mkdir(parents=True)
    (home / "data/app/file").write_text("old\n")
    care = 'snapshot="/var/home/data/app"; care_for_data'
    os.chown(home, 1000, 1000)
    shell(care, slot="B", boot="trial")
    assert "in folders that are root's" in report(tmp_path)
    shell(BACK, slot="A")
    os.chown(home, 0, 0)
    shell(care, slot="B", boot="trial")
    (tmp_path / "etc").mkdir()
    (home / "data").rename(home / "away")
    (home / "data").symlink_to("../../../../etc")
    shell(BACK, slot="A")
    assert "there is a link in its way" in report(tmp_path)
    assert list((tmp_path / "etc").iterdir()) == []


@pytest.mark.parametrize("path", ["/usr/share", "/data/abupdate/store.git", "/var/lib/link"])
def test_what_is_not_kept(tmp_path: Path, shell: Shell, app: Path, path: str) -> None:
    (app.parent / "link").symlink_to("app")
    shell(f"snapshot={path}; care_for_data", slot="B", boot="trial")
    assert f"{path}: a path on data was expected" in report(tmp_path)
    assert (tmp_path / "data/abupdate/snapshot/without").exists()


def test_a_folder_that_the_trial_renamed(tmp_path: Path, shell: Shell, app: Path) -> None:
    shell("snapshot=/var/lib/app/database; care_for_data", slot="B", boot="trial")
    app.rename(app.with_name("app2"))
    shell(BACK, slot="A", boot="fallback")
    assert (app / "database").read_text() == "old\n"


def trusting(tmp_path: Path) -> Path:
    """A rescue system, and what data has of whom the slots believe; the folder of rescue."""
    upper = tmp_path / "data/etc/B/upper/abupdate"
    for folder in (upper / "allowed_signers.d", upper / "config.d"):
        folder.mkdir(parents=True)
    (upper / "allowed_signers.d/mine").write_text("mine\n")
    (upper / "config.d/10.toml").write_text("[rescue]\n")
    kept = tmp_path / "data/abupdate/trust/confirmed/allowed_signers.d"
    kept.mkdir(parents=True)
    (kept / "confirmed").write_text("confirmed\n")
    env = tmp_path / "boot/efi/grub/grubenv"
    env.parent.mkdir(parents=True)
    env.write_bytes(encode(replace(provision(3, 8), slot="B")))
    own = tmp_path / "etc/abupdate"
    own.mkdir(parents=True)
    return own


def test_rescue_believes_whom_the_slots_believe(tmp_path: Path, shell: Shell) -> None:
    own = trusting(tmp_path)
    shell("take_over_trust", slot="R")
    found = {str(path.relative_to(own)) for path in own.rglob("*") if path.is_file()}
    assert found == {
        "allowed_signers.d/mine", "config.d/10.toml", "allowed_signers.d/confirmed"
    }  # fmt: skip
    assert report(tmp_path) == ""


def test_without_data_rescue_believes_its_own_alone(tmp_path: Path, shell: Shell) -> None:
    own = trusting(tmp_path)
    shell("have_data=n; take_over_trust", slot="R")
    assert list(own.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a file that an overlay hides is a device")
def test_what_the_owner_removed_is_no_file_in_rescue(tmp_path: Path, shell: Shell) -> None:
    own = trusting(tmp_path)
    os.mknod(tmp_path / "data/etc/B/upper/abupdate/revoked", 0o020000, os.makedev(0, 0))
    shell("take_over_trust", slot="R")
    assert not (own / "revoked").exists()


def test_what_memory_rescue_needs(tmp_path: Path, shell: Shell) -> None:
    assert shell("kilobytes_of_release") == ""
    about = tmp_path / ".abupdate/release.toml"
    about.parent.mkdir()
    about.write_text('version = "1"\nbytes = 2048000\ninodes = 7\n')
    assert shell("kilobytes_of_release") == "2000\n"
    assert int(shell("meminfo MemTotal")) > 1000
    assert shell("meminfo Nonsense") == ""
