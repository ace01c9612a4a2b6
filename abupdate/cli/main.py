"""The entry point: builds the command, and alone turns errors into exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from abupdate.errors import AbupdateError, ExitCode

if TYPE_CHECKING:
    import typer

    from abupdate.update.slots import Machine


def build() -> typer.Typer:
    """The command with all its verbs."""
    import typer

    from abupdate.cli import device

    app = typer.Typer(
        name="abupdate",
        help="Updates whole Linux systems that boot with GRUB, and cannot brick them.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_version)
    device.register(app)
    app.add_typer(_publish(), name="publish")
    return app


def main(argv: Sequence[str] | None = None, machine: Machine | None = None) -> int:
    """Run one command and return its exit code. Tests give a `machine` of their own."""
    from click.exceptions import Abort, ClickException, Exit

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        result = build()(arguments, prog_name="abupdate", standalone_mode=False, obj=machine)
    except AbupdateError as error:
        return _told(error.message, error.hint, error.exit_code)
    except Exit as error:
        return error.exit_code
    except ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (Abort, KeyboardInterrupt):
        return _told("Stopped.", None, ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return ExitCode.OK
    except Exception:
        traceback.print_exc()
        return _told("This is a bug in abupdate; please report the lines above.", None, 1)
    return result if isinstance(result, int) else ExitCode.OK
