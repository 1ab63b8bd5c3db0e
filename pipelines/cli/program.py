"""The program `tokenreel`: runs a command, prints what it returns, and turns what went wrong into one line.

Imports neither torch nor anything that does: `--help` must be quick. It knows no command; `commands.py` declares them.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from tokenreel.errors import ConfigError, UserError
from tokenreel.pipelines.cli.commands import INTERRUPTED, program

DONE, FAILED, USAGE = 0, 1, 2  # and QUARANTINED, which a command's result decides: see Command.invoke


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point: runs the command line (or `arguments`) and leaves the process with its exit code."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def tokenize_dataset() -> NoReturn:
    """The entry point of the program `tokenize-dataset`."""
    main(["tokenize-dataset", *sys.argv[1:]])


def train_prior() -> NoReturn:
    """The entry point of the program `train-prior`."""
    main(["train-prior", *sys.argv[1:]])


def run_command(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code. With `--debug` errors come out with their traceback."""
    try:
        return program.main(arguments, prog_name="tokenreel", standalone_mode=False) or DONE
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        return _fail(f"{error.format_message()}{_usage_hint(error)}", USAGE)
    except (KeyboardInterrupt, click.Abort) as error:
        words = str(error.__cause__ or error)  # click puts its own exception around ours
        return _fail(words or "interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has gone, as in `tokenreel presets list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (UserError, OSError) as error:  # an OSError is the machine's: a full disk, a folder that cannot be read
        if "--debug" in arguments:
            raise
        return _fail(str(error), USAGE if isinstance(error, ConfigError) else FAILED)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" See `{context.command_path} --help`." if context else ""


def _fail(message: str, code: int) -> int:
    click.echo(f"tokenreel: {message}", err=True)
    return code
