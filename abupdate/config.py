"""Settings: config.toml files and the kernel command line, typed and explained.

Precedence, lowest first: the vendor's file in the slot, the owner's in
/etc/abupdate, its `config.d/*.toml` in order of name, the kernel command line
(`abupdate.SECTION.KEY=VALUE`, value in TOML or a bare word). An unknown key is
an error that names the nearest known one. Every value remembers its origin.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from abupdate.errors import UsageError
from abupdate.paths import Paths


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DeviceSection(_Section):
    """[device]: what this machine is."""

    compatible: str = Field(default="", description="Product that releases must be made for.")


class BootSection(_Section):
    """[boot]: how often GRUB tries."""

    tries: int = Field(default=3, ge=1, le=9, description="Boots that a trial gets.")
    limit: int = Field(
        default=8,
        ge=0,
        le=9,
        description="Boots that a confirmed slot gets without one healthy boot; 0 = no limit.",
    )


class ConfirmSection(_Section):
    """[confirm]: who confirms, and until when."""

    mode: Literal["auto", "manual"] = Field(
        default="auto", description="auto: the health check confirms; manual: a person."
    )
    settle: float = Field(
        default=10.0,
        ge=0,
        le=86400,
        description="Seconds for which a trial must stay healthy before it is confirmed.",
    )
    deadline: float | None = Field(
        default=None,
        ge=60,
        le=31 * 86400,
        description="Seconds after which a trial that nobody judged reboots; "
        "default: 15 minutes, in manual mode a day.",
    )

    @property
    def deadline_seconds(self) -> float:
        """The deadline, counted from the start of the kernel."""
        if self.deadline is not None:
            return self.deadline
        return 900.0 if self.mode == "auto" else 86400.0


class HealthSection(_Section):
    """[health]: the checks after a boot."""

    timeout: float = Field(
        default=60.0, ge=0.1, le=86400, description="Seconds that one check may take."
    )
    wait: float = Field(
        default=30.0,
        ge=0,
        le=86400,
        description="Seconds that a failing check gets to become healthy, from the first look.",
    )
    interval: float = Field(
        default=5.0, ge=0.1, le=3600, description="Seconds from one look to the next."
    )
    wanted: tuple[str, ...] = Field(
        default=("failed-units", "space", "clock"),
        description="Checks of this section that are told and no more, when they fail.",
    )
    off: tuple[str, ...] = Field(default=(), description="Checks that are not run at all.")
    may_fail: tuple[str, ...] = Field(
        default=(), description="failed-units: units (or patterns) that may have failed."
    )
    units: tuple[str, ...] = Field(default=(), description="units: these must be active.")
    containers: tuple[str, ...] = Field(
        default=(), description="containers: podman's, which must run and be healthy."
    )
    commands: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default={}, description="Name → program and arguments; exit code 0 is healthy."
    )
    http: tuple[str, ...] = Field(
        default=(), description="http: addresses that must answer with 200 to 399."
    )
    route: bool = Field(default=False, description="route: there must be a default route.")
    dns: tuple[str, ...] = Field(default=(), description="dns: names that must resolve.")
    free_bytes: dict[str, int] = Field(
        default={"/data": 64 << 20}, description="space: bytes that must be free, by folder."
    )
    free_inodes: dict[str, int] = Field(
        default={"/data": 1000}, description="space: inodes that must be free, by folder."
    )


class TrustSection(_Section):
    """[trust]: what a release must be."""

    min_signers: int = Field(default=1, ge=1, le=9, description="Signers that a release must have.")
    allow_devices: bool = Field(
        default=True, description="Whether a release may have device nodes; false refuses it."
    )


class InstallSection(_Section):
    """[install]: how a release gets into a slot."""

    verify: Literal["written", "full"] = Field(
        default="written",
        description="What is read back from the disk: what was written, or the full slot.",
    )


class HooksSection(_Section):
    """[hooks]: what a release and the owner run during an install."""

    timeout: float = Field(
        default=300.0,
        ge=0.1,
        le=86400,
        description="Seconds that one fixup, or one hook before or after, may take.",
    )


class EtcSection(_Section):
    """[etc]: what the owner changed in /etc, when a release brings another."""

    policy: dict[str, Literal["merge", "mine", "theirs", "drop"]] = Field(
        default={},
        description="Pattern of paths below /etc → what is done about a change; see docs/etc.md.",
    )


def _folder(path: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._@+-]+)+", path) or {".", ".."} & set(path.split("/")):
        raise ValueError("a plain path from / is expected")
    return path


def _apart(folders: tuple[str, ...]) -> tuple[str, ...]:
    for one in folders:
        for other in folders:
            if one.startswith(f"{other}/"):
                raise ValueError(f"{one} lies in {other}, which is there as a whole")
    return folders


_Folder = Annotated[str, AfterValidator(_folder)]


class StateSection(_Section):
    """[state]: what lives on data. The initramfs reads it, in the release's config.toml alone."""

    bind: Annotated[tuple[_Folder, ...], AfterValidator(_apart)] = Field(
        default=("/var", "/home", "/root"),
        description="Folders that live on data, filled from the release at the first boot.",
    )
    release: tuple[_Folder, ...] = Field(
        default=("/var/lib/dpkg", "/var/lib/opkg", "/var/lib/rpm"),
        description="Folders in those that are the release's all the same.",
    )
    volatile: tuple[_Folder, ...] = Field(
        default=(), description="Folders in memory, empty at each boot."
    )
    snapshot: tuple[_Folder, ...] = Field(
        default=(),
        description="Files and folders that a fallback finds as they were before the trial.",
    )


