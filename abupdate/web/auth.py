"""Who may: the password, the one-time code that sets the first one, and tokens for scripts.

None of them is kept, only what they can be compared with: the password by scrypt (it is guessable),
code and tokens by SHA-256 (they are random). The files are the server's (0600); root's command
writes them for it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abupdate.errors import NothingToDoError, UsageError
from abupdate.web.files import read_json, write_json

SHORTEST, LONGEST = 10, 1024  # characters of a password
_CODE_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # none that look alike
# 16 MiB and a quarter of a second on a small machine: what OWASP asks for.
COST = {"n": 1 << 14, "r": 8, "p": 5}


@dataclass(frozen=True)
class Who:
    """Who asks: the owner by a session, or a script by the name of its token."""

    name: str
    read_only: bool = False


def make_code() -> tuple[str, dict[str, Any]]:
    """A code as a person types it, and what the file `code` of the server's folder holds of it."""
    letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(12))
    shown = "-".join((letters[:4], letters[4:8], letters[8:]))
    return shown, {"sha256": _sha256(letters), "made": time.time()}


class Passwords:
    """The password, and the code that lets one be set."""

    def __init__(self, state: Path, cost: dict[str, int] | None = None) -> None:
        self._path, self._code = state / "password", state / "code"
        self._cost = cost or COST
        self._one = asyncio.Lock()  # a login costs memory and time: one after the other

    def is_set(self) -> bool:
        """Whether somebody can log in."""
        return self._path.is_file()

    def mark(self) -> str:
        """Another one after each change, by whomever."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ""
        return f"{found.st_ino}-{found.st_mtime_ns}"

    def set(self, password: str) -> None:
        """Replace the password. Raises `UsageError` for one that is too short."""
        if len(password) < SHORTEST:
            raise UsageError(f"A password has at least {SHORTEST} characters.")
        if len(password) > LONGEST:
            raise UsageError(f"A password has at most {LONGEST} characters.")
        salt = secrets.token_bytes(16)
        found = _scrypt(password, salt, self._cost)
        write_json(self._path, {**self._cost, "salt": salt.hex(), "hash": found.hex()})

    async def check(self, password: str) -> bool:
        """Whether it is this one; as long for a wrong one as for the right one."""
        async with self._one:
            return await asyncio.to_thread(self._check, password)

    def _check(self, password: str) -> bool:
        try:
            kept = read_json(self._path) or {}
            cost = {key: int(kept[key]) for key in ("n", "r", "p")}
            salt, expected = bytes.fromhex(kept["salt"]), bytes.fromhex(kept["hash"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return False  # none, or a damaged one: a code sets another
        return hmac.compare_digest(_scrypt(password[: LONGEST + 1], salt, cost), expected)

    def new_code(self, *, shown: bool = False) -> str:
        """Make a code with which a password can be set, once. The one before is void.

        `shown`: on the console, at each boot anew; somebody may hold any other.
        """
        code, kept = make_code()
        write_json(self._code, {**kept, "shown": shown})
        return code

    def is_held(self) -> bool:
        """Whether somebody may hold a code: one of provisioning's, or of the command's."""
        try:
            kept = read_json(self._code)
        except ValueError:
            return False
        return isinstance(kept, dict) and not kept.get("shown")

    def check_code(self, code: str) -> bool:
        """Whether it is the code."""
        told = "".join(letter for letter in code.upper() if letter.isalnum())
        try:
            kept = read_json(self._code) or {}
            return hmac.compare_digest(_sha256(told), str(kept["sha256"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            return False

    def spend_code(self) -> None:
        """It was used."""
        self._code.unlink(missing_ok=True)


class Tokens:
    """The tokens of scripts, by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._known: dict[str, Who] = {}

    def add(self, name: str, read_only: bool) -> str:
        """A new token, told this once. Raises `UsageError` for a name that there is."""
        if not name.isprintable() or not 0 < len(name) <= 60:
            raise UsageError(f"A name of 1 to 60 printable characters was expected, not {name!r}.")
        kept = self._read()
        if name in kept:
            raise UsageError(f"There is a token '{name}'.", f"`abupdate web token remove {name}`")
        token = "abupdate_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        kept[name] = {"sha256": _sha256(token), "read_only": read_only, "made": int(time.time())}
        write_json(self._path, kept)
        return token

    def remove(self, name: str) -> None:
        """It is void from now on. Raises `NothingToDoError` where there is none."""
        kept = self._read()
        if kept.pop(name, None) is None:
            raise NothingToDoError(f"There is no token '{name}'.", "`abupdate web token list`")
        write_json(self._path, kept)

    def all(self) -> dict[str, dict[str, Any]]:
        """What is known of them, by name."""
        return {
            name: {"read_only": bool(one.get("read_only")), "made": one.get("made")}
            for name, one in self._read().items()
        }

    def of_header(self, told: str) -> Who | None:
        """Whose token a header `Authorization: Bearer TOKEN` has."""
        kind, _, token = told.partition(" ")
        return self.find(token.strip()) if kind.lower() == "bearer" else None

    def find(self, token: str) -> Who | None:
        """Whose token it is."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if stamp != self._stamp:
            self._known = {
                str(one.get("sha256")): Who(f"token {name}", bool(one.get("read_only", True)))
                for name, one in self._read().items()
            }
            self._stamp = stamp
        return self._known.get(_sha256(token))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            kept = read_json(self._path) or {}
            return {str(name): dict(one) for name, one in kept.items()}
        except (TypeError, ValueError, AttributeError, json.JSONDecodeError):
            return {}


def _scrypt(password: str, salt: bytes, cost: dict[str, int]) -> bytes:
    text = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, maxmem=64 << 20, dklen=32, **cost)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
