"""Every boot state that a copy can hold, whether the rules lead to it or not."""

from __future__ import annotations

from hypothesis import strategies as st

from abupdate.boot.state import BootState, Ustate

STATES = st.builds(
    BootState,
    slot=st.sampled_from("AB"),
    good=st.sampled_from(["AB", "Ax", "xB", "xx"]),
    trial=st.sampled_from("ABx"),
    ustate=st.sampled_from(Ustate),
    countdown=st.integers(0, 9),
    tries=st.integers(1, 9),
    limit=st.integers(0, 9),
    failed=st.sampled_from("ABx"),
    once=st.sampled_from("Rx"),
    seen=st.sampled_from("ABRx"),
)
