#!/bin/sh
# Puts abupdate into a root filesystem, as its packages would: the Python package, the command,
# units, initramfs scripts, GRUB's configuration.
#
# Usage: install.sh ROOT [--python PYTHON] [initramfs|programs]
#
# ROOT: a root filesystem of Debian 12 or newer with systemd, or an empty folder that becomes a
# package. With --python, the command runs with that interpreter, which finds abupdate and what
# it needs by itself (a virtual environment); without, abupdate goes to Debian's dist-packages.
# `initramfs` installs the initramfs scripts alone, `programs` all else.

set -eu
source=$(dirname "$(readlink -f "$0")")
root=${1:?usage: install.sh ROOT [--python PYTHON] [initramfs|programs]}
shift
python='' parts='initramfs programs'
while [ $# -gt 0 ]; do
	case $1 in
	--python) python=$2 && shift ;;
	initramfs | programs) parts=$1 ;;
	*) echo "install.sh: unknown word '$1'" >&2 && exit 2 ;;
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
		"$source/installer/abupdate-installer.target" "$source/installer/abupdate-installer@.service"
	for folder in "$source"/healthcheck/*.target.d; do
		put 644 "$units/${folder##*/}" "$folder"/*
	done
	put 755 "$root/usr/lib/systemd/system-generators" "$source/installer/abupdate-installer-generator"
	mkdir -p "$lib/required.d" "$lib/wanted.d" "$root/data" "$root/boot/efi"
	chmod 700 "$root/boot/efi"
	# Below /usr and not by links in /etc: whatever becomes of that, a trial is judged.
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
	interpreter=${python:-/usr/bin/python3}
	if [ -z "$python" ]; then
		packages=$root/usr/lib/python3/dist-packages/abupdate
		rm -rf "$packages"
		(cd "$source" && find abupdate -name '*.py' -o -name py.typed) | while read -r file; do
			install -D -m 644 "$source/$file" "${packages%/abupdate}/$file"
		done
	fi
	mkdir -p "$root/usr/bin"
	cat >"$root/usr/bin/abupdate" <<-END
		#!$interpreter -I
		import sys

		from abupdate.cli.main import main

		sys.exit(main())
	END
	chmod 755 "$root/usr/bin/abupdate"
}

for part in $parts; do
	$part
done
