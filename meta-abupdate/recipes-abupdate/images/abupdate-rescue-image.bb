SUMMARY = "The rescue system behind both slots: a release of its own"
DESCRIPTION = "Started as rescue it offers a menu, repairs and installs (docs/rescue.md). It has \
what a slot has, and nothing of the product."
LICENSE = "MIT"

IMAGE_INSTALL = "packagegroup-core-boot abupdate-web"
IMAGE_LINGUAS = ""

inherit core-image abupdate-image abupdate-bundle

# A product of its own: it cannot get into a slot, nor a slot's release into its place.
ABUPDATE_COMPATIBLE:append = ":rescue"
# Fixups and deltas are the slots'.
ABUPDATE_FIXUPS_WRITE = ""
ABUPDATE_DELTA_FROM = ""
ABUPDATE_REPOSITORY = "${WORKDIR}/abupdate-releases.git"
