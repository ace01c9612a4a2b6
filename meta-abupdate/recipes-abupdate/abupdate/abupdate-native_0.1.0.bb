SUMMARY = "What the classes of this layer run while an image is built"

require abupdate-source.inc

inherit native

FILESEXTRAPATHS:prepend := "${THISDIR}/../../:"
SRC_URI += "file://lib;subdir=layer"

DEPENDS = "python3-pydantic-native python3-sh-native"

# Library and scripts, nothing else; `install.sh ROOTFS release` needs no other file.
do_install() {
	install -d ${B}/all
	abupdate_install ${B}/all programs
	install -d ${D}${PYTHON_SITEPACKAGES_DIR} ${D}${datadir}/abupdate
	cp -R --no-preserve=ownership ${B}/all/usr/lib/python3/dist-packages/abupdate \
		${D}${PYTHON_SITEPACKAGES_DIR}/
	install -m 755 ${S}/install.sh ${D}${datadir}/abupdate/
	install -m 644 ${S}/layer/lib/yocto_*.py ${D}${datadir}/abupdate/
}
