#!/bin/sh
# A device in a virtual machine that starts by BIOS: what `run_image.py run` does.
#
# Usage: qemu/run-bios.sh [DISK] [--fresh] [--port 8080] [--display gtk] [--until-login]
#
# DISK: IMAGE.wic of a Yocto build, or any disk image; left out: the demo's Debian (as root).
# http://localhost:8080/ is the device's page. What is changed stays for the next run.

set -eu
here=$(dirname "$(readlink -f "$0")")
python=$here/../.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$here/run_image.py" run --firmware bios "$@"
