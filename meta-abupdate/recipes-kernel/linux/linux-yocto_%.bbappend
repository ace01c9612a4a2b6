# Only in a distro that asks for it: a layer alone changes nothing.
FILESEXTRAPATHS:prepend := "${THISDIR}/files:"
SRC_URI:append = "${@bb.utils.contains('DISTRO_FEATURES', 'abupdate', ' file://abupdate.cfg', '', d)}"
