"""`abupdate provision`: the first install of a disk."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abupdate.cli.invocation import Json, machine_of, settings_of
from abupdate.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from abupdate.provision.grub import Signed
    from abupdate.provision.prepare import Prepared

_SHIM = Path("/usr/lib/shim/shimx64.efi.signed")
_GRUB = Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")


def provision(
    context: typer.Context,
    disk: Annotated[
        Path,
        typer.Argument(
            metavar="DISK", help="A whole disk, such as /dev/sda, or a plain file for an image."
        ),
    ],
    release: Annotated[
        str,
        typer.Argument(
            metavar="RELEASE", help="A bundle file, -, http(s)://…, REMOTE#REF or release/VERSION."
        ),
    ],
    erase: Annotated[
        str | None,
        typer.Option(metavar="SERIAL", help="The disk with this serial (or model) may be lost."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A partition that stays, by name or number; repeat it."),
    ] = None,
    layout: Annotated[
        Path | None, typer.Option(help="Partitions and sizes; docs/provision.md has the format.")
    ] = None,
    signers: Annotated[
        Path | None, typer.Option(help="allowed_signers to believe, instead of this machine's.")
    ] = None,
    compatible: Annotated[
        str | None, typer.Option(help="The product that the release must be for.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Make DISK, a plain file, of that size: 8GiB.")
    ] = None,
    sector: Annotated[
        int, typer.Option(help="Bytes of a sector of a plain file: 512 or 4096.")
    ] = 512,
    seed: Annotated[
        str | None, typer.Option(help="For a plain file: the same image for the same seed.")
    ] = None,
    luks_key: Annotated[
        Path | None, typer.Option(help="Encrypt data (LUKS2), or open a kept one, with this file.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Its content goes to the device's /data/state."),
    ] = None,
    installer: Annotated[
        bool,
        typer.Option("--installer", help="Make a stick that offers to install, in the layout."),
    ] = False,
    rescue: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="A rescue system for its partition, as RELEASE."),
    ] = None,
    page_code: Annotated[
        bool, typer.Option("--page-code", help="Print a code for the first password of its page.")
    ] = False,
    secure_boot: Annotated[
        bool, typer.Option("--secure-boot", help="Start with this machine's signed shim and GRUB.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, write nothing.")
    ] = False,
    as_json: Json = False,
    progress_fd: Annotated[
        int | None, typer.Option(help="File descriptor for progress as JSON lines.")
    ] = None,
) -> None:
    """Make a disk into a device: partitions, GRUB, a release in slot A.

    Everything on the disk is lost, apart from what --keep names. It is shown first, and its
    serial number must be typed, or given with --erase:

    \b
        abupdate provision /dev/sda gateway-1.bundle --signers allowed_signers
        abupdate provision gateway.img gateway-1.bundle --signers allowed_signers --size 8GiB

    A run that was interrupted is started over by the next one. With --installer, DISK becomes
    a stick that offers the same on the console of the machine that is started from it.
    """
    from abupdate.cli.show import printable, terminal_events
    from abupdate.cli.show_provision import plan_text
    from abupdate.provision.layout import DEFAULT, read_layout
    from abupdate.provision.prepare import prepared
    from abupdate.provision.wishes import Wishes
    from abupdate.source.name import parse_source
    from abupdate.web.auth import make_code

    code, kept = make_code()
    wishes = Wishes(
        layout=DEFAULT if layout is None else read_layout(layout),
        size=None if size is None else _bytes(size),
        sector=sector,
        keep=tuple(keep or ()),
        seed=seed,
        signers=signers,
        compatible=compatible,
        signed=_signed() if secure_boot else None,
        installer=installer,
        luks_key=luks_key,
        state=state,
        page_code=json.dumps(kept).encode() if page_code else None,
        rescue=None if rescue is None else parse_source(rescue),
        erase=erase,
        asked_later=dry_run or sys.stdin.isatty(),
    )
    source, events = parse_source(release), terminal_events(progress_fd)
    machine, settings = machine_of(context), settings_of(context)
    with prepared(machine, disk, source, settings, wishes, events) as ready:
        told = asdict(ready.plan)
        if not as_json:
            print(printable(plan_text(ready.plan)), flush=True)
        if dry_run:
            if as_json:
                print(json.dumps(told, indent=2))
            else:
                print("Nothing was written.")
            return
        if erase is None:
            _ask(ready)
        done = ready.write()
    if as_json:
        made = {"page_code": code} if page_code else {}
        print(json.dumps({"plan": told, "done": asdict(done), **made}, indent=2))
    else:
        print(f"Release {done.release} is on {done.disk}, in slot A; it boots from the next start.")
        if page_code:
            print(f"Code for the first password of its page: {code}")


def _ask(ready: Prepared) -> None:
    from abupdate.cli.show import printable
    from abupdate.provision import permission

    drive = ready.work.drive
    if not permission.must_be_given(drive):
        return
    print(f"Everything on {drive.path} that is not kept is lost.", file=sys.stderr)
    print(printable(f"Type {ready.plan.confirm} to go on: "), end="", file=sys.stderr, flush=True)
    permission.check(drive, sys.stdin.readline())


def _bytes(text: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise UsageError(f"--size {text}: a size such as 8GiB was expected.") from error


def _signed() -> Signed:
    from abupdate.provision.grub import Signed

    for path in (_SHIM, _GRUB):
        if not path.is_file():
            raise RefusedError(
                f"--secure-boot takes {path}, and it is not there.",
                "In Debian: apt install shim-signed grub-efi-amd64-signed",
            )
    return Signed(_SHIM, _GRUB)
