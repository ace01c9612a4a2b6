"""podman in a guest, and a container named `web`, whose image is made on the device."""

from __future__ import annotations

# The smallest that podman takes without asking for a network, systemd or cgroups of its own.
PACKAGES = ("podman", "crun")

MAKE = r"""
set -e
mkdir -p /run/image/bin
for applet in sh sleep test touch; do cp /usr/bin/busybox /run/image/bin/$applet; done
for library in $(ldd /usr/bin/busybox | grep -o '/[^ ]*'); do
  mkdir -p "/run/image${library%/*}" && cp -L "$library" "/run/image$library"
done
tar -C /run/image -cf - . | podman import --quiet - localhost/web:1
podman create --name web --network none --cgroups disabled \
  --health-cmd 'test -e /healthy' --health-interval disable \
  localhost/web:1 sh -c 'touch /healthy; exec sleep 1000000'
"""
