"""Boot states, and the bytes of their copies by our own hand."""

from __future__ import annotations

import functools

from abupdate.boot import grubenv
from abupdate.boot.envblock import format_block
from abupdate.boot.state import BootState, arm, begin, confirm, provision

OLD = provision(3, 8)
NEW = arm(begin(OLD, "B", "A"), "B")
CONFIRMED = confirm(NEW, "B", 3, 8)

# grub-editenv runs once for each state.
encode = functools.cache(grubenv.encode)


def plain(state: BootState) -> dict[str, str]:
    """All variables of the file."""
    values = {name: str(getattr(state, name)) for name in state.__dataclass_fields__}
    values["ustate"] = str(int(state.ustate))
    return {"fmt": "1", **values, "end": "1"}


@functools.cache
def block(state: BootState) -> bytes:
    """A copy like that of `grubenv.encode`, without starting a program."""
    return format_block(plain(state))
