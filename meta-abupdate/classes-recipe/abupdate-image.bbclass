# An image that can be a release of abupdate: read-only root, kernel and initramfs in its own
# /boot, a configuration, and the keys that it believes the next release of. docs/yocto.md.
#
#     inherit core-image abupdate-image
#     ABUPDATE_COMPATIBLE = "gateway"
#     ABUPDATE_VERSION = "1.4.0"
#     ABUPDATE_ALLOWED_SIGNERS = "/home/release/keys/allowed_signers"

# The product: a device takes releases that are made for it, and no others.
ABUPDATE_COMPATIBLE ?= "${DISTRO}-${MACHINE}"
# A version is published once; each new content needs a new one.
ABUPDATE_VERSION ?= "${DISTRO_VERSION}"
# What the kernel is told, but for root=, ro and panic=, which GRUB adds. The last three are for
# the initramfs and for a watchdog that is built in.
ABUPDATE_CMDLINE ?= "console=tty0 console=ttyS0,115200 quiet loglevel=4 init_fatal_reboot roottimeout=30 i6300esb.heartbeat=120"
# A file of settings that follows [device] in the release's config.toml.
ABUPDATE_CONFIG ?= ""
# Whom devices believe. Without it: a key of this build folder, which is for trying things out.
ABUPDATE_ALLOWED_SIGNERS ?= ""
ABUPDATE_DEMO_KEYS ?= "${TMPDIR}/abupdate-demo-keys"
ABUPDATE_INITRAMFS ?= "abupdate-initramfs"

IMAGE_FEATURES += "read-only-rootfs"
IMAGE_INSTALL:append = " abupdate abupdate-grub kernel-image kernel-modules"
# The manifest comes from this: written under pseudo, it has the owners of the image.
IMAGE_FSTYPES += "tar"
# oe-core's own leaves capabilities and other attributes out.
IMAGE_CMD_TAR = "tar --xattrs --xattrs-include='*'"

ABUPDATE_RUN = "${STAGING_BINDIR_NATIVE}/python3-native/python3 ${STAGING_DATADIR_NATIVE}/abupdate/yocto_release.py"
ABUPDATE_INITRD = "${DEPLOY_DIR_IMAGE}/${ABUPDATE_INITRAMFS}${IMAGE_MACHINE_SUFFIX}.${@d.getVar('INITRAMFS_FSTYPES').split()[0]}"

do_rootfs[depends] += "abupdate-native:do_populate_sysroot ${ABUPDATE_INITRAMFS}:do_image_complete"
do_rootfs[vardeps] += "ABUPDATE_ALLOWED_SIGNERS ABUPDATE_CONFIG"
do_rootfs[file-checksums] += "${@' '.join(p + ':True' for p in (d.getVar('ABUPDATE_ALLOWED_SIGNERS'), d.getVar('ABUPDATE_CONFIG')) if p)}"
do_rootfs[vardepsexclude] += "ABUPDATE_DEMO_KEYS"

abupdate_signers () {
	if [ -n "${ABUPDATE_ALLOWED_SIGNERS}" ]; then
		echo "${ABUPDATE_ALLOWED_SIGNERS}"
	else
		${ABUPDATE_RUN} demo-keys ${ABUPDATE_DEMO_KEYS}
		echo "${ABUPDATE_DEMO_KEYS}/allowed_signers"
	fi
}
abupdate_signers[vardepsexclude] += "ABUPDATE_DEMO_KEYS"

abupdate_rootfs () {
	sh ${STAGING_DATADIR_NATIVE}/abupdate/install.sh ${IMAGE_ROOTFS} release
	signers=$(abupdate_signers)
	set -- --signers "$signers"
	if [ -n "${ABUPDATE_CONFIG}" ]; then
		set -- "$@" --config "${ABUPDATE_CONFIG}"
	fi
	${ABUPDATE_RUN} rootfs ${IMAGE_ROOTFS} --initrd ${ABUPDATE_INITRD} \
		--compatible "${ABUPDATE_COMPATIBLE}" --version "${ABUPDATE_VERSION}" \
		--cmdline "${ABUPDATE_CMDLINE}" "$@"
	if [ -z "${ABUPDATE_ALLOWED_SIGNERS}" ]; then
		bbwarn "${PN}: devices would believe the DEMO KEY in ${ABUPDATE_DEMO_KEYS}: whoever has this build folder can update them. Make a key of your own (abupdate publish keygen), and set ABUPDATE_ALLOWED_SIGNERS and ABUPDATE_SIGNING_KEY."
	fi
}
abupdate_rootfs[vardepsexclude] += "ABUPDATE_DEMO_KEYS"
ROOTFS_POSTPROCESS_COMMAND:append = " abupdate_rootfs"

# ext4 images and tars are made of it: both can have nothing finer in the same way.
abupdate_whole_seconds () {
	${ABUPDATE_RUN} whole-seconds ${IMAGE_ROOTFS}
}
IMAGE_PREPROCESS_COMMAND:append = " abupdate_whole_seconds"

python abupdate_check_image () {
    features = set((d.getVar('IMAGE_FEATURES') or '').split())
    open_logins = features & {'empty-root-password', 'allow-empty-password', 'serial-autologin-root'}
    if open_logins:
        bb.warn('%s: everybody can log in to these devices (IMAGE_FEATURES has %s).'
                % (d.getVar('PN'), ' '.join(sorted(open_logins))))
    if 'systemd' not in d.getVar('DISTRO_FEATURES').split():
        bb.fatal('%s: systemd was expected in DISTRO_FEATURES, and is missing: set INIT_MANAGER = "systemd".'
                 % d.getVar('PN'))
}
do_rootfs[prefuncs] += "abupdate_check_image"
