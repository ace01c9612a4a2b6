SUMMARY = "initramfs: abupdate mounts what a slot needs, and starts the watchdog"

require ../abupdate/abupdate-source.inc

FILESEXTRAPATHS:prepend := "${THISDIR}/files:"
SRC_URI += "file://abupdatewatchdog file://abupdatemount"

do_install() {
	install -d ${B}/all
	abupdate_install ${B}/all initramfs
	install -D -m 755 -t ${D}${base_sbindir} \
		${B}/all${nonarch_libdir}/abupdate/abupdate-mount \
		${B}/all${nonarch_libdir}/abupdate/abupdate-watchdog
	# busybox's modprobe reads this folder only; its cp leaves xattrs and ACLs out.
	install -D -m 644 -t ${D}${sysconfdir}/modprobe.d ${B}/all${nonarch_libdir}/modprobe.d/*
	ln -s ${base_bindir}/cp.coreutils ${D}${base_sbindir}/abupdate-cp

	# Right after udev has begun, and between the root filesystem (90) and the end (99).
	install -D -m 755 ${S}/abupdatewatchdog ${D}/init.d/02-abupdatewatchdog
	install -D -m 755 ${S}/abupdatemount ${D}/init.d/95-abupdatemount
}

FILES:${PN} = "/init.d ${base_sbindir} ${sysconfdir}/modprobe.d"
RDEPENDS:${PN} = " \
    coreutils \
    e2fsprogs-e2fsck \
    initramfs-framework-base \
    initramfs-module-rootfs \
    initramfs-module-udev \
"
