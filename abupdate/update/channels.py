"""The channels that this device has followed: the newest tag of each, kept on data.

A sequence never falls here, so that an old tag cannot be played back. A tag that is past
its date is stale: told in every status, and no more than that, for a device whose publisher
has gone must go on.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from abupdate.errors import BehindError, DeviceFaultError, RefusedError
from abupdate.paths import Paths
from abupdate.release.channel import ChannelTag
from abupdate.release.tag import LAST_SECOND
from abupdate.signing.keys import revoked_among
from abupdate.signing.signers import Signer, TrustFiles, parse_signer
from abupdate.update import trust
from abupdate.update.records import replace_file

_MAX_FILE = 256 * 1024


@dataclass(frozen=True)
class Followed:
    """A channel as it was last seen. `valid_until`, `seen`: seconds since the epoch.

    `digest`: of the tag's signed text. `signer`: who signed it, as a line of allowed_signers.
    """

    name: str
    release: str
    sequence: int
    valid_until: int
    digest: str
    seen: int
    signer: str = ""

    def is_sound(self) -> bool:
        """Whether its fields are what they should be, as they came from the disk."""
        texts = (self.name, self.release, self.digest, self.signer)
        numbers = (self.sequence, self.valid_until, self.seen)
        return (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int) for number in numbers)
            and self.valid_until <= LAST_SECOND
        )


def followed(paths: Paths) -> dict[str, Followed]:
    """All of them by name. Raises `DeviceFaultError` where they cannot be read."""
    path = _path(paths)
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _rotten(path, error.strerror or str(error)) from error
    try:
        found = {name: Followed(name=name, **fields) for name, fields in json.loads(raw).items()}
        if not all(one.is_sound() for one in found.values()):
            raise ValueError
        return found
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _rotten(path, f"{raw[:80]!r}") from error


def check(paths: Paths, channel: ChannelTag, product: str, trusted: TrustFiles) -> None:
    """Refuse a channel's tag for another product, or one older than was seen here.

    What a key said that has been revoked since does not count: its thief may have used up
    the sequence.

    Raises `RefusedError`, `BehindError`.
    """
    if channel.compatible != product:
        raise RefusedError(
            f"This device takes releases for '{product}', and channel {channel.name} is for "
            f"'{channel.compatible}'.",
            "Follow the channel of this product, or correct device.compatible in config.toml.",
        )
    seen = followed(paths).get(channel.name)
    if seen is None or seen.sequence < channel.sequence or _is_disowned(seen, trusted):
        return
    if seen.sequence > channel.sequence:
        raise BehindError(
            f"Channel {channel.name} has sequence {channel.sequence} (release {channel.release}), "
            f"and {seen.sequence} (release {seen.release}) was seen here before.",
            "The source is behind, or somebody plays an old one back; ask another source.",
        )
    if seen.digest != _digest(channel):
        raise BehindError(
            f"Channel {channel.name} has two tags of sequence {channel.sequence}: for release "
            f"{channel.release}, and another for {seen.release} that was seen here before.",
            "Its publisher promotes in one repository only; promote once more there.",
        )


def remember(paths: Paths, channel: ChannelTag, signer: Signer, trusted: TrustFiles) -> None:
    """Keep the newest tag of a channel that was believed; on the disk when this returns."""
    known = followed(paths)
    before = known.get(channel.name)
    newer = before is None or before.sequence < channel.sequence
    if before is not None and not newer and not _is_disowned(before, trusted):
        return
    known[channel.name] = Followed(
        channel.name,
        str(channel.release),
        channel.sequence,
        channel.valid_until,
        _digest(channel),
        int(time.time()),
        signer.line().strip(),
    )
    fields = {name: asdict(one) for name, one in sorted(known.items())}
    for one in fields.values():
        del one["name"]
    replace_file(_path(paths), json.dumps(fields, indent=1).encode() + b"\n")


def _is_disowned(seen: Followed, trusted: TrustFiles) -> bool:
    """Whether the key that it was signed with is revoked."""
    if not seen.signer:
        return False
    signer = parse_signer(seen.signer, f"channel {seen.name}")
    return any(revoked_among([signer], path) for path in trusted.revoked)


def is_stale(paths: Paths, valid_until: int) -> bool:
    """Whether a tag's date is past: by this clock, or by the newest signature seen here."""
    return valid_until < max(time.time(), trust.not_before(paths))


def stale_text(one: Followed) -> str:
    """What people are told of a channel past its date."""
    day = time.strftime("%Y-%m-%d", time.gmtime(one.valid_until))
    return (
        f"Channel {one.name} was to be trusted as news until {day}, and nothing newer was seen: "
        "its publisher is late, or somebody keeps newer releases away."
    )


def _digest(channel: ChannelTag) -> str:
    return hashlib.sha256(channel.payload).hexdigest()


def _path(paths: Paths) -> Path:
    return paths.state / "trust" / "channels"


def _rotten(path: Path, found: str) -> DeviceFaultError:
    return DeviceFaultError(
        f"{path} should hold the channels that this device has followed, found {found}.",
        "Without it nothing tells whether a channel's tag is an old one. Where you trust what you "
        "install, remove the file.",
    )
