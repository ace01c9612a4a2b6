"""What a device remembers in states.py: in the shapes that the engine really gives."""

from __future__ import annotations

from typing import Any

from abupdate.engine.contract import HistoryItem
from tests.web.fake_engine import COMMITS, NEW, NOW, OLD, FakeEngine

SIGNER = "release@acme.example"
CAUSE = (
    "required check 'network' failed: no default route "
    "(ping: connect: Network is unreachable)"
)  # fmt: skip


def _installed(ago: float, release: str, slot: str, **more: Any) -> HistoryItem:
    detail = {
        "commit": COMMITS.get(release, "3" * 40), "signer": SIGNER, "source": "upload",
        "armed": True, "transferred": 94_371_840, "downgrade_from": None,
        "written": {"files": 1874, "bytes": 251_658_240, "kept": 39_912, "removed": 87},
        "audited": 39_912,
        "seconds": {"trust": 0.4, "receive": 11.2, "plan": 1.9, "write": 31.0, "verify": 24.4},
        **more,
    }  # fmt: skip
    return HistoryItem(event="installed", time=NOW - ago, release=release, slot=slot, detail=detail)


def history(*, fell_back: bool = False) -> list[HistoryItem]:
    """A year of a device."""
    day = 86400.0
    recent = [
        HistoryItem(event="fallback", time=NOW - 60, release=NEW, slot="B",
                    detail={"commit": COMMITS[NEW], "cause": CAUSE}),
        _installed(600, NEW, "B"),
    ] if fell_back else []  # fmt: skip
    return [
        *recent,
        HistoryItem(event="confirmed", time=NOW - 92 * day, release=OLD, slot="A",
                    detail={"boots": 1}),
        _installed(92.01 * day, OLD, "A", downgrade_from="1.4.1"),
        HistoryItem(event="install-failed", time=NOW - 93 * day, release="1.4.1", slot="A",
                    detail={"error": "No trusted key has signed this release."}),
        HistoryItem(event="rejected", time=NOW - 120 * day, release="1.4.1", slot="A",
                    detail={"cause": "a person rejected it"}),
        _installed(120.01 * day, "1.4.1", "A"),
        HistoryItem(event="confirmed", time=NOW - 200 * day, release="1.3.2", slot="B"),
        _installed(200.01 * day, "1.3.2", "B", transferred=1_288_490_188),
        HistoryItem(event="provisioned", time=NOW - 300 * day, release="1.3.0", slot="A"),
    ]  # fmt: skip


def why() -> dict[str, Any]:
    """The story of a release that lost its network three times (`abupdate why --json`)."""
    checks = [
        {"name": "failed-units", "required": True, "passed": True, "reason": "ok", "output": "",
         "seconds": 0.1},
        {"name": "network", "required": True, "passed": False, "reason": "no default route",
         "output": "ping: connect: Network is unreachable\n", "seconds": 5.0},
    ]  # fmt: skip
    journal = [
        "kernel: e1000e 0000:00:19.0 eth0: NIC Link is Down",
        "systemd-networkd[311]: eth0: Lost carrier",
        "abupdate[402]: required check 'network' failed: no default route",
    ]
    boots: list[dict[str, Any]] = [
        {"boot_id": str(n) * 32, "attempt": n, "started": NOW - 600 + 120 * n,
         "verdict": "failed", "seconds": 74.0 + n,
         "reasons": ["required check 'network' failed: no default route"],
         "checks": checks, "journal": journal, "console": []}
        for n in (1, 2)
    ]  # fmt: skip
    boots.append(
        {"boot_id": "3" * 32, "attempt": 3, "started": NOW - 180, "verdict": None,
         "seconds": None, "reasons": [], "checks": [], "journal": [],
         "console": ["Kernel panic - not syncing: VFS: Unable to mount root fs",
                     "Rebooting in 10 seconds.."]}
    )  # fmt: skip
    return {
        "schema_version": 1, "event": "fallback", "time": NOW - 60, "release": NEW,
        "commit": COMMITS[NEW], "slot": "B", "cause": CAUSE, "installed": NOW - 600,
        "boots": boots, "booted": "A", "running": OLD, "failed": True, "rearmed": False,
        "open": True,
    }  # fmt: skip


def log() -> list[str]:
    """A log, as journalctl gives it."""
    lines = [
        "abupdate-engine[398]: Serves /run/abupdate/engine.sock.",
        "abupdate-web[411]: Serves http://0.0.0.0:8080.",
        "abupdate[520]: Read its beginning: acme-box 1.5.0.",
        "abupdate[520]: Signed by release@acme.example.",
        "abupdate[520]: Receive the release: 90.0 MiB in 11.2 s.",
        "abupdate[520]: Write release 1.5.0: 1,874 files, 240 MiB.",
        "abupdate[520]: Read it back from the disk: all of it is equal.",
        "abupdate[520]: Slot B is armed: it is tried at the next boot, 3 times at most.",
        'abupdate[520]: <b>not bold</b> & "quoted"',
    ]
    return [f"2026-09-21T13:{n // 60:02}:{n % 60:02}+0000 box {line}"
            for n, line in enumerate(lines * 5)]  # fmt: skip


def remember(engine: FakeEngine) -> None:
    """Give an engine all of these, as its scene has it."""
    fell_back = engine.scene == "fallback"
    engine.history_now, engine.log_now = history(fell_back=fell_back), log()
    engine.why_now = why() if fell_back else None
    if fell_back:
        engine.now.report["last_install"]["cause"] = CAUSE
