"""The systemd units of a boot: known to systemd, confined, and hanging together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "healthcheck"
SERVICES = sorted(UNITS.glob("*.service"))

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.stem)
def test_what_writes_no_disk_is_confined(unit: Path) -> None:
    """ "OK" for systemd is below 5; the owner's checks may have to do anything."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done
    print(unit.name, found[1])
    assert float(found[1]) < (9.0 if "healthcheck" in unit.name else 5.0)


def test_a_verdict_needs_no_network_and_no_data() -> None:
    """Weak dependencies only, but for the target that is the verdict."""
    needed = {}
    for path in [*SERVICES, *UNITS.glob("*.timer")]:
        words = re.findall(r"^(?:Requires|BindsTo|Requisite|PartOf)=(.*)$", path.read_text(), re.M)
        if words:
            needed[path.name] = words
    assert needed == {"abupdate-confirm.service": ["boot-complete.target"]}
