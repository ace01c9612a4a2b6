"""kas.yml and its fragments: what kas makes of them, and that everything is pinned."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.yocto.rootfs import LAYER, ROOT

kas = pytest.importorskip("kas", reason="kas is in the extra `test`: run `make install-tools`")
yaml = pytest.importorskip("yaml")
jsonschema = pytest.importorskip("jsonschema")

FRAGMENTS = {path.stem: path for path in sorted((ROOT / "kas").glob("*.yml"))}
FILES = [ROOT / "kas.yml", *FRAGMENTS.values()]
# What each fragment is for, as it must come out.
CHANGES = {
    "musl": 'TCLIBC = "musl"',
    "containerd": 'CONTAINER_PROFILE = "containerd"',
    "bios": 'ABUPDATE_FIRMWARE = "bios"',
    "ci": 'ABUPDATE_DEMO_EXTRA = "abupdate-qemu-guest"',
}
# The format's versions that brought a key: kas, docs/format-changelog.rst.
SINCE = {"commit": 14, "branch": 14, "buildtools": 15, "artifacts": 17, "signers": 19}
COMMIT = re.compile("[0-9a-f]{40}")


def dump(*files: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`kas dump` without fetching any repository."""
    skip = ["--skip", "repos_checkout", "--skip", "finish_setup_repos"]
    words = [sys.executable, "-m", "kas", "dump", "--format", "json", *skip]
    return subprocess.run(
        [*words, ":".join(map(str, files))],
        cwd=cwd,
        env={**os.environ, "KAS_WORK_DIR": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with copies of the files, in a repository of its own as kas wants it."""
    shutil.copy(ROOT / "kas.yml", tmp_path)
    shutil.copytree(ROOT / "kas", tmp_path / "kas")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def dumped(work: Path, *names: str) -> dict[str, Any]:
    files = [Path("kas.yml"), *(Path("kas", f"{name}.yml") for name in names)]
    done = dump(*files, cwd=work)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.row("S51", "S53")
@pytest.mark.parametrize("name", ["", *FRAGMENTS])
def test_kas_dumps_it(work: Path, name: str) -> None:
    found = dumped(work, *([name] if name else []))
    assert (found["distro"], found["machine"]) == ("abupdate-demo", "qemux86-64")
    local = "\n".join(found["local_conf_header"].values())
    for other, line in CHANGES.items():
        assert (line in local) == (other == name), other
    rescue = "abupdate-rescue-image" in found["target"]
    assert rescue == (name in ("rescue", "ci"))
    for repo in found["repos"].values():
        assert ("url" not in repo) or COMMIT.fullmatch(repo["commit"])


def test_fragments_go_together(work: Path) -> None:
    local = dumped(work, "musl", "containerd", "ci")["local_conf_header"]
    assert {"musl", "containerd", "ci"} <= set(local)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_schema_takes_it_and_would_refuse_a_mistake(path: Path) -> None:
    schema = json.loads((Path(kas.__file__).parent / "schema-kas.json").read_text())
    content = yaml.safe_load(path.read_text())
    jsonschema.validate(content, schema)
    for key, value in (("repositories", {}), ("machine", ["two", "of them"])):
        wrong = copy.deepcopy(content)
        wrong[key] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_kas_itself_refuses_a_mistake(work: Path) -> None:
    path = work / "kas.yml"
    path.write_text(path.read_text().replace("distro:", "distribution:"))
    assert dump(Path("kas.yml"), cwd=work).returncode != 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_is_the_lowest_that_works(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    used = {key for key in SINCE if re.search(rf"^ *{key}:", path.read_text(), re.M)}
    least = max((SINCE[key] for key in used), default=14)
    assert content["header"]["version"] == least


def test_every_pin_is_told_with_the_figures() -> None:
    text = (ROOT / "docs/yocto.md").read_text()
    repos = yaml.safe_load((ROOT / "kas.yml").read_text())["repos"]
    for name, repo in repos.items():
        if "url" in repo:
            assert f"`{repo['commit'][:12]}`" in text, name


def test_the_layers_that_kas_gives_are_those_that_the_layer_wants() -> None:
    conf = (LAYER / "conf/layer.conf").read_text()
    repos = yaml.safe_load((ROOT / "kas.yml").read_text())["repos"]
    given = {layer for repo in repos.values() for layer in repo.get("layers") or {}}
    wanted = {"core": "meta", "openembedded-layer": "meta-oe", "meta-python": "meta-python"}
    (depends,) = re.findall(r'^LAYERDEPENDS_abupdate = "(.*)"$', conf, re.M)
    assert {wanted[name] for name in depends.split()} <= given
    assert 'LAYERSERIES_COMPAT_abupdate = "wrynose"' in conf
    assert repos["openembedded-core"]["url"].endswith("openembedded-core")


@pytest.mark.row("S51")
def test_the_pipeline_runs_the_suites(tmp_path: Path) -> None:
    jobs = yaml.safe_load((ROOT / ".ci/yocto.yml").read_text())
    lines = {name: jobs[name]["script"] for name in ("layer", "parse", "build")}
    assert [jobs[name]["stage"] for name in lines] == jobs["stages"]
    for line in [
        *jobs["default"]["before_script"],
        *(one for job in lines.values() for one in job),
    ]:
        done = subprocess.run(["sh", "-n", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    text = {name: "\n".join(job) for name, job in lines.items()}
    assert "pytest tests/yocto" in text["layer"]
    assert "kas dump" in text["layer"]
    assert "tests/yocto/parse.sh" in text["parse"]
    for word in ("kas build", "--until-login", "run_image.py test"):
        assert word in text["build"], word
    tried = jobs["build"]["parallel"]["matrix"][0]["FRAGMENTS"]
    assert {f":kas/{name}.yml" for name in ("musl", "containerd", "bios")} <= set(tried)
