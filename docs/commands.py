"""Writes docs/commands.md: every command's usage and flags as its request class declares them, and an example.

Usage: python docs/commands.py. Needs no torch; a test compares the page with what this writes.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenreel.pipelines.cli.parameters import NONE, metavar_of, parameters_of
from tokenreel.pipelines.requests.fields import RequestField, fields_of
from tokenreel.pipelines.run import COMMANDS, Command

DEFAULT = re.compile(r"\s*Default: (.*)\.$")  # at the end of a help text

TOP = """# Commands

This page is written by `python docs/commands.py` from the request classes in `pipelines/requests/`, from which `--help`
is made as well. The [guides](guides.md) explain what the flags are for, the [glossary](glossary.md) defines the terms.

## All commands

There is one program, `tokenreel` (also `python -m tokenreel`). `tokenize-dataset` and `train-prior` are installed under
their own names as well. `tokenreel COMMAND --help` lists the flags of a command.

The whole way, on synthetic videos; with your own in `videos/` it begins at the second line. The examples below
continue in the same folder, in their order.

```console
tokenreel tabletop videos --videos 240
tokenreel train-tokenizer --preset gpt-tabletop-tiny --data videos/ --out runs/tokenizer
tokenreel tokenize-dataset --tokenizer runs/tokenizer --data videos/ --out tokens.zarr --workers 2
tokenreel train-prior --preset gpt-tabletop-tiny --cache tokens.zarr --out runs/prior
tokenreel sample --prior runs/prior --cache tokens.zarr --given-frames 1 --num 16 --top-k 5 --out samples.zarr
tokenreel decode --tokens samples.zarr --tokenizer runs/tokenizer --out samples
```

### Output

A command ends by printing a summary on standard output: what it wrote, scores, and how fast it was. Progress goes to
standard error: a bar on a terminal, otherwise one line every 30 seconds. Every command takes

| flag | meaning |
|---|---|
| `--json` | Print the summary as JSON. |
| `--quiet` | Show no progress. |
| `--debug` | Show the traceback of an error. |
| `--help`, `-h` | List the flags. |

### Exit codes

| code | meaning |
|---|---|
| 0 | The command succeeded. |
| 1 | It failed; one line on standard error says why. |
| 2 | A flag, a preset or a configuration is wrong. |
| 3 | It succeeded, but inputs that could not be decoded were quarantined. Videos that are too short do not count. |
| 130 | It was interrupted. Training has then written a checkpoint, and the same command continues it. |

### Completion

A shell completes commands, flags, files and the names of presets after one line in its start file:

| shell | file | line |
|---|---|---|
| bash | `~/.bashrc` | `eval "$(_TOKENREEL_COMPLETE=bash_source tokenreel)"` |
| zsh | `~/.zshrc` | `eval "$(_TOKENREEL_COMPLETE=zsh_source tokenreel)"` |
| fish | `~/.config/fish/config.fish` | `_TOKENREEL_COMPLETE=fish_source tokenreel \\| source` |

### Settings

A preset is a YAML file with the sections that its system needs: `data`, `tokenizer`, `controls`, `tokens`, `prior`,
`generator`, `discriminators` and `training`. `training.tokenizer`, `training.prior` and `training.generator` hold what
applies to one stage only; where a system has one prior per level, `prior` and `training.prior` have one part per level.
A preset may name another one as its `base` and contain only what differs. Settings come from five sources; later ones
win:

1. the defaults of the configuration classes
2. `--preset NAME`
3. `--config FILE`
4. `--set section.field=value`, with a value in YAML
5. flags such as `--steps`

All `--set` of a command are one source, so their order does not matter; if two set the same field, the last one counts.
An unknown key is an error that names the nearest known one. The resolved settings are written to the run folder.

`presets show NAME --yaml > mine.yaml` makes a file of a preset, with every field, what it means and its default: edit
it, and give it by `--config mine.yaml` in place of `--preset`. `--config` also takes a run folder, its `run.json`, the
`config.json` of a saved model, and what `presets show NAME --json` prints.

```console
tokenreel presets show gpt-tabletop-tiny --yaml
```

