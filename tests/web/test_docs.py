"""docs/web.md: its table names every call, and its examples do what they say."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from abupdate.config import WebSection
from abupdate.web import limits, uploads
from tests.web import docs
from tests.web.live_server import LiveServer, digest

_VARIABLES = ("ID", "JOB", "OFFSET")
_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
BUNDLE = bytes(range(256)) * 1500  # 384 kB


def test_the_table_names_every_call() -> None:
    text = docs.PAGE.read_text(encoding="utf-8")
    assert "`PUT /uploads/{id}`" in text
    assert text == docs.with_table(text), "`python -m tests.web.docs` writes it"


def test_the_settings_are_those_that_there_are() -> None:
    part = docs.PAGE.read_text(encoding="utf-8").split("\n## Settings", 1)[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", part, re.MULTILINE))
    assert list(told) == list(WebSection.model_fields)
    for name, field in WebSection.model_fields.items():
        size = re.fullmatch(r"(\d+) ([KMG]iB)", told[name])
        if size is not None:
            assert int(size[1]) * _SIZES[size[2]] == field.default, name
        else:
            kept = list(field.default) if isinstance(field.default, tuple) else field.default
            assert told[name] == f"`{json.dumps(kept)}`", name


def test_the_limits_are_those_that_there_are() -> None:
    part = docs.PAGE.read_text(encoding="utf-8").split("\n## Limits", 1)[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| ([a-z ]+) \| (.+) \|$", part, re.MULTILINE))
    one = limits.Limits()
    assert told == {
        "connections": f"{one.connections}, of one address {one.per_address}; TLS handshakes that "
        f"have not ended: {one.handshakes}, of one address {one.handshakes_per_address}",
        "headers": f"{limits.HEAD >> 10} KiB, {limits.FIELDS} of them, within {one.head:g} "
        "seconds; a TLS handshake has as long",
        "a body": f"{limits.BODY >> 10} KiB within {one.body:g} seconds; of an upload "
        f"`max_upload`, at least {one.window_bytes >> 10} KiB a minute, and no {one.silence:g} "
        "seconds without a byte",
        "an answer that nobody reads": "a minute",
        "watchers of events": str(one.streams),
        "uploads": f"one at a time; {uploads.RESERVE >> 20} MiB of data stay free",
    }
    assert one.window == one.unread == 60


class Shell:
    """A person who types one example after the other, with what they said before."""

    def __init__(self, folder: Path, device: str, token: str) -> None:
        self._folder = folder
        first = docs.examples()[0]
        first = re.sub(r"^DEVICE=.*$", f"DEVICE={device}", first, count=1, flags=re.MULTILINE)
        self._first = re.sub(r"^TOKEN=.*$", f"TOKEN={token}", first, count=1, flags=re.MULTILINE)
        assert device in self._first and token in self._first

    def types(self, example: str, code: int = 0) -> str:
        """What an example printed; it must end with this code."""
        kept = self._folder / "kept.sh"
        kept.touch()
        keep = f"\ndeclare -p {' '.join(_VARIABLES)} > {kept} 2>/dev/null || true\n"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{self._first}\n. {kept}\n{example}{keep}"],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, (example, done.stdout, done.stderr)
        return done.stdout


@pytest.mark.row("S45")
def test_the_examples_do_what_they_say(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "gateway-2.bundle").write_bytes(BUNDLE)
    support = tmp_path / "made.tar.gz"
    support.write_bytes(b"of the device")
    support.chmod(0o644)
    server.engine.support_file = support
    (status, once, parts, inspect, install, after, judge, watch, refused) = docs.examples()[1:]
    shell = Shell(tmp_path, server.url, server.token)

    assert '"booted"' in shell.types(status)

    assert '"complete":true' in shell.types(once)
    assert [one.name for one in server.context.uploads.all()] == ["gateway-2.bundle"]
    (first,) = server.context.uploads.folder.glob("*.bundle")
    assert first.read_bytes() == BUNDLE

    told = shell.types(parts)
    assert '"offset":100000' in told and '"complete":true' in told
    whole = sorted(server.context.uploads.folder.glob("*.bundle"))
    assert len(whole) == 2 and {one.read_bytes() for one in whole} == {BUNDLE}

    assert server.context.uploads.all()[0].sha256 == digest(BUNDLE)

    told = shell.types(inspect)
    assert "event: end" in told and '"signer"' in told
    assert "start inspect" in " ".join(server.engine.calls)

    told = shell.types(install)
    assert told.count("event: job") > 3 and "event: end" in told and "true" in told
    assert server.engine.wishes[-1].kind == "install"
    assert "reboot" in " ".join(server.engine.calls)

    server.do(lambda: server.engine.boot_into("ok"))
    told = shell.types(after)
    assert '"slot"' in told and "confirmed" in told and '{"story":null}' in told

    for example in judge.splitlines():
        server.do(lambda: server.engine.boot_into("manual"))
        assert '"text"' in shell.types(example)
    assert {"confirm", "reject"} <= set(server.engine.calls)

    server.do(lambda: server.engine.boot_into("busy"))
    told = shell.types(refused, code=22)
    assert told == (
        "409 busy: Another job is running: install. Wait until it has ended.\n"
    )  # as the engine says it

    # Whoever watches does so for an hour; this one has enough after a moment.
    assert "--max-time 3600" in watch and "/support" in watch
    watching, support_line = watch.splitlines()
    shortly = watching.replace("--max-time 3600", "--max-time 1") + " || [ $? = 28 ]"
    assert "event: status" in shell.types(shortly)
    shell.types(support_line)
    assert (tmp_path / "support.tar.gz").read_bytes() == b"of the device"


def test_an_example_without_its_token_fails(server: LiveServer, tmp_path: Path) -> None:
    shell = Shell(tmp_path, server.url, "abu_of-nobody")
    with pytest.raises(AssertionError, match="not known here"):
        shell.types(docs.examples()[1])
