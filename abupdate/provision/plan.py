"""What a provision would do to a disk, told before it is done; `asdict` makes JSON of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from abupdate.disk.drive import Drive, Found
from abupdate.disk.layout import BIOS, BOOT, DATA, RESCUE, PartitionSpec, Slot
from abupdate.disk.partition import Extent

SCHEMA_VERSION = 1
_UNFILLED = {Slot.B.label: Slot.B.unfinished_label, RESCUE: "empty"}
_PURPOSES = {
    BIOS: "GRUB for BIOS",
    BOOT: "GRUB for UEFI, the boot state",
    RESCUE: "for the rescue system",
    DATA: "releases, records, changes in /etc, /var",
}


@dataclass(frozen=True)
class DiskFacts:
    """The disk. Sizes in bytes; `holds`: what is on it now, a line each."""

    path: str
    model: str | None
    serial: str | None
    transport: str | None
    size: int
    sector: int
    holds: tuple[str, ...]
    unfinished: bool


@dataclass(frozen=True)
class PlannedPartition:
    """A partition as it will be. Bytes; `kept`: it stays as it is."""

    number: int
    name: str
    filesystem: str | None
    label: str | None
    start: int
    size: int
    purpose: str
    kept: bool = False


@dataclass(frozen=True)
class Plan:
    """All that is to be done. `confirm`: what a person types to say that it is this disk.

    `firmware`: what starts it. `warnings`: what the device will lack.
    """

    disk: DiskFacts
    partitions: tuple[PlannedPartition, ...]
    release: str
    compatible: str
    commit: str
    signer: str
    source: str
    firmware: tuple[str, ...]
    confirm: str
    warnings: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


def disk_facts(drive: Drive) -> DiskFacts:
    """What is told of a disk."""
    return DiskFacts(
        path=str(drive.path),
        model=drive.model,
        serial=drive.serial,
        transport=drive.transport,
        size=drive.size,
        sector=drive.sector,
        holds=tuple(_holds(drive)),
        unfinished=drive.unfinished,
    )


def planned(
    drive: Drive,
    specs: Sequence[PartitionSpec],
    extents: Sequence[Extent],
    keep: Sequence[Found],
    version: str,
    rescue: str | None = None,
) -> tuple[PlannedPartition, ...]:
    """The partitions in the order of the disk. `version`: of the release, `rescue`: of rescue."""
    filled = frozenset({RESCUE} if rescue else ())
    found = [
        PlannedPartition(
            spec.number, spec.name, spec.filesystem,
            spec.label if spec.name in filled else first_label(spec), extent.start, extent.size,
            _purpose(spec.name, version, rescue) + (", encrypted" if spec.encrypted else ""),
        )
        for spec, extent in zip(specs, extents, strict=True)
    ]  # fmt: skip
    for one in keep:
        entry, content = one.entry, one.content
        found.append(
            PlannedPartition(
                entry.number, entry.name, content.kind if content else None,
                content.label if content else None, entry.extent.start, entry.extent.size,
                "kept as it is", kept=True,
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda one: one.start))


def first_label(spec: PartitionSpec) -> str | None:
    """The label that a partition begins with: GRUB must take nothing empty for a system."""
    return _UNFILLED.get(spec.name, spec.label)


def _purpose(name: str, version: str, rescue: str | None) -> str:
    if name == RESCUE and rescue is not None:
        return f"rescue system {rescue}"
    if name == Slot.A.label:
        return f"release {version}"
    if name == Slot.B.label:
        return "empty, for the first update"
    return _PURPOSES.get(name, "the owner's")


def _holds(drive: Drive) -> list[str]:
    if drive.damaged is not None:
        return [f"a partition table (GPT) that cannot be read: {drive.damaged}"]
    if drive.whole is not None:
        label = f" '{drive.whole.label}'" if drive.whole.label else ""
        return [f"{drive.whole.kind}{label} on the whole disk"]
    if drive.table is None:
        return [] if drive.is_empty else ["something that is not known"]
    table = {"dos": "MBR", "gpt": "GPT"}.get(drive.table, drive.table)
    if drive.unfinished:
        lines = ["a first install that has not finished; it is started over"]
    else:
        lines = []
    lines += [f"a partition table ({table}) with {len(drive.partitions) or 'no'} partitions"]
    for found in drive.partitions:
        kind = found.content.kind if found.content else "nothing that is known"
        label = f" '{found.content.label}'" if found.content and found.content.label else ""
        name = f" {found.entry.name}" if found.entry.name else ""
        lines.append(
            f"{found.entry.number}{name}: {kind}{label}, {size_text(found.entry.extent.size)}"
        )
    return lines


def size_text(size: int) -> str:
    """Bytes for a person: in MiB below 10 GiB."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 10 << 30 else f"{size >> 20} MiB"
