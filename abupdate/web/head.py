"""What is wrong with a request before its body is read: pure rules, in their order."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from starlette.types import Scope

from abupdate.web.limits import FIELDS, HEAD, TARGET
from abupdate.web.problem import RefusalError

SAFE = frozenset({"GET", "HEAD"})
METHODS = SAFE | {"POST", "PUT", "DELETE"}
_PORTS = {"http": ":80", "https": ":443"}

Headers = Mapping[bytes, Sequence[bytes]]


def headers_of(scope: Scope) -> Headers:
    """The headers by name in small letters, each with all of its values."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


def check_shape(scope: Scope, headers: Headers) -> None:
    """Raise `RefusalError` for a request that no browser or script in its right mind sends."""
    if scope["method"] not in METHODS:
        allowed = ", ".join(sorted(METHODS))
        raise RefusalError(405, f"{allowed} are known here.", headers={"Allow": allowed})
    if len(scope["headers"]) > FIELDS:
        raise RefusalError(431, f"At most {FIELDS} headers were expected.")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD:
        raise RefusalError(431, f"Headers of at most {HEAD} bytes were expected.")
    raw = scope.get("raw_path") or scope["path"].encode()
    if len(raw) + len(scope.get("query_string", b"")) > TARGET:
        raise RefusalError(414, f"An address of at most {TARGET} bytes was expected.")
    path: str = scope["path"]
    odd = not path.startswith("/") or "\\" in path or "//" in path or not path.isprintable()
    if odd or {".", ".."} & set(path.split("/")) or "\ufffd" in path:
        raise RefusalError(400, "A plain path was expected.")
    for single in (b"host", b"content-length", b"content-type", b"authorization", b"origin",
                   b"upload-offset", b"content-range", b"transfer-encoding"):  # fmt: skip
        if len(headers.get(single, ())) > 1:
            raise RefusalError(400, f"One {single.decode()} was expected, there are more.")
    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise RefusalError(
            400, "Content-Length and Transfer-Encoding exclude each other.",
            headers={"Connection": "close"},  # where its end is, is not known for sure
        )  # fmt: skip


def check_host(headers: Headers, names: Collection[str]) -> str:
    """The Host that was asked for. Raises `RefusalError` (421) when this device has no such name.

    Addresses are fine: to make a browser send one, somebody must have it (DNS rebinding needs a
    name).
    """
    host = headers.get(b"host", [b""])[0].decode("latin-1").lower()
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+?)\.?(:[0-9]{1,5})?", host)
    if found is not None:
        name = found[1]
        own = os.uname().nodename.lower()
        known = {"localhost", own, f"{own}.local", *(each.lower() for each in names)}
        if name in known or _is_address(name):
            return host
    raise RefusalError(
        421,
        "This device is not known by the name that was asked for.",
        "Use its address, or add the name to [web] hosts.",
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def check_origin(headers: Headers, host: str, scheme: str, must_be_told: bool) -> None:
    """Raise `RefusalError` (403) for a request that another site made a browser send.

    `must_be_told`: it has a cookie, so it is a browser, and browsers say where they come from.
    """
    site = headers.get(b"sec-fetch-site", [b""])[0]
    origin = headers.get(b"origin", [b""])[0].decode("latin-1").lower()
    if site in (b"cross-site", b"same-site") or (origin and not _same(origin, host, scheme)):
        raise RefusalError(403, "Another site asked for this.", "Do it on this device's own page.")
    if must_be_told and not origin and site != b"same-origin":
        raise RefusalError(
            403, "A browser says where a request comes from (Origin), this one did not.",
            "Scripts use a token: `abupdate web token add NAME`.",
        )  # fmt: skip


def _same(origin: str, host: str, scheme: str) -> bool:
    """Without TLS of our own, a proxy in front may still speak it; with it, nobody lacks it."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    port = _PORTS.get(parts.scheme)
    if port is None or (scheme == "https" and parts.scheme != "https"):
        return False
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return False
    return parts.netloc.removesuffix(port) == host.removesuffix(port)
