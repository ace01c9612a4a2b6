#!/bin/sh
# Puts abupdate into a root filesystem: the one place that knows which file goes where. Debian's
# and Yocto's packages, test guests and fielded machines are made by it.
#
# Usage: install.sh ROOT [--python PYTHON] [PART...]
#
# ROOT: a root filesystem with systemd, or an empty folder that becomes a package.
# --python: the interpreter of the command, where it is not Debian's (a virtual environment that
# sees Debian's dist-packages).
# PART, the first two unless told:
#   initramfs   the scripts of the initramfs; before it is made
#   programs    the Python package, the command, units, GRUB's configuration
#   page        the local page, with the engine that works for it
#   release     ROOT, a whole Debian, becomes what a release must be: nothing of one machine, and
#               nothing that a read-only root takes ill

set -eu
umask 022
source=$(dirname "$(readlink -f "$0")")

usage() {
	echo "install.sh: $1" >&2
	echo "            usage: install.sh ROOT [--python PYTHON] [initramfs] [programs] [page] [release]" >&2
	exit 2
}

[ $# -gt 0 ] || usage "a root filesystem was expected"
root=${1%/}
[ -n "$root" ] || usage "ROOT may not be /: packages do that"
[ -d "$root" ] || usage "a folder was expected at '$root', there is none"
shift
python=/usr/bin/python3 parts=
while [ $# -gt 0 ]; do
	case $1 in
	--python)
		python=${2:-}
		case $python in /*) ;; *) usage "--python needs a path from /" ;; esac
		shift
		;;
	initramfs | programs | page | release) parts="$parts $1" ;;
	*) usage "unknown word '$1'" ;;
	esac
	shift
done
lib=$root/usr/lib/abupdate
units=$root/usr/lib/systemd/system

put() { # MODE FOLDER FILE...
	mode=$1 folder=$2
	shift 2
	install -D -m "$mode" -t "$folder" "$@"
}

initramfs() {
	put 755 "$lib" "$source/initramfs/abupdate-mount" "$source/initramfs/abupdate-watchdog"
	put 644 "$units" "$source/initramfs/systemd/var.mount"
	put 644 "$root/usr/lib/systemd/system.conf.d" "$source/initramfs/systemd/10-abupdate-watchdog.conf"
	put 644 "$root/usr/lib/modprobe.d" "$source/initramfs/modprobe.d/abupdate-watchdog.conf"
	tools=$root/usr/share/initramfs-tools
	install -D -m 755 "$source/initramfs/initramfs-tools/hook" "$tools/hooks/abupdate"
	for stage in init-top local-bottom; do
		install -D -m 755 "$source/initramfs/initramfs-tools/$stage" "$tools/scripts/$stage/abupdate"
	done
}

programs() {
	put 755 "$lib" "$source/readonly/no-packages" "$source/readonly/host-keys"
	put 644 "$lib/grub" "$source"/grub/*.cfg
	put 644 "$units" "$source"/healthcheck/abupdate-*.* "$source"/readonly/*.service \
		"$source"/installer/abupdate-installer*.* "$source"/rescue/abupdate-rescue*.*
	put 644 "$lib" "$source/rescue/rescue.network"
	for folder in "$source"/healthcheck/*.target.d; do
		put 644 "$units/${folder##*/}" "$folder"/*
	done
	put 755 "$root/usr/lib/systemd/system-generators" "$source/installer/abupdate-installer-generator" \
		"$source/rescue/abupdate-rescue-generator"
	mkdir -p "$lib/required.d" "$lib/wanted.d" "$root/data" "$root/boot/efi"
	chmod 700 "$root/boot/efi"
	wanted
	packages=$root/usr/lib/python3/dist-packages
	rm -rf "$packages/abupdate"
	(cd "$source" && find abupdate -path abupdate/web -prune -o \( -name '*.py' -o -name py.typed \) -print) |
		while read -r file; do
			install -D -m 644 "$source/$file" "$packages/$file"
		done
	mkdir -p "$root/usr/bin"
	cat >"$root/usr/bin/abupdate" <<-END
		#!$python -I
		import sys

		from abupdate.cli.main import main

		sys.exit(main())
	END
	chmod 755 "$root/usr/bin/abupdate"
}

page() {
	put 644 "$units" "$source"/web/*.socket "$source"/web/*.service
	install -D -m 644 "$source/web/abupdate-web.sysusers" "$root/usr/lib/sysusers.d/abupdate-web.conf"
	wanted
	(cd "$source" && find abupdate/web -type f ! -name '*.pyc') | while read -r file; do
		install -D -m 644 "$source/$file" "$root/usr/lib/python3/dist-packages/$file"
	done
}

# Below /usr and not by links in /etc: whatever becomes of that, a trial is judged.
wanted() {
	for unit in "$units"/abupdate-*.*; do
		name=${unit##*/}
		[ "$name" != abupdate-serve.service ] || continue # offers releases to others: the owner's choice
		for kind in Wanted:wants Required:requires; do
			for target in $(sed -n "s/^${kind%:*}By=//p" "$unit"); do
				mkdir -p "$units/$target.${kind#*:}"
				ln -sf "../$name" "$units/$target.${kind#*:}/$name"
			done
		done
	done
}

release() {
	: >"$root/etc/machine-id"
	rm -f "$root"/etc/ssh/ssh_host_* "$root"/vmlinuz* "$root"/initrd.img*
	fstab
	mkdir -p "$root/usr/local/sbin"
	for name in apt apt-get dpkg; do
		ln -sf /usr/lib/abupdate/no-packages "$root/usr/local/sbin/$name"
	done
	# The release owns the packages: nothing on the device may update them.
	mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
	# It is complete as it is: what these would make at the first boot of a release
	# would count as changes that the owner made in /etc.
	mask ldconfig.service systemd-hwdb-update.service systemd-journal-catalog-update.service \
		systemd-sysusers.service systemd-firstboot.service systemd-update-done.service
	# Only abupdate writes GRUB's environment.
	mask grub-common.service
	mask e2scrub_all.timer e2scrub_reap.service fstrim.timer
	# The initramfs has mounted the ESP; no generator may guess at partitions.
	mkdir -p "$root/etc/systemd/system-generators"
	ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-gpt-auto-generator"
	if ! grep -q '^abupdate-store:' "$root/etc/passwd"; then
		chroot "$root" useradd --system --user-group --no-create-home --home-dir /nonexistent \
			--shell /usr/sbin/nologin abupdate-store
	fi
}

# What it mounted where this system was installed is no longer mounted.
fstab() {
	about="# The initramfs mounts everything (/usr/lib/abupdate/abupdate-mount)."
	touch "$root/etc/fstab"
	grep -qxF "$about" "$root/etc/fstab" ||
		sed -i "/^[^#]/s/^/# /; 1i $about" "$root/etc/fstab"
	[ -s "$root/etc/fstab" ] || echo "$about" >"$root/etc/fstab"
}

mask() {
	mkdir -p "$root/etc/systemd/system"
	for unit in "$@"; do
		ln -sf /dev/null "$root/etc/systemd/system/$unit"
	done
}

for part in ${parts:-initramfs programs}; do
	"$part"
done
