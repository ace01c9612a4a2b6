"""Settings: precedence, origins, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from abupdate.config import load
from abupdate.errors import UsageError
from abupdate.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(root=tmp_path, cmdline=tmp_path / "cmdline")
    found.vendor.mkdir(parents=True)
    (found.etc / "config.d").mkdir(parents=True)
    return found


def test_later_sources_win_and_are_named(paths: Paths) -> None:
    (paths.vendor / "config.toml").write_text("[boot]\ntries = 4\nlimit = 2\n")
    (paths.etc / "config.toml").write_text("[boot]\ntries = 5\n[device]\ncompatible = 'box'\n")
    (paths.etc / "config.d" / "10.toml").write_text("[health]\ntimeout = 9\n")
    paths.cmdline.write_text("quiet abupdate.boot.tries=6 abupdate.slot=A abupdate.boot=trial\n")
    loaded = load(paths)
    assert (loaded.settings.boot.tries, loaded.settings.boot.limit) == (6, 2)
    assert loaded.settings.device.compatible == "box"
    assert loaded.settings.health.timeout == 9
    assert loaded.origins["boot.tries"] == "kernel command line"
    assert loaded.origins["boot.limit"].endswith("usr/lib/abupdate/config.toml")
    assert "confirm.mode" not in loaded.origins


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[boot]\ntrys = 4\n", "Did you mean 'tries'"),
        ("[bot]\ntries = 4\n", "Did you mean 'boot'"),
        ("[boot]\ntries = 0\n", "boot.tries"),
        ("[boot]\ntries = 'three'\n", "found 'three'"),
        ("boot = 3\n", "must be a table"),
        ("[boot\n", "not a readable TOML file"),
    ],
)
def test_mistakes_are_named(paths: Paths, text: str, says: str) -> None:
    (paths.etc / "config.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load(paths)
    assert says in str(caught.value)
    assert "config.toml" in str(caught.value)
