"""Writes docs/presets.md: the presets' numbers as `tokenreel presets show` has them, and their opening comments.

Usage: python docs/presets.py. Builds no weights; a test compares the page with what this writes.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from tokenreel.config import preset_names
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.commands.presets import description

BYTES_PER_PARAMETER = 16  # in training: weight, gradient and the optimizer's two moments, float32 each
SYSTEMS = {  # the first part of a preset's name
    "gpt": "GPT: frame VQ-VAE, GPT",
    "lvt": "LVT: frame VQ-VAE, subscale transformer",
    "ccvs": "CCVS: context autoencoder, GPT with controls",
    "video-vqvae": "Video VQ-VAE: two levels, PixelCNN priors",
    "dvdgan": "DVD-GAN: pixels at once, from noise and a class or first frames",
    "inbetween": "Inbetweening: pixels at once, between a start and an end frame",
}
TOP = """# Presets

A preset is a YAML file with every setting of one system; its name is `<system>-<data>-<size>`. This page is written by
`python docs/presets.py` out of the presets.

Start with **`gpt-tabletop-tiny`**: it is what `tokenreel demo` trains, in minutes on two CPU cores, and it takes your
videos as well (`--data videos/`). Then:

| you want | take |
|---|---|
| better reconstruction, for 16 times as many tokens | `lvt-tabletop-tiny` |
| few bits per frame, less flicker where nothing moves | `ccvs-tabletop-tiny` |
| to condition on a class, states, sound, or the last frame | `ccvs-tabletop-tiny-class`, `-state`, `-sound`, `-end` |
| two levels of tokens, 3D convolutions | `video-vqvae-tabletop-tiny` |
| a paper's sizes, on GPUs | `lvt-...-paper`, `ccvs-...-paper`, `video-vqvae-kinetics-paper`, `gpt-bair-paper` |
| something between | a tiny or paper preset, changed by `--config` or `--set` |

The tiny presets are for one or two CPU cores. They were trained on Tabletop by this project; the times and scores in
their descriptions were measured. The paper presets are for GPUs. **No paper preset has been trained by this project**:
their scores are the papers' own, their sizes are counted.

`tokenreel train-tokenizer` and `train-prior` with `--dry-run` measure seconds per step, memory and disk space on your
machine before anything is written.

```console
tokenreel presets show gpt-tabletop-tiny --yaml
tokenreel train-tokenizer --preset gpt-tabletop-tiny --data videos/ --out runs/tokenizer --dry-run
tokenreel train-prior --preset gpt-tabletop-tiny --cache tokens.zarr --out runs/prior --dry-run
```

`presets show NAME --yaml > mine.yaml` makes a file of all fields of a preset, with what they mean and their defaults,
to edit and to give back by `--config mine.yaml`. The commands that a preset is for stand at the top of its file in
`pipelines/presets/`. Where videos are longer than clips, they take clips at any start: `training.random_start` in stage
one, and for the prior `tokenize-dataset --whole-videos` (whose training clips begin at every frame) or, where tokens
depend on the whole clip, a `--clip-stride` below its length. Without them a video of 30 frames gives one clip of 16,
and the other frames are never seen.

In the table a clip is frames x height x width in pixels; tokens and bits are of one clip and of the levels that the
tokenizer makes; *state* is the least memory that training the larger network takes (weights, gradients and optimizer,
float32), before activations.
"""


def page() -> str:
    shown = {name: _shown(name) for name in preset_names()}
    parts = [TOP, *_table(shown), "", *_generators(shown)]
    for system, title in SYSTEMS.items():
        lines = [line for name in shown if name.startswith(f"{system}-") for line in _section(name, shown[name])]
        parts += [f"## {title}\n", *lines] if lines else []
    return "\n".join(parts)


def _shown(name: str) -> dict[str, Any]:
    """What `tokenreel presets show NAME --json` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run_command(["presets", "show", name, "--json"])
    if code:
        raise SystemExit(code)
    shown: dict[str, Any] = json.loads(printed.getvalue())
    return shown


