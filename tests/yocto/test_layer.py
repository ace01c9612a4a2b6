"""What the layer says agrees with what it takes from elsewhere; bitbake is asked by parse.sh."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yocto_disk
import yocto_release

from tests.yocto.rootfs import LAYER, ROOT

CLASSES = sorted((LAYER / "classes-recipe").glob("*.bbclass"))
METADATA = [path for pattern in ("*.bb", "*.bbappend", "*.bbclass", "*.inc", "*.conf")
            for path in sorted(LAYER.rglob(pattern))]  # fmt: skip
DOCS = ROOT / "docs/yocto.md"
SET = re.compile(r"^(ABUPDATE_[A-Z_]+) \??\??=", re.M)


def recipe(name: str) -> str:
    (path,) = LAYER.rglob(name)
    return path.read_text()


def test_the_licence_is_the_projects() -> None:
    digest = hashlib.md5((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert f"file://LICENSE;md5={digest}" in recipe("abupdate-source.inc")


def test_the_recipe_brings_all_that_install_sh_reads() -> None:
    script = (ROOT / "install.sh").read_text()
    read = set(re.findall(r'\$source"?/([a-z]+)/', script)) | {"abupdate"}
    fetched = set(re.findall(r"file://([a-z.]+)", recipe("abupdate-source.inc")))
    assert read <= fetched, read - fetched
    for name in fetched:
        assert (ROOT / name).exists(), name


def test_what_the_recipe_moves_is_where_install_sh_puts_it(tmp_path: Path) -> None:
    subprocess.run(
        ["sh", ROOT / "install.sh", tmp_path, "programs", "page", "initramfs"], check=True
    )
    for name in (
        "usr/lib/python3/dist-packages/abupdate/publish",
        "usr/lib/python3/dist-packages/abupdate/web/pages/templates",
        "usr/lib/sysusers.d",
        "usr/lib/abupdate/grub/rules.cfg",
        "usr/lib/abupdate/abupdate-mount",
        "usr/lib/abupdate/abupdate-watchdog",
        "usr/lib/modprobe.d",
        "usr/share/initramfs-tools",
        "usr/lib/systemd/system",
        "usr/bin/abupdate",
        "data",
        "boot/efi",
    ):
        assert (tmp_path / name).exists(), name
    # All of it is in a package: FILES of abupdate names these.
    top = {f"{path.parent.name}/{path.name}" for path in tmp_path.glob("usr/*")}
    assert top <= {"usr/lib", "usr/bin", "usr/share"}
    units = tmp_path / "usr/lib/systemd/system"
    of_page = re.search(r"FILES:\$\{PN\}-web = \"(.*?)\"", recipe("abupdate_0.1.0.bb"), re.S)
    assert of_page is not None
    names = re.findall(r"unitdir\}/(\S+)", of_page[1])
    packaged = {path for name in names for path in units.glob(name)}
    assert packaged >= {units / path.name for path in (ROOT / "web").glob("*.s[eo]*")} - {
        units / "abupdate-web.sysusers"
    }
    assert units / "sockets.target.wants/abupdate-web.socket" in packaged


def test_the_recipe_has_the_version_and_the_dependencies_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (path,) = LAYER.rglob("abupdate_*.bb")
    assert path.name == f"abupdate_{project['version']}.bb"
    text = path.read_text()
    for dependency in project["dependencies"]:
        name = re.split("[><=]", dependency)[0]
        assert f"python3-{name} " in text, name
    for dependency in project["optional-dependencies"]["web"]:
        assert f"python3-{re.split('[><=]', dependency)[0]} " in text


def test_every_verb_that_a_class_runs_is_there() -> None:
    for path in [*CLASSES, *LAYER.rglob("*.bb")]:
        text = path.read_text().replace("\\\n", " ")
        for verb, rest in re.findall(r"(?:RUN\}|yocto_release\.py) +([a-z-]+)([^\n]*)", text):
            with pytest.raises(SystemExit) as ended:
                yocto_release.main([verb, "--help"])
            assert ended.value.code == 0, (path.name, verb)
            assert rest


def test_each_variable_is_explained() -> None:
    text = DOCS.read_text()
    told = set(re.findall(r"`(ABUPDATE_[A-Z_]+)`", text))
    internal = {"ABUPDATE_RUN", "ABUPDATE_INITRD", "ABUPDATE_PARTS", "ABUPDATE_RESCUE_NAME"}
    settable = {name for path in METADATA for name in SET.findall(path.read_text())} - internal
    assert settable - told == set()
    every = settable | {"ABUPDATE_SOURCE"}
    assert told - every == set(), "docs/yocto.md explains what is not there"


def test_firmware_is_the_same_in_class_recipe_and_python() -> None:
    defaults = {
        tuple(words.split())
        for path in METADATA
        for words in re.findall(r'^ABUPDATE_FIRMWARE \?= "(.*)"', path.read_text(), re.M)
    }
    assert defaults == {yocto_disk.FIRMWARE}


def test_nobody_can_log_in_to_the_demo() -> None:
    for path in METADATA:
        text = "\n".join(
            line for line in path.read_text().splitlines() if "open_logins = " not in line
        )
        for feature in ("empty-root-password", "allow-empty-password", "serial-autologin-root"):
            assert feature not in text, path.name
    assert "abupdate-qemu-guest" not in recipe("abupdate-demo-image.bb")


def test_the_demo_key_is_warned_of_twice() -> None:
    """When devices are made to believe it, and when a release is signed with it."""
    for name in ("abupdate-image.bbclass", "abupdate-bundle.bbclass"):
        assert len(re.findall(r"bbwarn .*DEMO KEY", recipe(name))) == 1


def test_pseudo_keeps_owners_where_the_parts_are_made() -> None:
    text = recipe("abupdate-disk.bbclass")
    assert 'PSEUDO_INCLUDE_PATHS .= ",${ABUPDATE_PARTS}"' in text
    assert "fakeroot do_abupdate_parts () {" in text
    assert "--out ${ABUPDATE_PARTS}" in text


def test_the_tar_has_attributes() -> None:
    assert "IMAGE_CMD_TAR = \"tar --xattrs --xattrs-include='*'\"" in recipe(
        "abupdate-image.bbclass"
    )


def test_runqemu_forwards_the_page() -> None:
    text = recipe("abupdate-disk.bbclass")
    assert "hostfwd=tcp:127.0.0.1:8080-:8080" in text
    assert 'QB_DEFAULT_FSTYPE = "wic"' in text
    assert 'QB_FSINFO = "wic:kernel-in-fs"' in text


@pytest.mark.parametrize("path", sorted(LAYER.rglob("files/abupdate*")), ids=lambda path: path.name)
def test_initramfs_modules_are_shell(path: Path) -> None:
    if path.suffix == ".cfg":
        lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
        assert all(re.fullmatch(r"CONFIG_[A-Z0-9_]+=[ym]", line) for line in lines)
        assert len(lines) == len(set(lines))
        return
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0
    for function in ("enabled", "run"):
        assert f"{path.name}_{function}() {{" in path.read_text()


@pytest.mark.parametrize(("has_init", "link"), [(True, False), (True, True), (False, False)])
def test_a_slot_without_init_ends_in_a_reboot(tmp_path: Path, has_init: bool, link: bool) -> None:
    (module,) = LAYER.rglob("abupdatemount")
    text = module.read_text().replace("/sbin/abupdate-mount", "echo mounts")
    root = tmp_path / "rootfs"
    (root / "sbin").mkdir(parents=True)
    if link:
        (root / "sbin/init").symlink_to("/lib/systemd/systemd-of-the-slot")
    elif has_init:
        (root / "sbin/init").write_text("")
    ends = 'fatal() { echo "fatal, reboot=$bootparam_init_fatal_reboot: $1"; exit; }'
    script = f"{ends}\nROOTFS_DIR={root}\n{text}\nabupdatemount_run"
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    if has_init:
        assert told == f"mounts {root}\n"
    else:
        assert told == "fatal, reboot=true: abupdate: the slot has no /sbin/init\n"


def test_the_kernel_has_what_the_initramfs_needs() -> None:
    """The initramfs brings no modules: each that Debian's hook adds is built in."""
    text = (LAYER / "recipes-kernel/linux/files/abupdate.cfg").read_text()
    hook = (ROOT / "initramfs/initramfs-tools/hook").read_text()
    words = {
        "ext4": "EXT4_FS",
        "overlay": "OVERLAY_FS",
        "vfat": "VFAT_FS",
        "nls_cp437": "NLS_CODEPAGE_437",
        "nls_ascii": "NLS_ASCII",
        "nls_iso8859-1": "NLS_ISO8859_1",
        "nls_utf8": "NLS_UTF8",
        "i6300esb": "I6300ESB_WDT",
        "wdat_wdt": "WDAT_WDT",
        "iTCO_wdt": "ITCO_WDT",
        "sp5100_tco": "SP5100_TCO",
    }
    added = {
        name
        for line in re.findall(r"^for module in (.*); do$", hook, re.M)
        for name in line.split()
    }
    # What the fourth needs is selected by the kernel; softdog is for who asks for it.
    assert added - {"lpc_ich", "i2c_i801", "softdog"} == set(words)
    for name, option in words.items():
        assert f"CONFIG_{option}=y" in text, name


@pytest.mark.parametrize("name", ["run-efi.sh", "run-bios.sh"])
def test_the_qemu_covers_are_thin(name: str) -> None:
    path = ROOT / "qemu" / name
    assert path.stat().st_mode & 0o111
    firmware = {"run-efi.sh": "uefi", "run-bios.sh": "bios"}[name]
    done = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
    assert "--until-login" in done.stdout, done.stderr
    assert f"run --firmware {firmware}" in path.read_text()


@pytest.mark.parametrize("words", [[], ["parse", "nonsense"]])
def test_the_parse_script_says_what_it_needs(words: list[str], tmp_path: Path) -> None:
    script = ROOT / "tests/yocto/parse.sh"
    done = subprocess.run(
        [script, *([str(tmp_path), str(tmp_path / "build")] if words else []), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert ("kas checkout" if words else "usage:") in done.stderr
