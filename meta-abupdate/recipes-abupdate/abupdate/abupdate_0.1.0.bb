SUMMARY = "Updates whole Linux systems that boot with GRUB, and cannot brick them"
DESCRIPTION = "The library, the command, the units of the health check, what a read-only root \
needs, and, in a package of its own, the page and what makes releases."

require abupdate-source.inc

inherit features_check useradd

REQUIRED_DISTRO_FEATURES = "systemd usrmerge"

# Unless another number is said, each release must give these users the same one: files on the
# data partition are theirs.
ABUPDATE_STORE_ID ?= "970"
ABUPDATE_WEB_ID ?= "971"

do_install() {
	abupdate_install ${D} programs page initramfs

	install -d ${D}${PYTHON_SITEPACKAGES_DIR}
	mv ${D}${nonarch_libdir}/python3/dist-packages/abupdate ${D}${PYTHON_SITEPACKAGES_DIR}/
	rm -rf ${D}${nonarch_libdir}/python3

	# The class useradd makes the user.
	rm -rf ${D}${nonarch_libdir}/sysusers.d

	# abupdate-grub and initramfs-module-abupdate have these.
	rm -rf ${D}${nonarch_libdir}/abupdate/grub ${D}${datadir}
}

USERADD_PACKAGES = "${PN} ${PN}-web"
USERADD_PARAM:${PN} = "--system --uid ${ABUPDATE_STORE_ID} --user-group --no-create-home \
    --home-dir /nonexistent --shell /sbin/nologin abupdate-store"
USERADD_PARAM:${PN}-web = "--system --uid ${ABUPDATE_WEB_ID} --user-group --no-create-home \
    --home-dir /nonexistent --shell /sbin/nologin abupdate-web"

PACKAGES = "${PN}-web ${PN}-publish ${PN}"

SUMMARY:${PN}-web = "abupdate's local web page, and the engine that works for it"
FILES:${PN}-web = " \
    ${PYTHON_SITEPACKAGES_DIR}/abupdate/web \
    ${systemd_system_unitdir}/abupdate-web.* \
    ${systemd_system_unitdir}/abupdate-web-code.service \
    ${systemd_system_unitdir}/abupdate-engine.* \
    ${systemd_system_unitdir}/*.wants/abupdate-web.* \
    ${systemd_system_unitdir}/*.wants/abupdate-engine.* \
"
RDEPENDS:${PN}-web = " \
    ${PN} \
    python3-jinja2 \
    python3-python-multipart \
    python3-starlette \
    python3-uvicorn \
"

SUMMARY:${PN}-publish = "Makes releases of root filesystems, signs and bundles them"
FILES:${PN}-publish = "${PYTHON_SITEPACKAGES_DIR}/abupdate/publish"
RDEPENDS:${PN}-publish = "${PN} zstd"

FILES:${PN} = " \
    ${PYTHON_SITEPACKAGES_DIR}/abupdate \
    ${bindir}/abupdate \
    ${nonarch_libdir} \
    /boot/efi \
    /data \
"
RDEPENDS:${PN} = " \
    coreutils \
    diffutils \
    e2fsprogs-dumpe2fs \
    e2fsprogs-e2fsck \
    e2fsprogs-mke2fs \
    e2fsprogs-tune2fs \
    git \
    grub-editenv \
    kmod \
    openssh-keygen \
    python3-modules \
    python3-pydantic \
    python3-pyparted \
    python3-pyudev \
    python3-rich \
    python3-sh \
    python3-typer \
    util-linux-blkid \
    util-linux-findmnt \
    util-linux-lsblk \
    util-linux-mount \
    util-linux-prlimit \
    util-linux-setpriv \
    util-linux-umount \
    util-linux-unshare \
"
# Without it, git repositories on a web server cannot be a source; the others can.
RRECOMMENDS:${PN} = "${PN}-grub curl openssh-ssh zstd"
