SUMMARY = "The initramfs of every slot, rescue too"
LICENSE = "MIT"

PACKAGE_INSTALL = " \
    ${VIRTUAL-RUNTIME_base-utils} \
    base-passwd \
    initramfs-framework-base \
    initramfs-module-abupdate \
    initramfs-module-rootfs \
    initramfs-module-udev \
    ${ABUPDATE_INITRAMFS_EXTRA} \
"
# Modules and firmware that the disk of a real machine needs: "kernel-module-megaraid-sas".
ABUPDATE_INITRAMFS_EXTRA ?= ""
# It must not bring the kernel that it is started by.
PACKAGE_EXCLUDE = "kernel-image-*"

IMAGE_FEATURES = ""
IMAGE_LINGUAS = ""
IMAGE_FSTYPES = "${INITRAMFS_FSTYPES}"
IMAGE_NAME_SUFFIX ?= ""
IMAGE_ROOTFS_SIZE = "8192"
IMAGE_ROOTFS_EXTRA_SPACE = "0"

inherit image
