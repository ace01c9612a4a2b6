"""systemd's units, and containers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from abupdate.health.check import UnhealthyError
from abupdate.run import run


def failed_units(may_fail: Sequence[str], timeout: float) -> str:
    """No unit has failed, but for those that match a pattern of `may_fail`."""
    words = ["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full"]
    lines = run(words, timeout=timeout).stdout.decode(errors="replace").splitlines()
    failed = [line.split()[0] for line in lines if line.split()]
    told = [unit for unit in failed if not any(fnmatchcase(unit, glob) for glob in may_fail)]
    if told:
        raise UnhealthyError(f"failed: {', '.join(told)}")
    return "no unit failed" if not failed else f"failed, as they may: {', '.join(failed)}"


def active_units(units: Sequence[str], timeout: float) -> str:
    """All these units are active."""
    done = run(["systemctl", "is-active", "--", *units], timeout=timeout, ok=range(256))
    found = dict(zip(units, done.stdout.decode(errors="replace").split(), strict=False))
    told = [f"{unit} is {found.get(unit, 'unknown')}" for unit in units
            if found.get(unit) != "active"]  # fmt: skip
    if told:
        raise UnhealthyError(", ".join(told))
    return "all are active"


def containers(names: Sequence[str], timeout: float) -> str:
    """podman works, and these containers run; those with a health check of their own pass it."""
    done = run(
        ["podman", "container", "inspect", "--format", "json", "--", *names],
        timeout=timeout,
        ok=range(256),
    )
    # With a name that it does not know, podman tells the others and exits with 125.
    told = _by_name(done.stdout)
    if done.code and "no such container" not in done.stderr.lower():
        raise UnhealthyError(f"podman exits with {done.code}: {_last_line(done.stderr)}")
    bad = [f"{name} {why}" for name in names if (why := _ill(told.get(name)))]
    if bad:
        raise UnhealthyError(", ".join(bad))
    return "all run"


def _by_name(output: bytes) -> dict[str, Any]:
    try:
        found = json.loads(output)
        return {one["Name"]: one["State"] for one in found}
    except (ValueError, TypeError, KeyError):
        return {}


def _ill(state: Any) -> str:
    """What is wrong with a container of that `State`; empty when nothing is."""
    if not isinstance(state, dict):
        return "does not exist"
    status = str(state.get("Status", "unknown"))
    if status != "running":
        return f"is {status}" + (
            f" (exit code {state.get('ExitCode')})" if status == "exited" else ""
        )
    health = state.get("Health") or state.get("Healthcheck") or {}
    health_status = health.get("Status", "") if isinstance(health, dict) else ""
    # `starting` is not healthy yet: the checks are repeated until it is, or time is up.
    return f"runs, and is {health_status}" if health_status not in ("", "healthy") else ""


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "without a word"