`train-prior` refuses a cache whose grid or codebooks differ from those of the preset's own tokenizer. `--set
tokenizer=null` (or `tokens=null`) lifts this check, and `--set controls=null` the same check of the section `controls`.

```console
tokenreel train-prior --preset gpt-tabletop-tiny --set prior.depth=2 --cache tokens.zarr --out runs/small --dry-run
```
"""


@dataclass(frozen=True)
class Text:
    """What the request does not say."""

    example: str  # without the program's name
    notes: str = ""
    language: str = "console"  # of the example's block; bash: takes too long to be run by a test


TEXTS = {
    "demo": Text(
        "demo --out demo",
        "Makes videos, trains both stages, samples, decodes, and writes `report.html`: reconstructions, token maps, "
        "loss curves and scores. Takes a few minutes on two CPU cores. The preset must have a single prior.",
        language="bash",
    ),
    "tabletop": Text(
        "tabletop more-videos --videos 64 --seed 1",
        "Writes `CLASS/NUMBER.mp4` with sound, `metadata.csv` (classes), `states.csv` (positions in each frame), "
        "`contacts.csv` and `choices.csv` (the random choices behind each video).",
    ),
    "train-tokenizer": Text(
        "train-tokenizer --preset gpt-tabletop-tiny --data videos/ --set training.batch=8 --out runs/batch-8",
        "See [your own videos](tutorial.md), [resuming](guides.md#resuming), [fine-tuning](guides.md#fine-tuning) and "
        "[several processes](guides.md#several-processes).",
    ),
    "fit-controls": Text(
        "fit-controls --preset ccvs-tabletop-tiny-state --data videos/ --out runs/controls",
        "Needs no tokenizer. Reports for each control how many of its tokens are used and the error of encoding. See "
        "[controls](guides.md#controls).",
    ),
    "tokenize-dataset": Text(
        "tokenize-dataset --tokenizer runs/tokenizer --data videos/ --clip-stride 8 --out overlapping.zarr",
        "Also installed as the program `tokenize-dataset`. If a level has collapsed (its tokens hardly differ), the "
        "cache is not sealed without `--allow-collapsed`. See [the token cache](token_cache.md).",
    ),
    "train-generator": Text(
        "train-generator --preset dvdgan-tabletop-tiny --data videos/ --out runs/generator",
        "Trains a generator of pixels, which needs no tokens, against its discriminators. The settings need the "
        "sections `data` and `generator`; `discriminators` and `training` have defaults.",
    ),
    "train-prior": Text(
        "train-prior --preset gpt-tabletop-tiny --cache overlapping.zarr --init-from runs/prior --out runs/prior-2",
        "Also installed as the program `train-prior`. It opens no video, and a tokenizer only for trackers. The "
        "summary has the prior's bits/code on the validation split beside those of two counted baselines, the unigram "
        "and the temporal bigram prior. See [resuming](guides.md#resuming), "
        "[fine-tuning](guides.md#fine-tuning) and [trackers](guides.md#trackers).",
    ),
    "evaluate": Text(
        "evaluate --prior runs/prior --cache tokens.zarr --split validation",
        "Says of how many clips of how many videos the score is, with the standard error over clips. Parts of several "
        "machines (`--num-shards`) meet in `--out`; the last one prints the score.",
    ),
    "sample": Text(
        "sample --prior runs/prior --cache tokens.zarr --given-frames 4 --num 16 --top-p 0.9 --out more-samples.zarr",
        "`--prior` writes a token file, `--generator` a folder of videos with `samples.json`. See "
        "[sampling](guides.md#sampling), [several levels](guides.md#several-levels), [controls](guides.md#controls) "
        "and [generators](generators.md#sample).",
    ),
    "decode": Text(
        "decode --tokens more-samples.zarr --tokenizer runs/tokenizer --format gif --out more-samples",
        "`--context`, `--context-video`, `--given-frames` and `--end` are for tokenizers that decode with context. See "
        "[context decoding](guides.md#context-decoding).",
    ),
    "generate": Text(
        "generate --prior runs/prior --tokenizer runs/tokenizer --video videos/push-left/000000.mp4 --given-frames 1 "
        "--out continued",
        "With `--prior` and `--tokenizer` it encodes the given frames, samples and decodes in one command, without a "
        "cache. With `--generator` it also writes a contact sheet. See [controls](guides.md#controls) and "
        "[generators](generators.md#generate).",
    ),
    "reconstruct": Text(
        "reconstruct --tokenizer runs/tokenizer --data videos/ --out reconstructed",
        "Writes the folders `original`, `reconstructed` and `side_by_side` with an mp4 per clip, and `scores.json`.",
    ),
    "push": Text(
        "push tokens.zarr me/my-tokens",
        "PATH is a run folder, a saved model, fitted controls or a sealed cache. See [the Hub](hub.md).",
    ),
    "pull": Text("pull me/my-tokens pulled.zarr --revision main", "The download is verified before PATH appears."),
    "inspect": Text(
        "inspect tokens.zarr --pictures token-maps --num-clips 4",
        "For a cache or token file it reports the [use of codes](guides.md#looking-at-tokens) of each stream.",
    ),
    "verify": Text("verify tokens.zarr", "Fails with exit code 1, naming files and rows, if anything is damaged."),
    "repair": Text(
        "repair tokens.zarr",
        "Encodes the damaged shards again; the result has the same `cache_id` as before.",
    ),
    "export": Text(
        "export --cache tokens.zarr --out shards --split train",
        "The samples hold `KEY.STREAM.npy` for each stream and `KEY.json`; `dataset.json` describes them. See "
        "[the token cache](token_cache.md#export).",
    ),
    "presets list": Text("presets list"),
    "presets show": Text("presets show gpt-tabletop-tiny --yaml", "See [settings](#settings)."),
    "doctor": Text("doctor"),
}


def page() -> str:
    return TOP + "".join(f"\n## {command.name}\n\n{_section(command)}" for command in COMMANDS)


def _section(command: Command) -> str:
    text, fields = TEXTS[command.name], _fields(command)
    usage = [
        "tokenreel",
        command.name,
        *(_usage(field) for field in fields if field.required or field.option.positional),
    ]
    optional = any(not field.required for field in fields)
    parts = [_prose(" ".join((command.request.__doc__ or "").split()))]
    parts += [f"```\n{' '.join(usage)}{' [OPTIONS]' if optional else ''}\n```"]
    if rows := [_row(field) for field in fields if not field.option.positional]:
        parts += ["\n".join(["| flag | default | meaning |", "|---|---|---|", *rows])]
    parts += [_prose(text.notes)] if text.notes else []
    parts += [f"```{text.language}\ntokenreel {text.example}\n```"]
    return "\n\n".join(parts) + "\n"


def _prose(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _fields(command: Command) -> list[RequestField]:
    """In the order of `--help`, the required ones of each group first."""
    fields = {field.name: field for field in fields_of(command.request)}
    groups = [[fields[str(parameter.name)] for parameter in group] for group in parameters_of(command.request).values()]
    return [field for group in groups for field in sorted(group, key=lambda field: not field.required)]


def _usage(field: RequestField) -> str:
    if field.option.positional:
        return field.option.flag if field.required else f"[{field.option.flag}]"
    return _flag(field)


def _flag(field: RequestField) -> str:
    option = field.option
    if field.type is bool:
        return option.flag
    return f"{option.flag} {metavar_of(field)}"


def _row(field: RequestField) -> str:
    return f"| `{_flag(field)}` | {_default(field)} | {_meaning(field)} |".replace("  ", " ")


def _default(field: RequestField) -> str:
    if field.required:
        return "required"
    if stated := DEFAULT.search(field.option.help):
        return stated[1]
    return _shown(field.default)


def _shown(default: Any) -> str:
    if default is False:
        return "off"
    return NONE if default in (None, (), {}) else f"`{default}`"


def _meaning(field: RequestField) -> str:
    text = DEFAULT.sub("", field.option.help)
    if field.choices:
        text += f" One of {', '.join(f'`{choice}`' for choice in field.choices)}."
    return text + _range(field)


def _range(field: RequestField) -> str:
    """In words, where it is more than not below 0."""
    option = field.option
    bounds = [f"above {option.above:g}"] if option.above is not None else []
    bounds += [f"at least {option.minimum:g}"] if option.minimum else []
    bounds += [f"at most {option.maximum:g}"] if option.maximum is not None else []
    return f" {' and '.join(bounds).capitalize()}." if bounds else ""


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