class SourceSection(_Section):
    """[source]: how releases are fetched."""

    unsigned_branches: tuple[str, ...] = Field(
        default=(),
        description="Branches of git remotes that are taken WITHOUT a signature; "
        "for development only, every status says so.",
    )
    retries: int = Field(
        default=5,
        ge=0,
        le=1000,
        description="How often one that broke off is asked for again before a byte more has come.",
    )
    stall: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="Seconds after which a server that sends next to nothing is given up.",
    )
    rate_limit: int = Field(
        default=0, ge=0, description="Bytes a second that are fetched at most; 0 = no limit."
    )
    ssh_key: str = Field(
        default="/etc/abupdate/ssh_key",
        description="Private key for git over ssh, where it is there; the store's user reads it.",
    )
    known_hosts: str = Field(
        default="/etc/abupdate/known_hosts",
        description="Host keys for git over ssh; without that file any host is asked.",
    )
    proxy: str = Field(default="", description="Proxy, such as http://host:3128; none by default.")


class RescueSection(_Section):
    """[rescue]: what the rescue system does by itself."""

    retry: float = Field(
        default=1800.0,
        ge=0,
        le=31 * 86400,
        description="Seconds after which rescue tries a confirmed slot again; 0 = never.",
    )
    repair: bool = Field(
        default=True,
        description="Whether rescue mends what is safe to mend as soon as it is up.",
    )


class StoreSection(_Section):
    """[store]: the git repository on data."""

    max_bundle: int = Field(
        default=8 << 30, gt=0, description="Bytes that a bundle may have at most."
    )
    keep: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Releases that `store prune` keeps besides those of the slots, newest first.",
    )


class WebTls(_Section):
    """[web.tls]: a certificate of the owner's."""

    cert: str = Field(description="File with the certificate and what leads to its root (PEM).")
    key: str = Field(description="File with its key (PEM), which abupdate-web can read.")


def _listen(address: str) -> str:
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]*):[0-9]{1,5}", address):
        raise ValueError("HOST:PORT is expected, such as 0.0.0.0:8080 or [::]:8080")
    if int(address.rpartition(":")[2]) > 65535:
        raise ValueError("a port is a number up to 65535")
    return address


class WebSection(_Section):
    """[web]: the page."""

    listen: Annotated[str, AfterValidator(_listen)] = Field(
        default="127.0.0.1:8080",
        description="Address and port, where no abupdate-web.socket hands them over.",
    )
    tls: Literal["off", "self"] | WebTls = Field(
        default="off", description='"self": a certificate that it makes for itself.'
    )
    read_only: bool = Field(default=False, description="Show everything, change nothing.")
    max_upload: int = Field(
        default=4 << 30, gt=0, description="Bytes that an upload may have at most."
    )
    hosts: tuple[str, ...] = Field(
        default=(), description="Names that this device is called by, beside its own and addresses."
    )


