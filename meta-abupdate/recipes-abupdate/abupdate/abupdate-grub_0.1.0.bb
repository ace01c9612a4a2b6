SUMMARY = "abupdate's GRUB: configuration, and images with everything built in"

require abupdate-source.inc

COMPATIBLE_HOST = "(x86_64.*)-linux"

# What starts the device: UEFI, BIOS, or both.
ABUPDATE_FIRMWARE ?= "uefi bios"

DEPENDS = " \
    abupdate-native \
    grub-native \
    ${@bb.utils.contains('ABUPDATE_FIRMWARE', 'uefi', 'grub-efi', '', d)} \
    ${@bb.utils.contains('ABUPDATE_FIRMWARE', 'bios', 'grub', '', d)} \
"

do_compile() {
	rm -rf ${B}/all
	install -d ${B}/all
	abupdate_install ${B}/all programs
	${STAGING_BINDIR_NATIVE}/python3-native/python3 ${STAGING_DATADIR_NATIVE}/abupdate/yocto_release.py \
		grub-images ${B}/all${nonarch_libdir}/abupdate/grub --library ${STAGING_LIBDIR}/grub \
		--firmware "${ABUPDATE_FIRMWARE}"
}

do_install() {
	install -d ${D}${nonarch_libdir}/abupdate/grub
	install -m 644 ${B}/all${nonarch_libdir}/abupdate/grub/* ${D}${nonarch_libdir}/abupdate/grub/
}

FILES:${PN} = "${nonarch_libdir}/abupdate/grub"
# What `provision` makes disks with, and a repair of the boot partition.
RDEPENDS:${PN} = "e2fsprogs mtools"
# Code for the machine before Linux runs.
INSANE_SKIP:${PN} = "arch"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_SYSROOT_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
