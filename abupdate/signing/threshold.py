"""How many signers it takes: a release's own tag, and tags of further signers beside it.

One stolen key is then not enough. A further signer's tag is named
`release/VERSION+SIGNER`, and says the same of the same commit.
"""

from __future__ import annotations

from dataclasses import replace

from abupdate.release.tag import Reason, Statement, TagRefusedError, tag_name
from abupdate.signing.signature import Verified, verify
from abupdate.signing.signers import TrustFiles


def believe(
    statement: Statement, trust: TrustFiles, not_before: int, min_signers: int = 1
) -> Verified:
    """Believe what is said of a release, or raise `TagRefusedError` with the reason.

    Its own tag must be good. Those of further signers count where they are, under a name
    and with a key that no other has; what is wrong with one that does not count is told
    when there are too few. `not_before`: see `signature.verify`.
    """
    first = verify(statement.tag, statement.version, trust, not_before)
    counted, wrong = [first], []
    for signer, raw in statement.cosigned.items():
        try:
            counted.append(_further(statement, signer, raw, counted, trust, not_before))
        except TagRefusedError as error:
            if error.reason == Reason.TRUST_FILE:
                raise
            wrong.append(f"{tag_name(statement.version, signer)}: {error.message}")
    if len(counted) < min_signers:
        found = ", ".join(verified.signer for verified in counted)
        raise TagRefusedError(
            Reason.TOO_FEW,
            f"Release {statement.version} should have {min_signers} signers, and "
            f"{len(counted)} of its signatures can be believed ({found})."
            + "".join(f" {text}" for text in wrong),
            "Another signer adds a signature with `abupdate publish sign --cosigner`; "
            "trust.min_signers says how many it takes.",
        )
    return replace(first, cosigners=tuple(verified.signer for verified in counted[1:]))


def _further(
    statement: Statement,
    signer: str,
    raw: bytes,
    counted: list[Verified],
    trust: TrustFiles,
    not_before: int,
) -> Verified:
    found = verify(raw, statement.version, trust, not_before, cosigner=signer)
    if found.signer != signer:
        raise _not_counted(f"it is signed by {found.signer}.")
    if any(found.signer == one.signer for one in counted):
        raise _not_counted(f"{signer} has signed the release already.")
    if any(found.fingerprint == one.fingerprint for one in counted):
        raise _not_counted(f"its key {found.fingerprint} has signed the release already.")
    first = counted[0]
    if (found.commit, found.manifest_sha256, found.compatible) != (
        first.commit,
        first.manifest_sha256,
        first.compatible,
    ):
        raise _not_counted("it is for other content than the release's own tag.")
    return found


def _not_counted(text: str) -> TagRefusedError:
    return TagRefusedError(Reason.NAME, text)
