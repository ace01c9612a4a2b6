"""What is asked for beside disk and release, and what of it does not go together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from abupdate.disk.layout import DATA
from abupdate.errors import UsageError
from abupdate.provision.grub import Signed
from abupdate.provision.layout import DEFAULT, Layout
from abupdate.provision.state import check_state
from abupdate.source.source import Source

_SECTORS = (512, 4096)
_LARGEST = 1 << 50


@dataclass(frozen=True)
class Wishes:
    """What is asked for beside disk and release. Sizes in bytes.

    `erase`: the serial or model that says which disk may be lost; `asked_later`: a person is
    asked for it once the plan is told, or nothing is written. `size`, `sector`: of a new
    plain file. `keep`: names or numbers of partitions that stay. `seed`: the same image for
    the same seed and release. `signers`: an allowed_signers file to believe instead of this
    machine's. `compatible`: the product that the release must be for. `installer`: a disk that
    offers to install the release on others, in that layout. `luks_key`: the file that opens
    data, which is to be encrypted. `state`: a folder with what is the owner's on data. `rescue`:
    a rescue system for its partition. `page_code`: the file by which the page knows its code.
    """

    layout: Layout = DEFAULT
    erase: str | None = None
    asked_later: bool = False
    size: int | None = None
    sector: int = 512
    keep: tuple[str, ...] = ()
    seed: str | None = None
    signers: Path | None = None
    compatible: str | None = None
    signed: Signed | None = None
    installer: bool = False
    luks_key: Path | None = None
    state: Path | None = None
    rescue: Source | None = None
    page_code: bytes | None = None

    def check(self) -> None:
        """Raise `UsageError` for what does not go together."""
        if self.sector not in _SECTORS:
            raise UsageError(f"--sector {self.sector}: 512 or 4096 was expected.")
        if self.size is not None and not 0 < self.size <= _LARGEST:
            raise UsageError(f"--size: at most {_LARGEST >> 40} TiB was expected.")
        check_state(self.state, self.keep)
        if self.seed is not None and self.keep:
            raise UsageError(
                "--seed makes the same image again, and what --keep keeps is not of that image.",
                "Leave one of the two out.",
            )
        if self.page_code is not None:
            self._check_code()

    def _check_code(self) -> None:
        hint = "Leave one of the two out; `abupdate web code` prints one on the device itself."
        if self.installer:
            raise UsageError("--page-code is for one device, and --installer makes many.", hint)
        if self.seed is not None:
            raise UsageError("--page-code is another one each time, and --seed the same.", hint)
        if DATA in self.keep:
            raise UsageError("--page-code writes to data, which --keep keeps as it is.", hint)
