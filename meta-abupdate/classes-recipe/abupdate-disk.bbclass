# The disk of a new device from an image's bundle (abupdate-bundle): what `abupdate provision`
# makes, with partitions by wic. docs/yocto.md.
#
#     inherit core-image abupdate-image abupdate-bundle abupdate-disk
#     ABUPDATE_SLOT_SIZE = "2048"

# MiB.
ABUPDATE_BOOT_SIZE ?= "64"
ABUPDATE_RESCUE_SIZE ?= "768"
ABUPDATE_SLOT_SIZE ?= "1024"
ABUPDATE_DATA_SIZE ?= "2048"
# The rescue system behind both slots; empty: none.
ABUPDATE_RESCUE_IMAGE ?= "abupdate-rescue-image"
# What starts it: as in abupdate-grub.
ABUPDATE_FIRMWARE ?= "uefi bios"

ABUPDATE_WKS_FILE ?= "abupdate-ab.wks.in"
WKS_FILE = "${ABUPDATE_WKS_FILE}"
IMAGE_FSTYPES += "wic"
ABUPDATE_PARTS = "${WORKDIR}/abupdate-parts"
# Elsewhere pseudo keeps no owners.
PSEUDO_INCLUDE_PATHS .= ",${ABUPDATE_PARTS}"
# Everything lies in our own parts.
WKS_FILE_DEPENDS = "wic-native e2fsprogs-native mtools-native"
IMAGE_BOOT_FILES = ""

ABUPDATE_RESCUE_NAME = "${DEPLOY_DIR_IMAGE}/${ABUPDATE_RESCUE_IMAGE}${IMAGE_MACHINE_SUFFIX}${IMAGE_NAME_SUFFIX}.bundle"

fakeroot do_abupdate_parts () {
	signers=$(abupdate_signers)
	set -- --signers "$signers"
	if [ -n "${ABUPDATE_RESCUE_IMAGE}" ]; then
		set -- "$@" --rescue ${ABUPDATE_RESCUE_NAME}
	fi
	${ABUPDATE_RUN} parts ${IMGDEPLOYDIR}/${ABUPDATE_BUNDLE_NAME}.bundle --out ${ABUPDATE_PARTS} \
		--firmware "${ABUPDATE_FIRMWARE}" --boot-size ${ABUPDATE_BOOT_SIZE} \
		--rescue-size ${ABUPDATE_RESCUE_SIZE} --slot-size ${ABUPDATE_SLOT_SIZE} \
		--data-size ${ABUPDATE_DATA_SIZE} "$@"
}
do_abupdate_parts[cleandirs] = "${ABUPDATE_PARTS}"
do_abupdate_parts[vardepsexclude] += "ABUPDATE_DEMO_KEYS"
do_abupdate_parts[depends] += " \
    abupdate-native:do_populate_sysroot \
    e2fsprogs-native:do_populate_sysroot \
    grub-native:do_populate_sysroot \
    mtools-native:do_populate_sysroot \
    virtual/fakeroot-native:do_populate_sysroot \
    ${@'%s:do_image_complete' % d.getVar('ABUPDATE_RESCUE_IMAGE') if d.getVar('ABUPDATE_RESCUE_IMAGE') else ''} \
"
addtask abupdate_parts after do_abupdate_bundle before do_image_wic

# What lies outside of partitions: a BIOS's boot sector, and where GRUB finds rescue and slots
# without a table.
abupdate_finish_disk () {
	${ABUPDATE_RUN} finish ${IMGDEPLOYDIR}/${IMAGE_NAME}.wic --parts ${ABUPDATE_PARTS}
}
do_image_wic[postfuncs] += "abupdate_finish_disk"
do_image_wic[depends] += "abupdate-native:do_populate_sysroot"

# `runqemu kvm`: from the disk, by its own GRUB; `runqemu kvm ovmf`: the same by UEFI.
QB_DEFAULT_FSTYPE = "wic"
QB_FSINFO = "wic:kernel-in-fs"
QB_DEFAULT_KERNEL = "none"
QB_DRIVE_TYPE = "/dev/vd"
QB_MEM = "-m 1024"
QB_SLIRP_OPT = "-netdev user,id=net0,hostfwd=tcp:127.0.0.1:8080-:8080"
QB_OPT_APPEND:append = " -device i6300esb"

python () {
    if not bb.data.inherits_class('abupdate-bundle', d):
        raise bb.parse.SkipRecipe('abupdate-disk needs abupdate-bundle: inherit it before.')
}
