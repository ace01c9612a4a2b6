"""What is done about a path that both the owner and a release changed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from abupdate.globs import glob


class Rule(StrEnum):
    """`merge`: both changes, where they do not touch each other; else the owner's stays, and
    the release's lies beside it. `mine`: the owner's, whole. `theirs`: the release's, whole.
    `drop`: what the owner changed never goes along.
    """

    MERGE = "merge"
    MINE = "mine"
    THEIRS = "theirs"
    DROP = "drop"


# Copies that the tools for accounts make for themselves.
_MINE = ("passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-")
# Who may sign, and what makes the slot boot: an old word of the owner's must not keep a key
# that the release took away, nor break what the release starts with.
_THEIRS = (
    "abupdate/allowed_signers.d/**", "default/grub", "default/grub.d/**", "grub.d/**",
    "initramfs-tools/**", "dracut.conf", "dracut.conf.d/**", "kernel/**",
)  # fmt: skip
# Lists of which nothing may get lost: what either has is in both.
_UNION = ("abupdate/revoked",)


class Policy:
    """The rule of each path below /etc: our own first, then the settings' in their order."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """`settings`: pattern (`abupdate.globs`) → rule; the first that fits counts."""
        asked = [(pattern, Rule(rule)) for pattern, rule in settings.items()]
        ours = [(pattern, Rule.THEIRS) for pattern in _THEIRS]
        copies = [(pattern, Rule.MINE) for pattern in _MINE]
        self._rules = [(glob(pattern), rule) for pattern, rule in (*ours, *asked, *copies)]
        self._union = [glob(pattern) for pattern in _UNION]

    def rule(self, name: bytes) -> Rule:
        """The rule of a path."""
        return next((rule for meant, rule in self._rules if meant(name)), Rule.MERGE)

    def is_union(self, name: bytes) -> bool:
        """Whether it is a list of lines, of which both sides' are kept."""
        return any(meant(name) for meant in self._union)
