"""A device that hostile input is given to, with keys of each kind, and what must not change."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from abupdate.disk.layout import Slot
from abupdate.signing.signature import generate_key, signer_line
from tests.slots import loop
from tests.slots.device import NOBODY, Device, hash_of
from tests.slots.hostile.releases import Craft, Made, craft
from tests.slots.hostile.watch import Measured, Watch

EXPIRED_SINCE = "20200101Z"


@dataclass(frozen=True)
class Workshop:
    """A device and the keys that it believes: `good`; `revoked` and `expired` are listed too."""

    device: Device
    watch: Watch

    @property
    def folder(self) -> Path:
        return self.device.top / "hostile"

    @property
    def store(self) -> Path:
        return self.device.paths.state / "store.git"

    @property
    def spool(self) -> Path:
        return self.device.paths.state / "spool"

    def key(self, name: str) -> Path:
        return self.folder / name

    def craft(self, version: str, what: Craft, key: str = "good") -> Made:
        return craft(version, self.key(key), what)

    def configure(self, trust: str = "") -> None:
        """Write the vendor's config.toml, with these lines in [trust]."""
        text = f'[device]\ncompatible = "testbox"\n{"[trust]" if trust else ""}\n{trust}\n'
        (self.device.paths.vendor / "config.toml").write_text(text)

    def run(self, *argv: str | Path) -> Measured:
        """A command in processes of its own, watched."""
        return self.watch.run(*argv)

    def untouched(self) -> dict[str, str]:
        """Slots, boot state, and every file on data: what no refusal may change."""
        found = {str(slot): hash_of(path) for slot, path in self.device.loops.items()}
        for top in (self.device.paths.esp, self.device.paths.data):
            for path in sorted(top.rglob("*")):
                status = path.lstat()
                about = f"{status.st_mode:o} {status.st_uid}"
                if path.is_file() and not path.is_symlink():
                    about += f" {hash_of(path)}"
                found[str(path.relative_to(self.device.top))] = about
        return found

    @contextmanager
    def changed_store(self) -> Iterator[None]:
        """The store is put back at the end."""
        saved = self.folder / "store-saved"
        subprocess.run(["cp", "-a", self.store, saved], check=True)
        try:
            yield
        finally:
            shutil.rmtree(self.store)
            saved.rename(self.store)

    def put_back(self) -> None:
        """The boot state, data, and an empty slot B, as they were when it was opened."""
        for name, top in self._kept():
            shutil.rmtree(top)
            subprocess.run(["cp", "-a", self.folder / name, top], check=True)
        loop.make_ext4(self.device.loops[Slot.B], Slot.B.unfinished_label)

    def keep(self) -> None:
        """Keep what `put_back` is to bring."""
        for name, top in self._kept():
            subprocess.run(["cp", "-a", top, self.folder / name], check=True)

    def _kept(self) -> tuple[tuple[str, Path], ...]:
        return ("data-kept", self.device.paths.data), ("esp-kept", self.device.paths.esp)

    def take_in(self, made: Made, version: str) -> Path:
        """Bring a release into the store, past all checks; its pack's index."""
        before = set((self.store / "objects/pack").glob("*.idx"))
        bundle = self.folder / "planted.bundle"
        bundle.write_bytes(made.bundle)
        bundle.chmod(0o644)
        as_owner = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        ref = f"refs/tags/release/{version}"
        subprocess.run(
            [*as_owner, "git", "--git-dir", self.store, "fetch", "-q", bundle, f"{ref}:{ref}"],
            check=True, env={**os.environ, "HOME": "/nonexistent", "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "fetch.unpackLimit", "GIT_CONFIG_VALUE_0": "1"},
        )  # fmt: skip
        (index,) = set((self.store / "objects/pack").glob("*.idx")) - before
        return index


@contextmanager
def opened(device: Device) -> Iterator[Workshop]:
    """Keys, and a vendor's folder on the device that lists them."""
    with ExitStack() as undo:
        folder = device.top / "hostile"
        folder.mkdir()
        undo.callback(shutil.rmtree, folder)
        vendor = device.paths.vendor
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", vendor], check=True)
        undo.callback(lambda: subprocess.run(["umount", vendor], check=True))
        (vendor / "allowed_signers").write_text(_signers(folder))
        (device.paths.state / "trust").mkdir(exist_ok=True)
        shutil.copy(folder / "revoked.pub", device.paths.state / "trust/revoked")
        watch = Watch(device, {"GNUPGHOME": str(folder / "gnupg")})
        undo.callback(watch.close)
        shop = Workshop(device, watch)
        shop.configure()
        shop.keep()
        yield shop


def _signers(folder: Path) -> str:
    """Make the keys; the list of those that are listed."""
    for name in ("good", "revoked", "expired", "unlisted"):
        generate_key(folder / name, name)
    good, revoked, expired = (
        signer_line(folder / f"{name}.pub", name) for name in ("good", "revoked", "expired")
    )
    limited = expired.replace('"git"', f'"git",valid-before="{EXPIRED_SINCE}"')
    return "".join(f"{line}\n" for line in (good, revoked, limited))
