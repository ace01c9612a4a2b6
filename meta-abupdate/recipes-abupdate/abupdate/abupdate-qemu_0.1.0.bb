SUMMARY = "abupdate's virtual machines: what runs them, and what test releases carry"

require abupdate-source.inc

SRC_URI += "file://qemu"

do_install() {
	install -d ${D}${datadir}/abupdate/qemu ${D}${nonarch_libdir}/abupdate-test
	install -m 644 ${S}/qemu/*.py ${D}${datadir}/abupdate/qemu/
	install -m 755 ${S}/qemu/run-efi.sh ${S}/qemu/run-bios.sh ${D}${datadir}/abupdate/qemu/

	# Not its password: these images have no user to give one to.
	for name in agent marker fault; do
		unit=${S}/qemu/guest/units/abupdate-test-$name.service
		install -m 755 ${S}/qemu/guest/files/$name ${D}${nonarch_libdir}/abupdate-test/
		install -D -m 644 $unit ${D}${systemd_system_unitdir}/${unit##*/}
		for target in $(sed -n 's/^WantedBy=//p' $unit); do
			install -d ${D}${systemd_system_unitdir}/$target.wants
			ln -sf ../${unit##*/} ${D}${systemd_system_unitdir}/$target.wants/${unit##*/}
		done
	done
}

PACKAGES = "${PN}-guest ${PN}"

SUMMARY:${PN}-guest = "For test releases only: whoever runs the virtual machine is root in it"
FILES:${PN}-guest = "${nonarch_libdir}"
RDEPENDS:${PN}-guest = "python3-core python3-json util-linux-chrt"

FILES:${PN} = "${datadir}/abupdate"
RDEPENDS:${PN} = "abupdate-publish bash python3-modules"
RRECOMMENDS:${PN} = "qemu"
