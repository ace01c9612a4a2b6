# Only in a distro that asks for it: a layer alone changes nothing, not even a signature.
include ${@bb.utils.contains('DISTRO_FEATURES', 'abupdate', 'linux-yocto-abupdate.inc', '', d)}
