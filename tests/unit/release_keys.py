"""Signing keys and tags for tests: real keys from ssh-keygen, tags of any shape."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from abupdate.release.version import Version
from abupdate.signing.signature import format_payload, generate_key, sign

NOW = 1_795_000_000  # 2026-11-18
MANIFEST = "ab" * 32
COMMIT = "cd" * 32
ALICE = "alice@example.org"


@dataclass(frozen=True)
class Key:
    """A key pair and the line that lets it sign releases."""

    path: Path
    line: str

    @property
    def public(self) -> Path:
        return self.path.with_name(self.path.name + ".pub")

    def limited(self, option: str) -> str:
        """The line with one option more."""
        return self.line.replace('"git"', f'"git",{option}')


def make_key(folder: Path, name: str) -> Key:
    path = folder / name
    return Key(path, generate_key(path, f"{name}@example.org"))


def payload(version: str = "1.2", commit: str = COMMIT, when: int = NOW) -> bytes:
    return format_payload(
        commit=commit,
        version=Version(version),
        manifest_sha256=MANIFEST,
        compatible="acme",
        tagger="Acme <release@example.org>",
        tagger_time=when,
    )


def signed(key: Key, text: bytes | None = None) -> bytes:
    return sign(payload() if text is None else text, key.path)


def signed_for(key: Key, namespace: str, text: bytes) -> bytes:
    """A signature made for another purpose than releases."""
    done = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", key.path],
        input=text,
        capture_output=True,
        check=True,
    )
    return text + done.stdout