def _table(shown: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "| preset | clip | tokens | bits | tokenizer | prior | state |"
    yield "|---|---|---|---|---|---|---|"
    for name, preset in shown.items():
        if "generator" not in preset:
            cells = [f"[`{name}`](#{name})", *_tokens(preset["tokens"]), *_parameters(preset["parameters"])]
            yield f"| {' | '.join(cells)} |"


def _generators(shown: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The table of presets that make pixels at once."""
    rows = [_generator(name, preset) for name, preset in shown.items() if "generator" in preset]
    if rows:
        yield "Those without tokens; *state* is of the generator and its discriminators:\n"
        yield "| preset | clip | generator | discriminators | state |"
        yield "|---|---|---|---|---|"
        yield from (f"| {' | '.join(cells)} |" for cells in rows)
        yield ""


def _generator(name: str, preset: dict[str, Any]) -> list[str]:
    counts = dict(preset["parameters"])
    state = _bytes(BYTES_PER_PARAMETER * sum(counts.values()))
    generator, discriminators = counts.pop("generator"), " + ".join(map(_millions, counts.values()))
    return [f"[`{name}`](#{name})", _clip(preset["data"]), _millions(generator), discriminators, state]


def _clip(section: dict[str, Any]) -> str:
    return f"{section['frames']} x {section['framing']['height']} x {section['framing']['width']}"


def _tokens(tokens: dict[str, Any]) -> tuple[str, str, str]:
    levels = [s for s in tokens["streams"] if s["role"] == "level"]
    counts = [math.prod(level["grid"]) * level["codebooks"] for level in levels]
    bits = sum(count * math.log2(level["codebook_size"]) for count, level in zip(counts, levels, strict=True))
    return _clip(tokens), f"{sum(counts):,}", f"{bits:,.0f}"


def _parameters(parameters: dict[str, int]) -> tuple[str, str, str]:
    tokenizer = _millions(parameters["tokenizer"]) if "tokenizer" in parameters else "-"
    priors = [_millions(count) for name, count in parameters.items() if name != "tokenizer"]
    return tokenizer, " + ".join(priors) or "-", _bytes(BYTES_PER_PARAMETER * max(parameters.values()))


def _section(name: str, preset: dict[str, Any]) -> Iterator[str]:
    """The preset's description, and its levels and training in a line each."""
    yield f"### {name}\n"
    yield f"{_description(name)}\n"
    if "tokens" in preset:
        levels = [level for level in preset["tokens"]["streams"] if level["role"] == "level"]
        yield "- tokens: " + "; ".join(map(_level, levels)) + f"; {preset['tokens']['time']}"
    for network, count in preset["parameters"].items():
        if network.startswith("discriminators."):  # trained with the generator
            yield f"- {network.replace('.', ', ')}: {count:,} parameters"
            continue
        config, training = _part(preset, network), _part(preset["training"], network)
        yield (
            f"- `{config['type']}`: {count:,} parameters; {training['steps']:,} steps, "
            f"batch {training['batch']}, {training['optimizer']}, {training['precision']}"
        )
    yield ""


def _part(sections: dict[str, Any], network: str) -> Any:
    """The part for a network: `prior.top` is `top` of `prior`."""
    return reduce(lambda section, name: section[name], network.split("."), sections)


def _level(level: dict[str, Any]) -> str:
    grid = " x ".join(map(str, level["grid"]))
    books = "a codebook" if level["codebooks"] == 1 else f"{level['codebooks']} codebooks"
    return f"`{level['name']}` of {grid} positions, {books} of {level['codebook_size']:,}"


def _description(name: str) -> str:
    """As Markdown."""
    return description(name).replace("*", r"\*").replace("_", r"\_")


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count < 1e7 else f"{count / 1e6:.0f} M"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
