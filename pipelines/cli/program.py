"""The program `tokenreel`: all commands, and exit codes. What went wrong is one line on standard error.

Imports neither torch nor anything that does: `--help` must be quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import NoReturn

import click

from tokenreel import __version__
from tokenreel.errors import ConfigError, UserError, visible
from tokenreel.pipelines.cli.command import INTERRUPTED, CommandGroup, RequestCommand
from tokenreel.pipelines.run import COMMANDS, Command

DONE, FAILED, USAGE = 0, 1, 2  # and QUARANTINED, which depends on the summary: see RequestCommand.invoke

HELP = """Video -> discrete tokens -> a prior over them -> video.

The order of a project: tabletop (or videos of your own), train-tokenizer, tokenize-dataset, train-prior, sample,
decode. `tokenreel demo --out demo` runs all of them in a few minutes.
"""
GROUPS = {"presets": "The shipped presets."}


def make_program(commands: Iterable[Command]) -> click.Group:
    """The program with these commands. A name of two words is a command in a group."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
    made = CommandGroup("tokenreel", help=HELP, context_settings=settings)
    click.version_option(__version__, prog_name="tokenreel")(made)
    groups = {name: CommandGroup(name, help=help) for name, help in GROUPS.items()}
    for command in commands:
        group, _, _ = command.name.rpartition(" ")
        if group and group not in made.commands:
            made.add_command(groups[group])
        (groups[group] if group else made).add_command(RequestCommand(command))
    return made


program = make_program(COMMANDS)


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point: runs the command line (or `arguments`) and leaves the process with its exit code."""
    _keep_stdout_to_ourselves()
    code = run_command(sys.argv[1:] if arguments is None else arguments)
    sys.stdout = sys.stderr  # for what libraries print when the process ends
    sys.exit(code)


def tokenize_dataset() -> NoReturn:
    """The entry point of the program `tokenize-dataset`."""
    main(["tokenize-dataset", *sys.argv[1:]])


def train_prior() -> NoReturn:
    """The entry point of the program `train-prior`."""
    main(["train-prior", *sys.argv[1:]])


def run_command(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code. With `--debug` an error keeps its traceback."""
    try:
        return program.main(arguments, prog_name="tokenreel", standalone_mode=False) or DONE
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        return _fail(f"{error.format_message()}{_usage_hint(error)}", USAGE)
    except (KeyboardInterrupt, click.Abort) as error:
        message = str(error.__cause__ or error)  # click wraps its own exception around ours
        return _fail(message or "interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has closed it, as in `tokenreel presets list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (UserError, OSError) as error:  # OSError: a full disk, a folder that cannot be read
        if "--debug" in arguments:
            raise
        return _fail(str(error), USAGE if isinstance(error, ConfigError) else FAILED)


def _keep_stdout_to_ourselves() -> None:
    """Lets descriptor 1 be standard error, to which C libraries and the processes of trackers then print.

    No effect where standard output is closed, or whoever calls from Python has put something in its place.
    """
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        ours = os.dup(1)
        os.dup2(2, 1)
        sys.stdout = os.fdopen(ours, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" See `{context.command_path} --help`." if context else ""


def _fail(message: str, code: int) -> int:
    click.echo(visible(f"tokenreel: {message}"), err=True)
    return code
