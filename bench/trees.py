"""Two releases of a real Debian for the benchmarks: what was released, and its updates.

The older has Debian 12 as it was released; the newer the same packages with all
updates and security fixes (another kernel among them), one package more and one
less. As tars, cached.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cache

from abupdate.run import run

SUITE = "bookworm"
_COMMON = (
    *("linux-image-cloud-amd64", "systemd", "systemd-sysv", "udev", "initramfs-tools", "zstd"),
    *("python3", "openssh-server", "network-manager", "nginx", "git", "iproute2", "iputils-ping"),
    *("curl", "ca-certificates", "podman", "e2fsprogs", "sudo", "tzdata", "locales"),
)
_RELEASES = {"old": (*_COMMON, "vim"), "new": (*_COMMON, "nano", "vim")}
_SECONDS = 1800.0

# Debian's mirror as mmdebstrap knows it, without its updates.
_WITHOUT_UPDATES = (
    'sed -i -e /-security/d -e /-updates/d "$1/etc/apt/sources.list"; '
    'rm -f "$1"/etc/apt/sources.list.d/*security*'
)


def tar(which: str) -> Path:
    """The root filesystem `old` or `new`."""
    packages = _RELEASES[which]
    options = ["--variant=minbase", f"--include={','.join(packages)}", "--quiet"]
    options += ["--aptopt=APT::Install-Recommends false"]
    if which == "old":
        options.append(f"--setup-hook={_WITHOUT_UPDATES}")

    def build(path: Path) -> None:
        named = path.with_suffix(".tar")
        run(["mmdebstrap", *options, SUITE, named], timeout=_SECONDS,
            env={"TMPDIR": tempfile.gettempdir()})  # fmt: skip
        named.rename(path)

    return cache.cached("bench", (SUITE, options), ".tar", build)
