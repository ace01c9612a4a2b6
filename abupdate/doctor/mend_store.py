"""Mends the store: what is half done goes, lost names and releases come back."""

from __future__ import annotations

from abupdate.bundle.quarantine import clear_quarantines
from abupdate.doctor import diagnose_store, refetch
from abupdate.doctor.look import Look
from abupdate.doctor.repairs import Plan, Refusal, Repair, Wishes
from abupdate.store import packs
from abupdate.update.slots import Machine

_FROM = (
    "Say where to fetch it: abupdate doctor --repair --from SOURCE (a bundle, an address, or "
    "REMOTE# for a git repository). It runs all the same; or install from a full bundle next."
)


def plan(now: Look, wishes: Wishes) -> Plan:
    """First a store that can be read, then what is in it."""
    if now.obstacle or now.found("data-unmounted"):
        return []
    machine, path = now.machine, now.machine.paths.state / "store.git"
    if lost := now.found("store-missing", "store-unreadable"):
        if not (machine.paths.state / "slots").is_dir():
            return []  # that is no data partition of ours
        return [
            Repair(
                "store",
                tuple(one.id for one in lost),
                f"Make {path} a store that git can read, because it "
                f"{'is not there' if lost[0].id == 'store-missing' else 'is none'}; objects "
                "that are there stay.",
                lambda: f"{refetch.make_readable(machine)} {_tidy(machine)}",
            )
        ]
    found: Plan = []
    untidy = [one for one in now.found(*_TIDY) if one.repairable]
    if untidy:
        found.append(
            Repair(
                "store-tidy",
                tuple(sorted({one.id for one in untidy})),
                f"Remove from {path} what killed jobs left and names that name nothing, and name "
                f"what the slots hold: {untidy[0].message}",
                lambda: _tidy(machine),
            )
        )
    if damaged := now.found("store-damaged"):
        found.append(_releases(now, wishes, "store-damaged", damaged[0].message))
    elif missing := now.found("store-release-missing"):
        if not wishes.sources:
            return [*found, Refusal(("store-release-missing",), _FROM)]
        found.append(_releases(now, wishes, "store-release-missing", missing[0].message))
    return found


_TIDY = ("store-leftovers", "store-ref-missing", "store-ref-broken")


def _releases(now: Look, wishes: Wishes, name: str, why: str) -> Repair:
    where = f" from {' and '.join(wishes.sources)}" if wishes.sources else ""
    return Repair(
        "store-releases",
        (name,),
        f"Read all of the store, keep the releases that are whole, and fetch the others that a "
        f"slot holds again{where}: {why}",
        lambda: refetch.refetch(now.machine, wishes.settings, wishes.sources, wishes.events),
    )


def _tidy(machine: Machine) -> str:
    """Nothing that a killed job left, and each release that a slot holds by its name again."""
    store = machine.store()
    packs.clear_leftovers(store)
    clear_quarantines(store)
    refetch.set_back(machine)
    named = diagnose_store.lost_refs(machine)
    for ref, tag in named.items():
        store.set_ref(ref, tag, alone=True)
    again = f" {' and '.join(named)} were made again." if named else ""
    return f"What killed jobs left in the store was removed.{again}"
