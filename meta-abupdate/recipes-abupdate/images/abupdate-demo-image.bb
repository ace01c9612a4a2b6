SUMMARY = "A whole device: A/B slots, rescue, containers, nobody who can log in"
LICENSE = "MIT"

IMAGE_INSTALL = " \
    packagegroup-core-boot \
    abupdate-web \
    ${@bb.utils.contains('DISTRO_FEATURES', 'virtualization', 'packagegroup-abupdate-containers', '', d)} \
    ${ABUPDATE_DEMO_EXTRA} \
"
# kas/ci.yml adds the agent that tests talk to.
ABUPDATE_DEMO_EXTRA ?= ""
IMAGE_LINGUAS = ""

inherit core-image abupdate-image abupdate-bundle abupdate-disk

# `runqemu kvm ovmf` starts it by UEFI.
EXTRA_IMAGEDEPENDS += "${@bb.utils.contains('ABUPDATE_FIRMWARE', 'uefi', 'ovmf', '', d)}"

# The images of containers take up room on data, and each slot holds the engine.
ABUPDATE_SLOT_SIZE = "1536"

# runqemu forwards port 8080 to the page, and nobody can log in to ask for its code.
abupdate_page_for_all () {
	units=${IMAGE_ROOTFS}${systemd_system_unitdir}
	install -d $units/abupdate-web.socket.d $units/multi-user.target.wants
	printf '[Socket]\nListenStream=\nListenStream=8080\n' >$units/abupdate-web.socket.d/10-network.conf
	ln -sf ../abupdate-web-code.service $units/multi-user.target.wants/
}
ROOTFS_POSTPROCESS_COMMAND += "abupdate_page_for_all"

# meta-virtualization's storage copies each layer (vfs); data is ext4, which overlay can be on.
abupdate_container_storage () {
	conf=${IMAGE_ROOTFS}${sysconfdir}/containers/storage.conf
	if [ -f $conf ]; then
		sed -i 's/^driver = .*/driver = "overlay"/' $conf
	fi
}
ROOTFS_POSTPROCESS_COMMAND += "abupdate_container_storage"
