"""How a checkout is built: files, functions, and how many modules one has to know to follow a command.

    PYTHONPATH=A/src python -m tokenreel.benchmarks.structure [--json] [--modules train-prior]

It takes half a minute. The checkout is the one whose `tokenreel` is imported; product files are all `.py` files of that
package.

Lines are lines of text, blank ones and docstrings included; a function is every `def`, methods and inner ones too, from
its `def` to its end. Public is a function whose name, with that of its class, begins with no underscore and that stands
in no other function. Cyclomatic complexity is 1 and one more for each if, loop, except, comprehension and condition in
it, conditional expression, case, assert, and operand of and/or but the first; inner functions have their own.

Three commands of `gpt-tabletop-tiny` are run at a tiny size, each in a process of its own with `sys.setprofile`.
A module is *called* if one of its functions or methods runs, at whatever time and in whatever thread of that process.
What dataclasses generate is no function here, nor are lambdas, comprehensions and bodies of modules and classes.
A module is *used* if it is called or defines a class on being imported: a reader meets it as well. *Imported* are all.
Worker processes, such as those that decode videos, do not count. A hop is a distinct module of ours on the call stack
when a function, named in CORE, is called for the first time.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import click

import tokenreel

PACKAGE = Path(tokenreel.__file__).parent
BENCHMARKS = PACKAGE / "benchmarks"
CORE = {  # command -> (its core loop, its arithmetic), as functions are named within their modules
    "tokenize-dataset": ("ShardFiller._fill_shard", "nearest_indices"),
    "train-prior": ("Trainer._train_step", "Block.forward"),
    "sample": ("sample_window", "_CachedBlock.extend"),
}
SHORT_FILE, LONG_FILE, LONG_FUNCTION = 25, 400, 60  # lines
Function = ast.FunctionDef | ast.AsyncFunctionDef
BRANCHES = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler),
    *(ast.IfExp, ast.Assert, ast.match_case),
)


# What is written


def product_files() -> list[Path]:
    """Those of the package, whose folders may be links; the benchmarks are not part of the product."""
    folders = os.walk(PACKAGE, followlinks=True)
    files = (Path(folder, name) for folder, _, names in folders for name in names if name.endswith(".py"))
    return sorted(path for path in files if not path.is_relative_to(BENCHMARKS))


def line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


@dataclass(frozen=True)
class FunctionFacts:
    name: str  # with its module
    lines: int
    complexity: int
    public: bool
    documented: bool


def functions_of(path: Path) -> Iterator[FunctionFacts]:
    yield from _functions(ast.parse(path.read_text()), module_name(path), public=True)


def _functions(node: ast.AST, place: str, public: bool) -> Iterator[FunctionFacts]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            name = f"{place}.{child.name}"
            shown = public and not child.name.startswith("_")
            lines = (child.end_lineno or child.lineno) - child.lineno + 1
            yield FunctionFacts(name, lines, complexity(child), shown, ast.get_docstring(child) is not None)
            yield from _functions(child, name, public=False)
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{place}.{child.name}", public and not child.name.startswith("_"))
        else:
            yield from _functions(child, place, public)


def complexity(function: Function) -> int:
    return 1 + sum(map(_branches, ast.iter_child_nodes(function)))


def _branches(node: ast.AST) -> int:
    if isinstance(node, Function):
        return 0
    here = int(isinstance(node, BRANCHES))
    if isinstance(node, ast.BoolOp):
        here = len(node.values) - 1
    elif isinstance(node, ast.comprehension):
        here = 1 + len(node.ifs)
    return here + sum(map(_branches, ast.iter_child_nodes(node)))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def written() -> dict[str, Any]:
    """Measures of the files as they are."""
    paths = product_files()
    files = {module_name(path): line_count(path) for path in paths}
    functions = [function for path in paths for function in functions_of(path)]
    public = [function for function in functions if function.public]
    return {
        "files": len(files),
        "lines": sum(files.values()),
        "lines per file": evenly_spaced(list(files.values())),
        f"files under {SHORT_FILE} lines": sum(0 < lines < SHORT_FILE for lines in files.values()),
        f"files over {LONG_FILE} lines": sum(lines > LONG_FILE for lines in files.values()),
        "functions": len(functions),
        "lines per function": evenly_spaced([function.lines for function in functions]),
        f"functions over {LONG_FUNCTION} lines": sum(function.lines > LONG_FUNCTION for function in functions),
        "public functions documented": f"{sum(function.documented for function in public) / len(public):.0%}",
        "cyclomatic complexity": evenly_spaced([function.complexity for function in functions]),
        "longest file": max(files, key=lambda name: files[name]),
        "longest function": max(functions, key=lambda function: function.lines).name,
        "most complex function": max(functions, key=lambda function: function.complexity).name,
    }


def evenly_spaced(values: Sequence[int]) -> dict[str, float]:
    p90 = statistics.quantiles(values, n=10)[-1]
    return {"median": statistics.median(values), "p90": round(p90), "max": max(values)}


# What is run


@dataclass
class Trace:
    """A profiling function that notes what of ours runs for the first time, and the stack where a wanted function does.

    Stacks are modules, the outermost one first.
    """

    wanted: Sequence[str]
    functions: dict[str, set[str]] = field(default_factory=dict)  # by module, those that were called
    classes: set[str] = field(default_factory=set)  # modules that define one
    imported: set[str] = field(default_factory=set)
    stacks: dict[str, list[str]] = field(default_factory=dict)
    seen: dict[int, CodeType] = field(default_factory=dict)  # by id; held, so that no id comes twice

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and id(code) not in self.seen:
            self.seen[id(code)] = code
            if _is_ours(code):
                self._note(frame, code, _module(frame))

    def _note(self, frame: FrameType, code: CodeType, module: str) -> None:
        if code.co_name == "<module>":
            self.imported.add(module)
        elif not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a class
            self.classes.add(module)
        elif not code.co_name.startswith("<"):
            self.functions.setdefault(module, set()).add(code.co_qualname)
        if code.co_qualname in self.wanted:
            self.stacks.setdefault(code.co_qualname, _modules_on_stack(frame))


def _is_ours(code: CodeType) -> bool:
    path = Path(code.co_filename)
    return path.is_relative_to(PACKAGE) and not path.is_relative_to(BENCHMARKS)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals["__name__"])


def _modules_on_stack(frame: FrameType | None) -> list[str]:
    modules = []
    while frame is not None:
        if _is_ours(frame.f_code):
            modules.append(_module(frame))
        frame = frame.f_back
    return list(dict.fromkeys(reversed(modules)))


def trace_here(words: Sequence[str], wanted: Sequence[str]) -> dict[str, Any]:
    """Runs a command line in this process, which must not have imported anything of ours. Returns what it ran."""
    found = Trace(wanted)
    threading.setprofile(found)
    sys.setprofile(found)
    with redirect_stdout(io.StringIO()):
        from tokenreel.pipelines.cli.program import run_command

        code = run_command([*words, "--quiet", "--debug"])
    sys.setprofile(None)
    threading.setprofile(None)
    if code:
        sys.exit(f"exit code {code}: tokenreel {' '.join(words)}")
    used = found.classes | found.functions.keys()
    called = {module: len(found.functions.get(module, ())) for module in sorted(used)}
    return {"functions": called, "imported": len(found.imported), "stacks": found.stacks}


def traces() -> dict[str, dict[str, Any]]:
    """By command what `trace_here` returns in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        lines = command_lines(Path(folder))
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
            running = {command: processes.submit(trace_here, lines[command], CORE[command]) for command in CORE}
            return {command: result.result() for command, result in running.items()}


