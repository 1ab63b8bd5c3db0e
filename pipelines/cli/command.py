"""A command on the command line: its help and flags come from the request, its work from the module that it names."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

import click

from tokenreel.errors import visible
from tokenreel.pipelines.cli.parameters import parameters_of
from tokenreel.pipelines.cli.summary import summary_lines
from tokenreel.pipelines.common.progress import silence
from tokenreel.pipelines.run import Command

QUARANTINED, INTERRUPTED = 3, 130  # exit codes: done, but some inputs were quarantined; ended by Ctrl-C


class RequestCommand(click.Command):
    """Makes the request, has it carried out and prints the summary."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.sections = parameters_of(command.request)
        self.sections["Output"] = [
            click.Option(["--json", "as_json"], is_flag=True, help="Print the summary as JSON."),
            click.Option(["--quiet"], is_flag=True, help="Show no progress."),
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
        ]
        params = [parameter for section in self.sections.values() for parameter in section]
        super().__init__(command.name.split()[-1], help=command.request.__doc__, params=params)

    def invoke(self, ctx: click.Context) -> int:
        """Returns the exit code: 3 where the summary counts inputs that were quarantined."""
        as_json, quiet, _ = (ctx.params.pop(name) for name in ("as_json", "quiet", "debug"))
        request = self.command.request(**ctx.params)
        if quiet:
            silence()
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when huggingface_hub is imported
        with redirect_stdout(sys.stderr):  # trackers print; standard output is for the summary
            with _interrupt_ends_at_once():
                run = self.command.load()
            summary = run(request)
        if os.environ.get("RANK", "0") == "0":  # of several launched processes only the first prints
            lines = [summary[request.verbatim]] if request.verbatim in summary else summary_lines(summary)
            click.echo(json.dumps(summary, indent=2) if as_json else visible("\n".join(lines)))
        return QUARANTINED if summary.get("quarantined") else 0

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under their headings; `--help` itself comes last."""
        help_option = self.get_help_option(ctx)
        for heading, parameters in self.sections.items():
            last = [help_option] if heading == "Output" and help_option else []
            options = [parameter for parameter in (*parameters, *last) if isinstance(parameter, click.Option)]
            if shown := [record for option in options if (record := option.get_help_record(ctx))]:
                with formatter.section(heading):
                    formatter.write_dl(shown)


class CommandGroup(click.Group):
    """Lists its commands in the order in which they were added, which is that of a project."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@contextmanager
def _interrupt_ends_at_once() -> Iterator[None]:
    """For the seconds of imports: libraries that are half imported turn Ctrl-C into other errors."""

    def leave(*_: Any) -> NoReturn:
        os.write(2, b"tokenreel: interrupted\n")
        os._exit(INTERRUPTED)

    previous = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
