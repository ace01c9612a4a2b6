SUMMARY = "The container engine of abupdate's demo: podman, or containerd with nerdctl"
DESCRIPTION = "Its storage is /var/lib/containers or /var/lib/containerd, and /var lies on the \
data partition: updates leave it alone."

inherit packagegroup features_check

REQUIRED_DISTRO_FEATURES = "virtualization seccomp ipv6"

ENGINE = "podman crun"
ENGINE:containerd = "virtual-containerd nerdctl cni"
OVERRIDES:append = ":${CONTAINER_PROFILE}"

RDEPENDS:${PN} = "${ENGINE}"
