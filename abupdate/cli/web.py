"""`abupdate web`: the page's server, and who may log in to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from abupdate.cli.invocation import Json, machine_of, settings_of

web = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
token = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
web.add_typer(token, name="token", help="Tokens, with which scripts use the API.")
Context = typer.Context
# agetty prints what is there, and the machine's address for \4 (agetty(8), "ISSUE FILES").
_ISSUE = Path("/run/issue.d/90-abupdate.issue")
_ISSUED = """
The page of this device: http://\\4:8080. Code for its first password: {code}
"""
Name = Annotated[str, typer.Argument(help="What it is for.")]


@web.callback()
def serve(context: Context) -> None:
    """Serve the page, on the sockets that systemd hands over or at [web] listen.

    It runs as the user abupdate-web, by abupdate-web.socket.
    """
    if context.invoked_subcommand is not None:
        return
    import os

    from abupdate.engine.client import EngineClient
    from abupdate.web import server, tls
    from abupdate.web.context import WebContext

    server.refuse_root()
    settings, machine = settings_of(context).web, machine_of(context)
    sockets = server.handed_sockets(os.environ) or [server.own_socket(settings.listen)]
    engine = EngineClient(machine.paths.runtime / "engine.sock")
    served = WebContext(engine, settings, _state(context))
    server.serve(served, sockets, tls.certificate(settings, served.state))


@web.command()
def code(
    context: Context,
    new: Annotated[bool, typer.Option("--new", help="Although there is a password.")] = False,
    login: Annotated[
        bool, typer.Option("--login", help="Show it above each login prompt, instead of here.")
    ] = False,
) -> None:
    """Print a code that sets a password on the page, once; a code before it is void."""
    from abupdate.config import WebTls
    from abupdate.errors import NothingToDoError
    from abupdate.web.auth import Passwords
    from abupdate.web.tls import fingerprint

    passwords = Passwords(_state(context))
    if passwords.is_set() and not new:
        raise NothingToDoError(
            "There is a password already.", "`abupdate web code --new`, if nobody knows it."
        )
    if login:
        if passwords.is_held():
            raise NothingToDoError("There is a code that somebody may hold.", "It is kept.")
        _ISSUE.parent.mkdir(parents=True, exist_ok=True)
        _ISSUE.write_text(_ISSUED.format(code=passwords.new_code(shown=True)))
        return
    print(passwords.new_code())
    tls = settings_of(context).web.tls
    made = _state(context) / "tls/cert.pem"
    if not isinstance(tls, WebTls) and tls == "self" and made.is_file():
        print(f"Certificate, SHA-256: {fingerprint(made)}", file=sys.stderr)


@web.command()
def password(context: Context) -> None:
    """Set the page's password: asked for twice, or a line of standard input."""
    from abupdate.errors import UsageError
    from abupdate.web.auth import Passwords

    if sys.stdin.isatty():
        told = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        told = sys.stdin.readline().rstrip("\r\n")
    if not told:
        raise UsageError("A password was expected, nothing came.")
    Passwords(_state(context)).set(told)
    print("The password is set; whoever was logged in has to do it again.")


@token.command("add")
def add_token(
    context: Context,
    name: Name,
    read_only: Annotated[bool, typer.Option("--read-only", help="It changes nothing.")] = False,
) -> None:
    """Make a token and print it, this once."""
    from abupdate.web.auth import Tokens

    print(Tokens(_state(context) / "tokens.json").add(name, read_only))


@token.command("list")
def list_tokens(context: Context, as_json: Json = False) -> None:
    """The tokens that there are."""
    import json
    import time

    from abupdate.web.auth import Tokens

    found = Tokens(_state(context) / "tokens.json").all()
    if as_json:
        print(json.dumps({"schema_version": 1, "tokens": found}, indent=2))
        return
    for name, one in found.items():
        made = time.strftime("%Y-%m-%d", time.gmtime(one["made"])) if one["made"] else "-"
        print(f"{name:<30} {made}  {'read-only' if one['read_only'] else 'full'}")


@token.command("remove")
def remove_token(context: Context, name: Name) -> None:
    """Void a token, at once."""
    from abupdate.web.auth import Tokens

    Tokens(_state(context) / "tokens.json").remove(name)


def _state(context: Context) -> Path:
    """The server's folder, the user abupdate-web's where there is one."""
    import os
    import pwd

    state = machine_of(context).paths.data / "abupdate/web"
    if not state.exists():
        state.mkdir(mode=0o700, parents=True)
        try:
            owner = pwd.getpwnam("abupdate-web")
        except KeyError:
            return state
        if os.geteuid() == 0:
            os.chown(state, owner.pw_uid, owner.pw_gid)
    return state
