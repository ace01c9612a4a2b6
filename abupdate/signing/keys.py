"""What ssh-keygen makes of listed keys, without a signature to check: for `abupdate doctor`.

ssh-keygen skips a key of allowed_signers that it cannot use, RSA under 1024 bits
too, without a word; and it believes RSA keys down to that length.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from abupdate.run import run
from abupdate.signing.signers import Signer, public_line, read_revoked

_REVOKED = 1


def key_sizes(signers: Sequence[Signer]) -> dict[str, int]:
    """Fingerprint → bits of each key that ssh-keygen can use. Raises `ProgramError`."""
    keys = b"".join(public_line(signer.public_key) for signer in signers)
    listed = run(["ssh-keygen", "-l", "-f", "-"], stdin=keys, ok=(0, 255)).stdout
    words = [line.split()[:2] for line in listed.decode("utf-8", "replace").splitlines()]
    return {name: int(bits) for bits, name in words if bits.isdecimal()}


def revoked_among(signers: Sequence[Signer], revoked: Path) -> set[str]:
    """The fingerprints of the keys that a revocation file revokes.

    Raises `TagRefusedError` when a line of it cannot be read, `ProgramError`.
    """
    keys = read_revoked(revoked)
    if keys is not None:
        return {signer.fingerprint for signer in signers if signer.public_key in keys}
    found = set()
    with tempfile.TemporaryDirectory(prefix="abupdate-") as folder:
        key = Path(folder) / "key.pub"
        for signer in signers:
            key.write_bytes(public_line(signer.public_key))
            asked = run(["ssh-keygen", "-Q", "-f", revoked, key], ok=range(256))
            if asked.code == _REVOKED:
                found.add(signer.fingerprint)
    return found
