"""What the demo, `make vm` and the VM tests start from: three releases, their bundles, a disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import device
import guest
import publisher
from guest import DISK_TOOLS, FULL_KERNEL, PAGE, Release
from vm import accelerator

FAILURE = "the service of release 3 does not answer"
_FAILING_CHECK = f"#!/bin/sh\necho {FAILURE}\nexit 1\n".encode()

ONE = Release("1", packages=("figlet",), cmdline="demo.release=one", files=PAGE)
# Another kernel flavour, another command line, one package more and one less.
TWO = Release(
    "2",
    kernel=FULL_KERNEL,
    packages=("hello", *DISK_TOOLS),
    cmdline="demo.release=two",
    files=PAGE,
)
# Boots well, and its own check says that it is broken.
THREE = replace(
    TWO,
    version="3",
    cmdline="demo.release=three",
    files={**PAGE, "/usr/lib/abupdate/required.d/50-service": _FAILING_CHECK},
)


class Timeline:
    """Steps with their seconds, on the terminal."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._facts: list[str] = []

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._start

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """One step: its line with its seconds, then the facts that it showed."""
        begin = self.elapsed
        print(f"{begin:6.1f} s  {text:<64}", end="", flush=True)
        try:
            yield
        except BaseException:
            print("   FAILED", flush=True)
            raise
        finally:
            facts, self._facts = self._facts, []
        print(f" {self.elapsed - begin:6.1f} s", flush=True)
        for fact in facts:
            print(f"{'':>10}- {fact}", flush=True)

    def fact(self, text: str) -> None:
        """Something that was seen in this step."""
        self._facts.append(text)


@dataclass(frozen=True)
class Parts:
    """What the publisher made."""

    disk: Path
    bundles: dict[str, Path]
    accel: str


def build(timeline: Timeline) -> Parts:
    """The releases, their bundles, and the disk of a new device."""
    with timeline.step("build and sign releases 1, 2 and 3"):
        series = publisher.publish([ONE, TWO, THREE])
    with timeline.step("bundles: 1 in full, 2 as a delta to 1, 3 as a delta to 2"):
        bundles = {
            "1": series.bundle("1"),
            "2": series.bundle("2", since=["1"]),
            "3": series.bundle("3", since=["2"]),
        }
        for name, path in bundles.items():
            timeline.fact(f"bundle {name}: {path.stat().st_size / 1e6:.2f} MB")
    with timeline.step("disk of a new device, release 1 in slot A"):
        signers = publisher.key().allowed_signers
        disk = device.build(bundles["1"], signers)
    with timeline.step("look for an accelerator that works"):
        accel = accelerator(lambda: guest.kernel(guest.build(ONE, signers.read_text())))
        timeline.fact(accel)
    return Parts(disk, bundles, accel)
