"""The verbs of a publisher: `abupdate publish commit`, `sign`, `bundle` and the others.

Each command imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from abupdate.cli.invocation import Json
from abupdate.errors import NoSpaceError, SourceError, UsageError

if TYPE_CHECKING:
    from abupdate.release.version import Version

publish = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Repo = Annotated[Path, typer.Option("--repo", help="Git repository of your releases.")]
Key = Annotated[
    Path, typer.Option("--key", help="Private key, or .pub of a key that an agent holds.")
]
Tagger = Annotated[str, typer.Option(help="Name and address in the tag.")]
VersionText = Annotated[str, typer.Option("--version", help="Such as 7, 1.2.0 or 1.2.0-rc.1.")]

_KEY_NAME = "release"
_TAGGER = "Release <release@localhost>"


@publish.command()
def keygen(
    out: Annotated[Path, typer.Option("--out", help="Folder for the key.")] = Path(),
    name: Annotated[str, typer.Option("--name", help="Who signs with it.")] = _KEY_NAME,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase that protects the key.")
    ] = False,
) -> None:
    """Make a key pair for signing releases.

    Writes NAME (keep it secret), NAME.pub, and adds the signer's line to
    allowed_signers, the file that devices carry:

    \b
        abupdate publish keygen --out keys --name alice@example.org
    """
    from abupdate.signing.signature import generate_key
    from abupdate.signing.signers import check_principal

    check_principal(name)
    if name == "allowed_signers" or name.endswith(".pub"):
        raise UsageError(
            f"The private key would be the file '{name}', which is a name for public files.",
            "Choose another --name.",
        )
    terminal = _terminal(required=True) if passphrase else None
    signers = out / "allowed_signers"
    with _told_files():
        out.mkdir(parents=True, exist_ok=True)
        with signers.open("a+b") as file:  # before the key: none is made that cannot be listed
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            ended = file.read(1) in (b"", b"\n")
            line = generate_key(out / name, name, terminal)
            file.write((f"{line}\n" if ended else f"\n{line}\n").encode())
    print(line)
    _tell(f"The private key is {out / name}; whoever has it can sign releases.")
    _tell(f"Put {signers} into the root filesystem as /usr/lib/abupdate/allowed_signers.")


@publish.command("boot-files")
def boot_files(
    rootfs: Annotated[Path, typer.Argument(help="A directory.")],
    kernel: Annotated[
        str | None, typer.Option(metavar="NAME", help="File in /boot; default: the newest.")
    ] = None,
    initrd: Annotated[
        str | None, typer.Option(metavar="NAME", help="File in /boot; with --kernel.")
    ] = None,
    cmdline: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Kernel arguments; default: as they were.")
    ] = None,
) -> None:
    """Tell GRUB what a root filesystem starts: /boot/abupdate.env and /boot/SHA256SUMS.

    Run it whenever kernel or initrd have changed, before the commit. The kernel is the newest
    vmlinuz-VERSION with an initrd.img-VERSION, unless both are named:

    \b
        abupdate publish boot-files rootfs --cmdline "console=ttyS0 quiet"

    root=, ro and panic= come from grub.cfg.
    """
    from abupdate.publish.bootfiles import write_boot_files

    with _told_files():
        done = write_boot_files(rootfs, kernel, initrd, cmdline)
    print(f"kernel    {done.kernel}")
    print(f"initrd    {done.initrd}")
    print(f"cmdline   {done.cmdline}")


@publish.command()
def commit(
    rootfs: Annotated[
        str,
        typer.Argument(
            help="A directory, a tar file (plain, gzip, bzip2, xz), or - for a tar stream."
        ),
    ],
    repo: Repo,
    version: VersionText,
    compatible: Annotated[str, typer.Option(help="The product that it is made for.")],
    floor: Annotated[
        str | None, typer.Option(help="Lowest version that a device may run from then on.")
    ] = None,
    min_from: Annotated[
        str | None, typer.Option(help="Lowest version that may update to this one.")
    ] = None,
    branch: Annotated[
        str | None,
        typer.Option(help="Also a branch of this name, for devices that take unsigned ones."),
    ] = None,
    fixups_write: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Path that .git-fixups/* may write; may be repeated."),
    ] = None,
) -> None:
    """Make a faithful commit of a root filesystem.

    Owners, modes, times, attributes, links and devices are kept, and the same
    input gives the same commit. SOURCE_DATE_EPOCH dates it, else its newest
    file. The repository is made when it is missing:

    \b
        abupdate publish commit root.tar --repo r.git --version 2 --compatible gw

    The commit waits at refs/abupdate/commits/VERSION until it is signed.
    """
    from abupdate.cli.show import terminal_events
    from abupdate.publish import publisher

    description = publisher.Description(
        version=_version(version),
        compatible=compatible,
        floor=_version(floor) if floor is not None else None,
        min_from=_version(min_from) if min_from is not None else None,
        fixups_write=tuple(fixups_write or ()),
    )
    source = _rootfs(rootfs)
    date = _source_date()
    events = terminal_events()
    with _told_files(), events.step("commit", "Commit the root filesystem"):
        publisher.require_outside(repo, source)
        repository = publisher.open_repository(repo, create=True)
        captured = publisher.commit(repository, source, description, events, date, branch)
    for warning in captured.warnings:
        events.warning(warning)
    if isinstance(source, Path) and source.is_dir() and os.geteuid() != 0:
        events.warning("read as an ordinary user: owners are as they are on this disk")
    print(f"release   {version} for {compatible}")
    print(f"commit    {captured.commit}")
    print(f"manifest  {captured.manifest_sha256}")
    print(f"content   {captured.totals.inodes} inodes, {captured.totals.content} bytes")


@publish.command()
def sign(
    repo: Repo,
    version: VersionText,
    key: Key,
    cosigner: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Add the signature of this further signer instead."),
    ] = None,
    tagger: Tagger = _TAGGER,
) -> None:
    """Sign the commit of a version: this makes it a release.

    Every byte is read once more before. A version is signed once:

    \b
        abupdate publish sign --repo r.git --version 2 --key keys/release

    Where devices ask for several signers (trust.min_signers), the others add theirs, each
    under the name that devices list:

    \b
        abupdate publish sign --repo r.git --version 2 --key bob --cosigner bob@example.org
    """
    from abupdate.publish import publisher

    repository = publisher.open_repository(repo)
    if cosigner is not None:
        tag = publisher.cosign_release(
            repository, _version(version), key, cosigner, tagger=tagger, terminal=_terminal()
        )
    else:
        tag = publisher.sign_release(
            repository, _version(version), key, tagger=tagger, terminal=_terminal()
        )
    print(f"release   {version}")
    print(f"tag       {tag}")


@publish.command()
def promote(
    repo: Repo,
    version: VersionText,
    channel: Annotated[str, typer.Option(help="Channel that devices follow, such as stable.")],
    key: Key,
    days: Annotated[
        int, typer.Option(min=1, max=3660, help="How long devices take it for news.")
    ] = 90,
    tagger: Tagger = _TAGGER,
) -> None:
    """Make a signed release the one of a channel.

    Devices follow it with `abupdate install REMOTE#channel/NAME`. Promote again, the same
    release if there is no other, before the days are over: devices warn of a stale channel,
    since somebody may keep newer releases from them.

    \b
        abupdate publish promote --repo r.git --channel stable --version 2 --key keys/release
    """
    from abupdate.publish import channels, publisher

    made = channels.promote(
        publisher.open_repository(repo), channel, _version(version), key,
        int(time.time()) + days * 86400, tagger=tagger, terminal=_terminal(),
    )  # fmt: skip
    print(f"channel   {made.name}, sequence {made.sequence}")
    print(f"release   {made.release} for {made.compatible}")
    print(f"valid     until {_day(made.valid_until)}")


@publish.command()
def bundle(
    repo: Repo,
    version: VersionText,
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write.")],
    since: Annotated[
        list[str] | None,
        typer.Option(
            "--since",
            "--from",
            help="Make a delta for devices that have this release; may be repeated.",
        ),
    ] = None,
    in_zstd: Annotated[
        bool, typer.Option("--zstd", help="Compress it as a whole: a fifth smaller.")
    ] = False,
) -> None:
    """Write a signed release into one file, a plain git bundle.

    Without --since it brings everything; a delta brings what the older release lacks:

    \b
        abupdate publish bundle --repo r.git --version 2 --since 1 -o gw-2.bundle

    With --zstd the file is smaller, and devices take it as they take others; for git it is
    unpacked with `zstd -d` first.
    """
    from abupdate.bundle.write import create
    from abupdate.publish import publisher
    from abupdate.update.job import signals_raise

    repository = publisher.open_repository(repo)
    older = [_version(text) for text in since or []]
    with _told_files(), signals_raise():
        header = create(repository, _version(version), older, output, in_zstd=in_zstd)
    print(f"bundle    {output}, {output.stat().st_size} bytes")
    print(f"release   {version}, tag {header.tag_oid}")
    for oid, comment in header.prerequisites:
        print(f"needs     {comment}, commit {oid}")


@publish.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle to check.")],
    allowed_signers: Annotated[
        list[Path], typer.Option(help="File with the signers that devices believe; repeatable.")
    ],
    revoked: Annotated[
        list[Path] | None, typer.Option(help="File with revoked keys; repeatable.")
    ] = None,
    repo: Annotated[
        Path | None, typer.Option(help="For a delta: repository with the older releases.")
    ] = None,
) -> None:
    """Check a bundle as a device does: signature, shape, and every byte.

    abupdate publish verify gw-2.bundle --allowed-signers keys/allowed_signers
    """
    from abupdate.cli.show import terminal_events
    from abupdate.publish import publisher
    from abupdate.signing.signature import TrustFiles

    trust = TrustFiles(tuple(allowed_signers), tuple(revoked or ()))
    base = publisher.open_repository(repo) if repo else None
    found = publisher.check_bundle(file, trust, base, terminal_events())
    print(f"release   {found.verified.version} for {found.verified.compatible}")
    print(f"signer    {found.verified.signers}, {found.verified.fingerprint}")
    print(f"signed    {_day(found.verified.tagger_time)}")
    print(f"commit    {found.verified.commit}")
    print(f"manifest  {found.verified.manifest_sha256}")
    print(f"content   {found.files} files, {found.bytes} bytes")
    if found.needs:
        print(f"needs     {', '.join(found.needs)}")


@publish.command()
def log(repo: Repo) -> None:
    """List the releases of a repository, the highest version first, and its channels.

    \b
        abupdate publish log --repo r.git

    It tells which key signed each, and does not verify the signatures.
    """
    from abupdate.publish import channels, publisher

    repository = publisher.open_repository(repo)
    for listed in publisher.releases(repository):
        if listed.tag is None:
            print(f"{listed.version!s:<16} {listed.commit[:12]}  not signed")
            continue
        key = listed.tag.signature.fingerprint
        day = _day(listed.tag.tagger_time)
        more = f" and {', '.join(listed.cosigners)}" if listed.cosigners else ""
        print(
            f"{listed.version!s:<16} {listed.commit[:12]}  {day}  {listed.tag.compatible}  "
            f"{key}{more}"
        )
    for one in channels.all_of(repository):
        print(
            f"channel {one.name:<8} release {one.release}, sequence {one.sequence}, "
            f"valid until {_day(one.valid_until)}"
        )


@publish.command()
def diff(
    repo: Repo,
    old: Annotated[str, typer.Argument(help="Version of the older release.")],
    new: Annotated[str, typer.Argument(help="Version of the newer one.")],
    full: Annotated[
        bool, typer.Option("--full", help="Every path, and not the first ones.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What an update would bring: packages, files, and bytes to fetch and to write.

    \b
        abupdate publish diff 1 2 --repo r.git

    The releases may be unsigned still. Marks: + added, - removed, ~ other
    content, : other owner, mode, time or attributes.
    """
    from abupdate.cli.show import printable
    from abupdate.cli.show_difference import difference_text
    from abupdate.publish import difference, publisher

    repository = publisher.open_repository(repo)
    found = difference.difference(repository, _version(old), _version(new))
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        print(printable(difference_text(found, full=full)))


