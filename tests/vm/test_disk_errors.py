"""The disk fails at a request of an install: it is told, the old system boots, a rerun is well."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import demo_parts
import pytest

from tests.cuts import disk_errors, releases
from tests.cuts.record import LIFE, Recorder, debian

pytestmark = pytest.mark.long

_PLACES = 3


def test_a_failing_disk(parts: demo_parts.Parts, images: Path) -> None:
    made = releases.build()
    told: Counter[str] = Counter()
    wrong = []
    with debian(images) as machine:
        recorder = Recorder(machine, made, images)
        (phase,) = recorder.life(LIFE[:1])
        for failure in disk_errors.failures(recorder, phase, images, _PLACES):
            found = disk_errors.fail(recorder, phase, made, failure, images)
            print(f"{failure}: {found.codes}, {found.left.outcome}; again {found.again.outcome}")
            print(found.said)
            told[f"{found.codes}, {found.left.outcome}"] += 1
            faults = [*found.left.faults, *found.again.faults]
            if found.codes and "Traceback" in found.said:
                faults.append(found.said)
            # Either it is armed, and said so, or it is not, and said so.
            armed = found.left.outcome == "B trial, release 2"
            told_so = found.codes == [0] or "all the same" in found.said
            if found.codes and told_so != armed:
                faults.append(
                    f"it ended with {found.codes}, and what boots is {found.left.outcome}"
                )
            if found.again.outcome != "B trial, release 2":
                faults.append(f"done again, what boots is {found.again.outcome}")
            wrong += [f"{failure}: {fault}" for fault in faults]
    print("\n".join(f"{count} x {outcome}" for outcome, count in told.items()))
    assert not wrong, "\n".join(wrong)
