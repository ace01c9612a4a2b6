"""What `abupdate doctor` can find: one row of `KINDS` for each, and the finding itself.

docs/doctor.md lists the same rows; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error is a promise that does not hold now; a warning leaves the device safe."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Kind:
    """One thing that can be wrong. `mended`: `--repair` may mend it, as soon as it is asked for."""

    severity: Severity
    mended: bool
    meaning: str


_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

# The ids are a contract: programs match them.
KINDS: Mapping[str, Kind] = {
    "root-mismatch": Kind(_ERROR, False, "the running root is not what the command line names"),
    "disk-twin": Kind(_ERROR, False, "another disk has a partition with the root's PARTUUID"),
    "gpt-primary": Kind(_ERROR, True, "the first copy of the partition table is not whole"),
    "gpt-backup": Kind(_WARNING, True, "its second copy is not whole, or says something else"),
    "gpt-protective": Kind(_ERROR, True, "the first sector does not say that there is a GPT"),
    "gpt-lost": Kind(_ERROR, False, "neither copy of the partition table is whole"),
    "places-lost": Kind(_WARNING, True, "GRUB would find nothing if the first copy were lost"),
    "partition-missing": Kind(_ERROR, True, "a partition of the layout is not on the boot disk"),
    "partition-doubled": Kind(_ERROR, False, "two partitions of the boot disk have one name"),
    "label-doubled": Kind(_ERROR, True, "a slot's label is on a partition that is not the slot"),
    "slot-lost": Kind(_ERROR, True, "GRUB is to boot a slot that does not carry its label"),
    "slot-unfinished": Kind(_WARNING, False, "a slot holds no complete system"),
    "rescue-missing": Kind(_WARNING, True, "there is no rescue system, or no partition for one"),
    "esp-not-mounted": Kind(_ERROR, True, "nothing is mounted at /boot/efi"),
    "esp-foreign": Kind(_ERROR, False, "/boot/efi is not the partition that GRUB reads"),
    "esp-write-protected": Kind(_ERROR, False, "the device of the ESP takes no writes"),
    "esp-read-only": Kind(_ERROR, False, "the ESP's filesystem went read-only under its mount"),
    "esp-unreadable": Kind(_ERROR, True, "the boot partition holds no FAT filesystem"),
    "esp-file-missing": Kind(_ERROR, True, "a file that starts the machine is not on the ESP"),
    "boot-code-missing": Kind(_ERROR, True, "a BIOS would not find GRUB on this disk"),
    "copy-missing": Kind(_ERROR, True, "a copy of the boot state is not there"),
    "copy-unreadable": Kind(_ERROR, True, "a copy cannot be read"),
    "copy-length": Kind(_ERROR, True, "a copy has not 1024 bytes"),
    "copy-sparse": Kind(_ERROR, True, "a copy has holes; GRUB cannot write into them"),
    "copy-lost": Kind(_ERROR, True, "a copy has a value that may not be, or no `end=1`"),
    "copy-layout": Kind(_WARNING, True, "a copy's variables are not in order in its first sector"),
    "copies-lost": Kind(_ERROR, True, "neither copy is whole: the next boot is rescue"),
    "copies-differ": Kind(_WARNING, True, "the copies differ by more than GRUB's own changes"),
    "save-failed": Kind(_ERROR, False, "GRUB fell back in this boot and could not save that"),
    "save-unseen": Kind(_WARNING, False, "GRUB left no mark of this boot, nor the menu one"),
    "grub-cfg-missing": Kind(_ERROR, True, "there is no grub.cfg: new rules cannot be tried"),
    "grub-cfg-damaged": Kind(_ERROR, True, "grub.cfg is cut off or has bytes that are no text"),
    "grub-cfg-differs": Kind(_WARNING, False, "grub.cfg is not the one of the running release"),
    "grub-cfg-unknown": Kind(_WARNING, False, "the release brings no grub.cfg to compare with"),
    "rules-damaged": Kind(_ERROR, True, "rules of GRUB are missing, or not what their sum says"),
    "rules-choice-lost": Kind(_ERROR, True, "nothing says which rules GRUB runs"),
    "rules-foreign": Kind(_ERROR, False, "GRUB's rules do not read the release's boot state"),
    "rules-failed": Kind(_WARNING, False, "the release's rules were tried, and failed"),
    "rules-differ": Kind(_WARNING, True, "GRUB's rules are others than the release's"),
    "rules-unknown": Kind(_WARNING, False, "the release brings no rules to compare with"),
    "signers-none": Kind(_ERROR, False, "no signer is listed: no release can be installed"),
    "signers-refused": Kind(_ERROR, False, "a line of the signers refuses the whole list"),
    "signers-invalid": Kind(_ERROR, False, "no listed key is valid at the time that counts"),
    "signers-unchecked": Kind(_ERROR, False, "ssh-keygen does not run: no signature is checked"),
    "signers-expiring": Kind(_WARNING, False, "the last valid key expires within 30 days"),
    "signer-weak": Kind(_ERROR, False, "a listed RSA key has fewer than 2048 bits"),
    "signer-expired": Kind(_WARNING, False, "a listed key has expired"),
    "signer-revoked": Kind(_WARNING, False, "a listed key is revoked"),
    "signer-unreadable": Kind(_WARNING, False, "a listed key is none that ssh-keygen can use"),
    "signer-doubled": Kind(_WARNING, False, "a key is listed twice"),
    "revocations-damaged": Kind(_ERROR, False, "a revocation file refuses every release"),
    "revocations-binary": Kind(_WARNING, False, "revocations that cannot be kept: a binary list"),
    "revocations-missing": Kind(_WARNING, False, "data lacks keys that the release revokes"),
    "trust-writable": Kind(_ERROR, False, "others than root can change who may sign"),
    "trust-rotten": Kind(_ERROR, False, "what tells how old a release may be is no such thing"),
    "data-unmounted": Kind(_ERROR, True, "the data partition is not mounted at /data"),
    "data-damaged": Kind(_ERROR, True, "the filesystem of data has damage"),
    "store-missing": Kind(_ERROR, True, "there is no store: no release can come in"),
    "store-owner": Kind(_ERROR, False, "something in the store is not its user's"),
    "store-unreadable": Kind(_ERROR, True, "git cannot read the store"),
    "store-damaged": Kind(_ERROR, True, "`abupdate store check` found damaged objects"),
    "store-release-missing": Kind(_WARNING, True, "the release of a slot is not in the store"),
    "store-ref-missing": Kind(_WARNING, True, "the release of a slot is there, and has no ref"),
    "store-ref-broken": Kind(_WARNING, True, "a ref of the store names nothing"),
    "store-leftovers": Kind(_WARNING, True, "locks or quarantines of a job that was killed"),
    "store-packs": Kind(_WARNING, False, "the store has many packs, and is slow"),
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: what was expected and found, and what to do.

    `repairable`: `--repair` mends this one, here and now.
    """

    id: str
    severity: str
    message: str
    advice: str
    repairable: bool


def finding(name: str, message: str, advice: str, *, repairable: bool = True) -> Finding:
    """A finding of a kind; `repairable` counts only for a kind that can be mended at all."""
    kind = KINDS[name]
    return Finding(name, str(kind.severity), message, advice, kind.mended and repairable)