@contextmanager
def _told_files() -> Iterator[None]:
    """A file that cannot be read or written is the user's to correct, not a bug."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        where = f"{error.filename}: {error.strerror}."
        if error.errno == errno.ENOSPC:
            raise NoSpaceError(where, "Free space on that disk.") from error
        raise UsageError(where, "Is the path right, and may you write there?") from error


def _version(text: str) -> Version:
    from abupdate.release.version import Version

    return Version(text)


def _rootfs(text: str) -> Path | IO[bytes]:
    if text == "-":
        return sys.stdin.buffer
    path = Path(text)
    if not text or not path.exists():
        raise SourceError(
            f"A root filesystem was expected at {text!r}, there is nothing.",
            "Give a directory, a tar file, or - for a tar on standard input.",
        )
    return path


def _source_date() -> int | None:
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 11:
        raise UsageError(f"SOURCE_DATE_EPOCH must be seconds since 1970, found {text!r}.")
    return int(text)


def _terminal(*, required: bool = False) -> IO[bytes] | None:
    """Standard input, where a person can be asked for a passphrase."""
    if sys.stdin is not None and sys.stdin.isatty():
        return sys.stdin.buffer
    if required:
        raise UsageError("A passphrase is asked for on a terminal, and standard input is none.")
    return None


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
