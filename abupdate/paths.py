"""Where things are on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The folders and files that abupdate uses. Tests put `root` and the others elsewhere."""

    root: Path = Path("/")
    data: Path = Path("/data")
    esp: Path = Path("/boot/efi")
    runtime: Path = Path("/run/abupdate")
    cmdline: Path = Path("/proc/cmdline")
    own: str = "abupdate"

    @property
    def vendor(self) -> Path:
        """The release's own files: config.toml, allowed_signers, checks."""
        return self.root / "usr/lib/abupdate"

    @property
    def etc(self) -> Path:
        """The owner's files."""
        return self.root / "etc/abupdate"

    @property
    def state(self) -> Path:
        """What abupdate keeps on the data partition."""
        return self.data / self.own

    @property
    def revocations(self) -> Path:
        """The keys that confirmed releases revoked: for slots and rescue alike."""
        return self.data / "abupdate" / "trust" / "revoked"

    def of_rescue(self) -> Paths:
        """The same device, with what is kept of its rescue system: a product of its own.

        Versions, floor and store have nothing to do with those of the slots.
        """
        return replace(self, own="abupdate/rescue")

    def config_files(self) -> list[Path]:
        """The files with settings that there are, the strongest last."""
        files = [self.vendor / "config.toml", self.etc / "config.toml"]
        files += sorted((self.etc / "config.d").glob("*.toml"))
        return [path for path in files if path.is_file()]
