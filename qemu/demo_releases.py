"""The three releases of the demo and of the VM tests."""

from __future__ import annotations

from dataclasses import replace

from guest import FULL_KERNEL, Release

FAILURE = "the service of release 3 does not answer"

ONE = Release("1", packages=("figlet",), cmdline="demo.release=one")
# Another kernel flavour, another command line, one package more and one less.
TWO = Release("2", kernel=FULL_KERNEL, packages=("hello",), cmdline="demo.release=two")
# Boots well, and its own check says that it is broken.
THREE = replace(
    TWO,
    version="3",
    cmdline="demo.release=three",
    files={
        "/usr/lib/abupdate/required.d/50-service": f"#!/bin/sh\necho {FAILURE}\nexit 1\n".encode()
    },
)