def command_lines(folder: Path) -> dict[str, list[str]]:
    """The commands that are traced, and in `folder` what they need."""
    from tokenreel.benchmarks.same_results import (  # not above: processes that trace must not import what it imports
        GIVEN,
        PRIOR,
        Jobs,
    )

    jobs, places = Jobs(folder), dict[str, Any](preset="gpt-tabletop-tiny", given=1)
    jobs.run("videos", "videos")
    for kind in ("tokenizer", "tokens", "prior"):
        places[kind] = jobs.run(kind, kind, **places)
    return {
        "tokenize-dataset": jobs.words("traced/tokens", "tokens", **places),
        "train-prior": jobs.words("traced/prior", "prior", **places),
        "sample": jobs.words("traced/sample", "sample", f"{PRIOR} {GIVEN}", **places),
    }


def touched(found: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """By module that is used: its lines, and how many of its functions were called."""
    lines = {module_name(path): line_count(path) for path in product_files()}
    return {name: (lines[name], called) for name, called in found["functions"].items()}


def run_measures(command: str, found: dict[str, Any]) -> dict[str, Any]:
    modules = touched(found).values()
    loop, arithmetic = (_stack(command, found["stacks"], name) for name in CORE[command])
    return {
        "to the core loop": loop,
        "to the arithmetic": arithmetic,
        "modules called": sum(called > 0 for _, called in modules),
        "lines in modules called": sum(lines for lines, called in modules if called),
        "functions called": sum(called for _, called in modules),
        "modules used": len(modules),
        "lines in modules used": sum(lines for lines, _ in modules),
        "modules imported": found["imported"],
    }


def _stack(command: str, stacks: dict[str, list[str]], name: str) -> list[str]:
    if name not in stacks:
        sys.exit(f"{command} called no function {name!r}: put its present name into CORE")
    return [module.removeprefix("tokenreel.") for module in stacks[name]]


# What is shown


def table(facts: dict[str, Any], runs: dict[str, dict[str, Any]]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    names = list(next(iter(runs.values())))
    measures = [[name, *(_cell(run[name]) for run in runs.values())] for name in names]
    return "\n".join(
        [
            *("| what is written | |", "|---|---|", *rows, ""),
            *(f"| what is run | {' | '.join(runs)} |", "|---|" + "---|" * len(runs)),
            *(f"| {' | '.join(cells)} |" for cells in measures),
        ]
    )


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:g}" for name, number in value.items())
    if isinstance(value, list):
        return f"{len(value)}: {' > '.join(value)}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print the measures as JSON.")
@click.option("--modules", type=click.Choice(list(CORE)), help="List the modules that this command uses instead.")
def main(as_json: bool, modules: str | None) -> None:
    found = traces()
    if modules:
        for name, (lines, called) in touched(found[modules]).items():
            click.echo(f"{name:<60} {lines:>4} lines, {called:>3} functions called")
        return
    facts, runs = written(), {command: run_measures(command, found[command]) for command in CORE}
    click.echo(json.dumps({**facts, "commands": runs}, indent=1) if as_json else table(facts, runs))


if __name__ == "__main__":
    main()