class Settings(_Section):
    """All of config.toml."""

    device: DeviceSection = DeviceSection()
    boot: BootSection = BootSection()
    confirm: ConfirmSection = ConfirmSection()
    health: HealthSection = HealthSection()
    trust: TrustSection = TrustSection()
    install: InstallSection = InstallSection()
    hooks: HooksSection = HooksSection()
    etc: EtcSection = EtcSection()
    state: StateSection = StateSection()
    source: SourceSection = SourceSection()
    store: StoreSection = StoreSection()
    rescue: RescueSection = RescueSection()
    web: WebSection = WebSection()


@dataclass(frozen=True)
class Loaded:
    """Settings with the origin of each value: `section.key` → file or source."""

    settings: Settings
    origins: dict[str, str] = field(default_factory=dict)


def load(paths: Paths) -> Loaded:
    """Read all sources in their order. Raises `UsageError`."""
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for path in paths.config_files():
        found = _read(path)
        _merge(values, origins, found, str(path))
        _check_state(str(path), found, path == paths.vendor / "config.toml")
    if paths.cmdline.is_file():
        words = paths.cmdline.read_text(errors="replace").split()
        found = _from_cmdline(words)
        _merge(values, origins, found, "kernel command line")
        _check_state("kernel command line", found, False)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        origin = origins.get(where, "the configuration")
        raise UsageError(
            f"{origin}: {where}: {first['msg']}, found {first['input']!r}.",
            "`abupdate config show --origin` lists what is known.",
        ) from error
    patience, deadline = settings.health.wait + settings.confirm.settle, settings.confirm
    if patience >= deadline.deadline_seconds:
        raise UsageError(
            f"health.wait and confirm.settle are {patience:g} seconds together, and a trial must "
            f"be judged within {deadline.deadline_seconds:g}: each would end without a verdict.",
            "Raise confirm.deadline, or lower one of the two.",
        )
    return Loaded(settings, origins)


def _check_state(origin: str, found: dict[str, Any], vendor: bool) -> None:
    """[state] must be what a shell without a TOML parser can read (`initramfs/abupdate-mount`)."""
    if "state" not in found:
        return
    if not vendor:
        raise UsageError(
            f"{origin}: [state] is read before /etc is there, in the release's config.toml alone.",
            "Have it in the next release's /usr/lib/abupdate/config.toml.",
        )
    shell = _as_the_shell_reads(Path(origin).read_text(encoding="utf-8"))
    different = [key for key, value in found["state"].items() if shell.get(key) != value]
    if different or set(shell) - set(found["state"]):
        raise UsageError(
            f"{origin}: [state] {', '.join(different)} should be a list in one line that begins "
            'with its name, such as bind = ["/var", "/home"], for the initramfs to read it.'
        )


def _as_the_shell_reads(text: str) -> dict[str, list[str]]:
    """What `listed` of `initramfs/abupdate-mount` finds, for each key that it asks for."""
    section, found = "", {}
    keys = "|".join(StateSection.model_fields)
    for line in text.split("\n"):
        if line.startswith("["):
            section = line.partition("]")[0]
        elif section == "[state" and (line_of := re.match(rf"({keys})[ =].*?\[(.*?)\]", line)):
            found[line_of[1]] = [word for word in re.split("[ \t,\"']", line_of[2]) if word]
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: not a readable TOML file: {error}.") from error


def _from_cmdline(words: Iterable[str]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        parts = name.split(".")
        if not equals or len(parts) != 3 or parts[0] != "abupdate":
            continue
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text
        found.setdefault(parts[1], {})[parts[2]] = value
    return found


def _merge(
    values: dict[str, dict[str, Any]], origins: dict[str, str], new: dict[str, Any], origin: str
) -> None:
    for section, content in new.items():
        model = _section_model(section, origin)
        if not isinstance(content, dict):
            raise UsageError(f"{origin}: [{section}] must be a table, found {content!r}.")
        for key, value in content.items():
            if key not in model.model_fields:
                raise _unknown(f"{section}.{key}", key, model.model_fields, origin)
            values.setdefault(section, {})[key] = value
            origins[f"{section}.{key}"] = origin


def _section_model(section: str, origin: str) -> type[BaseModel]:
    known = Settings.model_fields
    if section not in known:
        raise _unknown(f"[{section}]", section, known, origin)
    model = known[section].annotation
    assert isinstance(model, type) and issubclass(model, BaseModel)
    return model


def _unknown(name: str, key: str, known: Iterable[str], origin: str) -> UsageError:
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(names)}."
    return UsageError(f"{origin}: unknown setting {name}.", hint)
