"""The entry point: builds the command, and alone turns errors into exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from abupdate.errors import (
    AbupdateError,
    ExitCode,
    InterruptedByUserError,
    fault_of,
    is_out_of_memory,
)

if TYPE_CHECKING:
    import typer

    from abupdate.update.slots import Machine


def main(argv: Sequence[str] | None = None, machine: Machine | None = None) -> int:
    """Run one command and return its exit code. Tests give a `machine` of their own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_what_is_closed()
    before = signal.signal(signal.SIGINT, _interrupt)
    code: int = ExitCode.OK
    try:
        try:
            _build(arguments)(arguments, prog_name="abupdate", obj=machine)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else ExitCode.OK
        finally:
            sys.stdout.flush()  # here, where a reader that left or a full disk can be told
    except AbupdateError as error:
        return _told(error.message, error.hint, error.exit_code)
    except BrokenPipeError:
        _forget_output()  # nobody reads on
    except (OSError, MemoryError) as error:
        return _told_fault(fault_of(error))
    except Exception as error:
        if is_out_of_memory(error):
            return _told_fault(fault_of(MemoryError()))
        traceback.print_exc()
        return _told("This is a bug in abupdate.", "Please report the lines above.", ExitCode.BUG)
    finally:
        signal.signal(signal.SIGINT, before)
    return code


def _build(arguments: Sequence[str]) -> typer.Typer:
    """The command with its verbs; some groups of them only when asked for or listed."""
    import typer

    from abupdate.cli import device, trial

    app = typer.Typer(
        name="abupdate",
        help="Updates whole Linux systems that boot with GRUB, and cannot brick them.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def top(
        version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    ) -> None:
        if version:
            from abupdate import __version__

            print(__version__)
            raise typer.Exit

    device.register(app)
    trial.register(app)
    words = [word for word in arguments if not word.startswith("-")]
    if not words or words[0] in ("store", "serve"):
        from abupdate.cli.store import serve, store

        app.command()(serve)
        app.add_typer(store, name="store", help="The releases that this device keeps.")
    if not words or words[0] == "etc":
        from abupdate.cli.etc import etc

        app.add_typer(etc, name="etc", help="Your changes in /etc of the running slot.")
    if not words or words[0] == "provision":
        from abupdate.cli.provision import provision

        app.command()(provision)
    if not words or words[0] == "rescue":
        from abupdate.cli.rescue import rescue

        app.add_typer(rescue, name="rescue", help="The system behind both slots.")
    if words and words[0] == "engine":
        from abupdate.cli.engine import engine

        app.add_typer(engine, name="engine")
    if words and words[0] == "installer":
        from abupdate.cli.installer import installer

        app.command(hidden=True)(installer)
    if not words or words[0] == "web":
        from abupdate.cli.web import web

        app.add_typer(web, name="web", help="The page of this device, and who may log in.")
    if not words or words[0] == "publish":
        from abupdate.cli.publish import publish

        app.add_typer(publish, name="publish", help="Make, sign and bundle releases.")
    return app


def _open_what_is_closed() -> None:
    """Started with `<&-` or `>&-`, Python has no stream there: nothing to read, none to tell."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - until the end
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise InterruptedByUserError("Stopped.")


def _told_fault(fault: AbupdateError) -> int:
    if fault.exit_code == ExitCode.NO_SPACE:
        _forget_output()  # its disk may be the full one
    return _told(fault.message, fault.hint, fault.exit_code)


def _forget_output() -> None:
    """What is still buffered must not be tried again at exit."""
    with suppress(OSError):  # a stream in memory has no file beneath it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(message: str, hint: str | None, code: int) -> int:
    print(f"abupdate: {message}", file=sys.stderr)
    if hint:
        print(f"          {hint}", file=sys.stderr)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
