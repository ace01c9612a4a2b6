# Turns an image (abupdate-image) into a release and its bundles, as a part of the build.
# docs/yocto.md.
#
#     inherit core-image abupdate-image abupdate-bundle
#     ABUPDATE_SIGNING_KEY = "/home/release/keys/release"
#     ABUPDATE_REPOSITORY = "/home/release/gateway.git"
#     ABUPDATE_DELTA_FROM = "1.2.0 1.3.0"
#
# Beside the image: IMAGE-MACHINE-VERSION.bundle, and one ...-from-OLD.bundle a delta.

# The private key, outside of the build folder; or the .pub of one that an agent holds. Empty:
# the demo key. "none": only the commit is made, and another machine signs it.
ABUPDATE_SIGNING_KEY ?= ""
# Where the releases of the product are. Only with one that outlives the build are there deltas.
ABUPDATE_REPOSITORY ?= "${WORKDIR}/abupdate-releases.git"
# Versions in it that get a delta.
ABUPDATE_DELTA_FROM ?= ""
# The lowest version that a device may run from this release on, and that may update to it.
ABUPDATE_FLOOR ?= ""
ABUPDATE_MIN_FROM ?= ""
# Patterns of what .git-fixups/* may write.
ABUPDATE_FIXUPS_WRITE ?= ""
# "1": compressed as a whole, a fifth smaller.
ABUPDATE_ZSTD ?= "0"
ABUPDATE_BUNDLE_NAME ?= "${IMAGE_BASENAME}${IMAGE_MACHINE_SUFFIX}-${ABUPDATE_VERSION}"

do_abupdate_bundle () {
	key="${ABUPDATE_SIGNING_KEY}"
	if [ -z "$key" ]; then
		bbwarn "${PN}: release ${ABUPDATE_VERSION} is signed with the DEMO KEY of this build folder. Never give it to a device in the field: set ABUPDATE_SIGNING_KEY and ABUPDATE_ALLOWED_SIGNERS."
		key=${ABUPDATE_DEMO_KEYS}/release
	fi
	if [ "${ABUPDATE_REPOSITORY}" = "${WORKDIR}/abupdate-releases.git" ]; then
		rm -rf ${ABUPDATE_REPOSITORY}
	fi
	signers=$(abupdate_signers)
	set -- --signers "$signers"
	for old in ${ABUPDATE_DELTA_FROM}; do
		set -- "$@" --since "$old"
	done
	for pattern in ${ABUPDATE_FIXUPS_WRITE}; do
		set -- "$@" --fixups-write "$pattern"
	done
	if [ -n "${ABUPDATE_FLOOR}" ]; then
		set -- "$@" --floor "${ABUPDATE_FLOOR}"
	fi
	if [ -n "${ABUPDATE_MIN_FROM}" ]; then
		set -- "$@" --min-from "${ABUPDATE_MIN_FROM}"
	fi
	if [ "${ABUPDATE_ZSTD}" = 1 ]; then
		set -- "$@" --zstd
	fi
	${ABUPDATE_RUN} bundle ${IMGDEPLOYDIR}/${IMAGE_NAME}.tar --repo ${ABUPDATE_REPOSITORY} \
		--version "${ABUPDATE_VERSION}" --compatible "${ABUPDATE_COMPATIBLE}" --key "$key" \
		--out ${IMGDEPLOYDIR} --name "${ABUPDATE_BUNDLE_NAME}" "$@"
	if [ "$key" != none ]; then
		ln -sf ${ABUPDATE_BUNDLE_NAME}.bundle ${IMGDEPLOYDIR}/${IMAGE_LINK_NAME}.bundle
	fi
}
do_abupdate_bundle[depends] += "abupdate-native:do_populate_sysroot"
do_abupdate_bundle[vardepsexclude] += "ABUPDATE_DEMO_KEYS ABUPDATE_REPOSITORY ABUPDATE_SIGNING_KEY IMAGE_NAME"
# A key may be held by an agent (BB_ENV_PASSTHROUGH_ADDITIONS += "SSH_AUTH_SOCK"): its socket is a
# file, which a task without network reaches, too.
addtask abupdate_bundle after do_image_tar before do_image_complete

python () {
    if not bb.data.inherits_class('abupdate-image', d):
        raise bb.parse.SkipRecipe('abupdate-bundle needs abupdate-image: inherit it before.')
}
