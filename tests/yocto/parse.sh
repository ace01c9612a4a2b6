#!/bin/bash
# The layer, looked at by bitbake itself: nothing is downloaded and nothing is built.
#
# Usage: tests/yocto/parse.sh LAYERS BUILD [CHECK...]
#
# LAYERS: a folder with bitbake, openembedded-core, meta-openembedded, meta-yocto and (for the
# containers) meta-virtualization, as kas.yml pins them; `kas checkout` makes it. BUILD: an empty
# folder. Not as root: bitbake refuses that. CHECK, all of them unless told:
#   parse        bitbake -p: every recipe of all layers
#   environment  bitbake -e of the three images: what the classes set
#   graph        bitbake -n abupdate-demo-image: all tasks and what they depend on
#   fragments    bitbake -g: the same graph, with each of musl, containerd, BIOS and ci
#   check-layer  yocto-check-layer
# JOBS=N: threads (2). What each found is printed; any error, or a warning about this layer, fails.

set -u
layers=$(readlink -f "${1:?usage: parse.sh LAYERS BUILD [CHECK...]}")
build=$(readlink -m "${2:?usage: parse.sh LAYERS BUILD [CHECK...]}")
shift 2
checks=${*:-parse environment graph check-layer fragments}
layer=$(readlink -f "$(dirname "$0")/../../meta-abupdate")
jobs=${JOBS:-2}
failed=0

for one in bitbake openembedded-core meta-openembedded meta-yocto; do
	[ -d "$layers/$one" ] || {
		echo "parse.sh: a folder '$one' was expected in $layers; \`kas checkout kas.yml\` makes it." >&2
		exit 2
	}
done
[ "$(id -u)" != 0 ] || { echo "parse.sh: bitbake does not run as root; take another user." >&2; exit 2; }

export LANG=en_US.UTF-8 LC_ALL=en_US.UTF-8
export PATH=$layers/openembedded-core/scripts:$layers/bitbake/bin:$PATH
export BBPATH=$build BUILDDIR=$build
mkdir -p "$build/conf"
configure() { # SETTING...
	{
		cat <<-END
			BBPATH = "\${TOPDIR}"
			BBFILES ?= ""
			BBLAYERS = "$layers/openembedded-core/meta $layers/meta-openembedded/meta-oe \\
			    $layers/meta-openembedded/meta-python $layers/meta-openembedded/meta-networking \\
			    $layers/meta-openembedded/meta-filesystems $layer"
		END
		[ ! -d "$layers/meta-virtualization" ] ||
			echo "BBLAYERS += \"$layers/meta-virtualization\""
	} >"$build/conf/bblayers.conf"
	{
		cat <<-END
			CONF_VERSION = "2"
			MACHINE = "qemux86-64"
			DISTRO = "abupdate-demo"
			BB_NUMBER_THREADS = "$jobs"
			BB_NUMBER_PARSE_THREADS = "$jobs"
			BB_NO_NETWORK = "1"
			CONNECTIVITY_CHECK_URIS = ""
			INHERIT:remove = "uninative"
		END
		printf '%s\n' "$@"
	} >"$build/conf/local.conf"
}

said() { # NAME: the summary of a log, and what is wrong in it
	log=$build/$1.log
	grep -E '^(Parsing of|Summary: |NOTE: Tasks Summary|NOTE: Executing|Currently|INFO: )' "$log" | tail -n 6
	errors=$(grep -c -E '(^|\.\.\.)(ERROR|FATAL): ' "$log")
	warnings=$(grep -c -E '(^|\.\.\.)WARNING: ' "$log")
	ours=$(grep -E '(^|\.\.\.)WARNING: ' "$log" | grep -c -i abupdate)
	echo "$1: $errors errors, $warnings warnings, $ours of them about this layer"
	[ "$errors" = 0 ] && [ "$ours" = 0 ] || { failed=1; grep -E -A5 '(^|\.\.\.)(ERROR|FATAL|WARNING): ' "$log" | head -n 60; }
}

run() { # NAME COMMAND...
	name=$1
	shift
	echo "== $name: $*"
	(cd "$build" && "$@") >"$build/$name.log" 2>&1
	code=$?
	said "$name"
	[ $code = 0 ] || { failed=1; echo "$name: exit code $code, see $build/$name.log"; }
}

for check in $checks; do
	configure
	case $check in
	parse) run parse bitbake -p ;;
	environment)
		for image in abupdate-demo-image abupdate-rescue-image abupdate-initramfs; do
			run "environment-$image" bitbake -e "$image"
			grep -E '^(ABUPDATE_(COMPATIBLE|VERSION|CMDLINE|SLOT_SIZE|INITRD|RESCUE_NAME)|IMAGE_FSTYPES|IMAGE_FEATURES|WKS_FULL_PATH|QB_DEFAULT_FSTYPE|QB_SLIRP_OPT|INIT_MANAGER|TCLIBC)=' \
				"$build/environment-$image.log"
		done
		;;
	graph) run graph bitbake -n abupdate-demo-image ;;
	fragments)
		configure 'TCLIBC = "musl"'
		run musl bitbake -g abupdate-demo-image
		configure 'ABUPDATE_FIRMWARE = "bios"'
		run bios bitbake -g abupdate-demo-image
		configure 'ABUPDATE_DEMO_EXTRA = "abupdate-qemu-guest"'
		run ci bitbake -g abupdate-demo-image
		if [ -d "$layers/meta-virtualization" ]; then
			configure 'CONTAINER_PROFILE = "containerd"'
			run containerd bitbake -g abupdate-demo-image
		fi
		;;
	check-layer)
		configure 'DISTRO:forcevariable = "nodistro"'
		sed -i "s| $layer\"|\"|; /meta-virtualization/d" "$build/conf/bblayers.conf"
		# What it depends on is others' to test.
		run check-layer yocto-check-layer --no-auto-dependency "$layer" --dependency \
			"$layers/meta-openembedded/meta-oe" "$layers/meta-openembedded/meta-python"
		grep -E '^INFO: .*(PASS|FAIL|SKIP|OK)|^Ran|^OK|^FAILED' "$build/check-layer.log"
		;;
	*) echo "parse.sh: unknown check '$check'" >&2; exit 2 ;;
	esac
done
exit $failed
