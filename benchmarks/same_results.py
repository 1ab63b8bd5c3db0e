"""Whether two checkouts give the same results: fixed small jobs through the command line, and what they produced.

    PYTHONPATH=A/src python -m tokenreel.benchmarks.same_results record before.json
    PYTHONPATH=B/src python -m tokenreel.benchmarks.same_results record after.json
    python -m tokenreel.benchmarks.same_results compare before.json after.json

`record` runs every tiny system at 32 x 32 pixels on one thread, which takes two minutes of a core: videos, controls,
tokenizers, caches, priors, samples, decoded and generated videos. It keeps hashes of bytes and numbers of losses and
scores, none of the names that stand beside them, so that renamed files, modules, settings and metrics compare equal.
What depends on time is left out, and so are the hashes of configurations and caches, which cover names. `compare`
prints what differs and ends with 1 if anything does. Both records have to come from one machine: another processor
rounds differently.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read when torch and numpy are imported

import csv
import hashlib
import io
import json
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import load_file

from tokenreel.config import preset_names
from tokenreel.data.cache.reader import TokenCache
from tokenreel.pipelines.cli.program import run_command
from tokenreel.priors.base import build_prior
from tokenreel.priors.ngram.prior import TemporalBigramPrior, UnigramPrior

Entries = dict[str, Any]  # by <system>/<job>/<what>: a hash, or numbers

# What is typed. A word that begins with @ stands for a path or a name of the job.
CLIPS = "--set data.frames=8 --set data.framing.height=32 --set data.framing.width=32"
TRAINING = f"--preset @preset {CLIPS} --set training.log_every=1 --steps 4 --device cpu --out @out"
LINES = {
    "preset": "presets show @preset",
    "videos": "tabletop @out --videos 12 --frames 16 --size 32 --seed 1",
    "controls": f"fit-controls --preset @preset {CLIPS} --data @videos --out @out",
    "tokenizer": f"train-tokenizer {TRAINING} --data @videos --seed 2 --workers 0",
    "tokens": "tokenize-dataset --tokenizer @tokenizer --data @videos --out @out --allow-collapsed --device cpu",
    "prior": f"train-prior {TRAINING} --set training.prior.warmup=0 --cache @tokens --seed 3",
    "sample": "sample --cache @tokens --num 3 --batch 2 --seed 4 --out @out --device cpu",
    "decode": "decode --tokens @tokens --tokenizer @tokenizer --format npy --batch 5 --out @out --device cpu",
    "reconstruct": "reconstruct --tokenizer @tokenizer --data @videos --num 2 --out @out --device cpu",
    "generate": "generate --tokenizer @tokenizer --num 2 --seed 5 --format npy --out @out --device cpu",
}
SAMPLED = {  # how samples may be drawn
    "plain": "",
    "draft": "--speculate 4",
    "long": "--frames 13 --window-stride 3",
    "long-draft": "--frames 13 --speculate 3",
    "top-k": "--top-k 5 --temperature 0.8",
    "top-p": "--top-p 0.7",
    "greedy": "--greedy",
    "guided": "--guidance 3",
    "guided-draft": "--guidance 3 --speculate 4",
    "guided-long": "--guidance 2 --frames 13",
    "drawn-controls": "--given-controls none",
    "top-k-of-state": "--top-k-of state=3 --given-controls none",
    "top-k-of-top": "--top-k-of top=5",
    "class": "--given-controls class --guidance 9",
}
DECODED = {  # with which true frames codes may be decoded
    "context": "--context 2 --context-video @videos --given-frames 3",
    "no-context": "--context 0",
    "sample-plain": "--context-video @videos --end @videos",
    "sample-long": "--context-video @videos",
}
GIVEN, NOTHING_GIVEN, KNOWN = "--given-frames @given", "--given-frames 0", "--given-frames 1 --context 2"
WITH_CONTROLS, LEVEL, PRIOR = "--controls @controls", "--level @level", "--prior @prior"
SUBSCALE = "--set prior.subscale=[8,1,1]"  # slices of one frame, in clips of eight
CONTEXT = "--set tokenizer.context=3"
# With 8 frames the top has 2 steps, and oneDNN's weight gradient of a 3 x 3 x 3 convolution over 2 steps in bf16 reads
# memory that nobody wrote (torch 2.13, on a processor with avx512_bf16).
LONG_CLIPS = "--set data.frames=16"
TOKENIZERS = {  # settings that no tiny preset has
    "fsq": ("gpt-tabletop-tiny", "--set 'tokenizer.quantizer={type: fsq, levels: [5, 5, 3]}'"),
    "lfq": ("gpt-tabletop-tiny", "--set 'tokenizer.quantizer={type: lfq, bits: 6}'"),
    "adversarial": (
        "ccvs-tabletop-tiny",
        f"{CONTEXT} --set 'training.tokenizer.image_discriminator={{width: 8}}' "
        "--set 'training.tokenizer.temporal_discriminator={width: 8}' "
        "--set 'training.tokenizer.adversarial={start_step: 1, adaptive: true, r1_every: 2}'",
    ),
}
SUBSCALE_PRIORS = {
    "spatial-key": "--set prior.subscale=[1,2,2] --set prior.kernel=[1,3,3] --set prior.attention=key",
    "spatiotemporal-relative": "--set prior.subscale=[4,2,2] --set prior.kernel=[5,3,3] --set prior.attention=relative",
    "adaptive": f"{SUBSCALE} --set prior.adaptive_input=true --set prior.adaptive_softmax=true "
    "--set prior.cutoffs=[16] --set prior.tied=projections",
}
ALL_CONTROLS = (
    "--set 'controls.sound={type: sound, codebook_size: 8, bands: 4, slices: 1, spectra: 2, rate: 2000, window: 128}'"
)
COUNTED = ("unigram", "temporal-bigram")
TIME = "second"  # in the names of numbers that are times or rates


@dataclass
class Jobs:
    """Runs jobs, each in the folder of its name below `work`, and keeps what they produced."""

    work: Path
    entries: Entries = field(default_factory=dict)

    def run(self, job: str, kind: str, flags: str = "", **places: object) -> Path:
        """The line of that kind with these flags; records its product as the kind has it. Returns its folder."""
        out = self.work / job
        out.parent.mkdir(parents=True, exist_ok=True)
        summary = tokenreel(self.words(job, kind, flags, **places))
        self.record(job, RECORDED[kind](out, summary))
        return out

    def words(self, job: str, kind: str, flags: str = "", **places: object) -> list[str]:
        """What `run` types."""
        places |= {"out": self.work / job, "videos": self.work / "videos"}
        words = shlex.split(f"{LINES[kind]} {flags}")
        return [str(places[word[1:]]) if word.startswith("@") else word for word in words]

    def record(self, job: str, found: Mapping[str, Any]) -> None:
        self.entries |= {f"{job}/{what}": value for what, value in found.items()}

    @property
    def video(self) -> Path:
        """The first of the videos."""
        return next((self.work / "videos").glob("*/000000.mp4"))


def tokenreel(words: list[str]) -> dict[str, Any]:
    """Runs a command line in this process. Returns its summary; ends this one where it fails."""
    said = io.StringIO()
    with redirect_stdout(said):
        code = run_command([*words, "--json", "--quiet", "--debug"])
    if code:
        sys.exit(f"exit code {code}: tokenreel {shlex.join(words)}\n{said.getvalue()}")
    return json.loads(said.getvalue())


# What of a job's folder and summary is recorded.


def of_files(out: Path, _: Mapping[str, Any]) -> Entries:
    return {str(path.relative_to(out)): sha256(path.read_bytes()) for path in out.rglob("*") if path.is_file()}


def of_streams(out: Path, _: Mapping[str, Any]) -> Entries:
    """All files of each stream, by its name and their places in it."""
    return of_files(out / "streams", {})


def of_samples(out: Path, summary: Mapping[str, Any]) -> Entries:
    return {**of_streams(out, summary), "summary": numbers(summary)}


def of_arrays(out: Path, _: Mapping[str, Any]) -> Entries:
    arrays = {path.stem: np.load(path) for path in out.glob("*.npy")}
    return {name: [list(array.shape), sha256(array.tobytes())] for name, array in arrays.items()}


def of_scores(out: Path, _: Mapping[str, Any]) -> Entries:
    return {"scores": numbers(json.loads((out / "scores.json").read_text()))}


def of_training(out: Path, summary: Mapping[str, Any]) -> Entries:
    """Losses and scores, the trained weights, and the token files with samples of the last step."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    found: Entries = {"losses": [numbers(json.loads(line)) for line in lines], **of_model(out, summary)}
    for streams in out.rglob("streams"):
        found |= {f"samples/{name}": digest for name, digest in of_streams(streams.parent, {}).items()}
    return found


def of_model(out: Path, summary: Mapping[str, Any]) -> Entries:
    """Weights by value: whatever the tensors are called, and in whichever file they are."""
    tensors = [tensor for path in out.glob("*.safetensors") for tensor in load_file(path).values()]
    hashes = sorted(sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()) for tensor in tensors)
    return {"weights": sha256("".join(hashes).encode()), "tensors": len(tensors), "summary": numbers(summary)}


def of_preset(_: Path, summary: Mapping[str, Any]) -> Entries:
    return {"numbers": numbers(summary)}


def numbers(document: Any) -> list[float]:
    """All numbers in plain data in ascending order, but those that are named as times."""
    return sorted(_numbers(document))


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = [item for name, item in value.items() if TIME not in name]
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


RECORDED: dict[str, Callable[[Path, Mapping[str, Any]], Entries]] = {
    "preset": of_preset,
    "videos": of_files,
    "controls": of_model,
    "tokenizer": of_training,
    "tokens": of_streams,
    "prior": of_training,
    "sample": of_samples,
    "decode": of_arrays,
    "reconstruct": of_scores,
    "generate": of_arrays,
}


# The jobs, system by system. Each takes what it needs of those before it out of their folders.


def presets(jobs: Jobs) -> None:
    """Settings and sizes of all presets, those too that nothing here trains."""
    for name in preset_names():
        jobs.run(f"presets/{name}", "preset", preset=name)


def gpt(jobs: Jobs) -> None:
    places: dict[str, Any] = {"preset": "gpt-tabletop-tiny", "given": 1, "video": jobs.video}
    places |= first_stage(jobs, "gpt", "", places)
    places["prior"] = jobs.run("gpt/prior", "prior", **places)
    sample(jobs, "gpt", ("plain", "draft", "long", "long-draft", "top-k", "top-p", "greedy"), PRIOR, places)
    jobs.run("gpt/generate", "generate", f"{PRIOR} {GIVEN} --video @video --frames 13", **places)
    jobs.run("gpt/generate-from-nothing", "generate", f"{PRIOR} {NOTHING_GIVEN}", **places)


def counted(jobs: Jobs) -> None:
    """The two baselines, which have no training: they are counted here as train-prior counts them."""
    tokens = jobs.work / "gpt/tokens"
    for kind in COUNTED:
        out = jobs.work / f"counted/{kind}"
        count(kind, tokens, out)
        jobs.record(f"counted/{kind}", of_model(out, {}))
        sample(jobs, f"counted/{kind}", ("plain", "draft", "long"), PRIOR, {"tokens": tokens, "given": 1, "prior": out})


def count(kind: str, tokens: Path, out: Path) -> None:
    cache = TokenCache.open(tokens)
    prior = build_prior({"type": kind}, cache.spec)
    assert isinstance(prior, UnigramPrior | TemporalBigramPrior)
    prior.prepare([{name: torch.from_numpy(codes) for name, codes in cache.read(cache.rows("train")).items()}])
    prior.code_fingerprint = cache.code_fingerprint
    out.mkdir(parents=True)
    prior.save_pretrained(out)


def lvt(jobs: Jobs) -> None:
    places: dict[str, Any] = {"preset": "lvt-tabletop-tiny", "given": 1, "video": jobs.video}
    places |= first_stage(jobs, "lvt", "", places)
    places["prior"] = jobs.run("lvt/prior", "prior", SUBSCALE, **places)
    sample(jobs, "lvt", ("plain", "draft", "long", "top-k"), PRIOR, places)
    jobs.run("lvt/generate", "generate", f"{PRIOR} {GIVEN} --video @video", **places)
    for name, flags in SUBSCALE_PRIORS.items():
        places["prior"] = jobs.run(f"lvt-{name}/prior", "prior", flags, **places)
        sample(jobs, f"lvt-{name}", ("draft",), PRIOR, places)


def video_vqvae(jobs: Jobs) -> None:
    places: dict[str, Any] = {"preset": "video-vqvae-tabletop-tiny", "given": 4, "video": jobs.video}
    places |= first_stage(jobs, "video-vqvae", LONG_CLIPS, places)
    for level in ("top", "bottom"):
        places[level] = jobs.run(f"video-vqvae/{level}", "prior", f"{LEVEL} {LONG_CLIPS}", **places, level=level)
    priors = "--prior @top --prior @bottom"
    sample(jobs, "video-vqvae", ("plain", "draft", "top-k", "top-k-of-top"), priors, places)
    jobs.run("video-vqvae/generate", "generate", f"{priors} {GIVEN} --video @video", **places)


def ccvs(jobs: Jobs) -> None:
    places: dict[str, Any] = {"preset": "ccvs-tabletop-tiny", "given": 1, "video": jobs.video}
    places |= first_stage(jobs, "ccvs", CONTEXT, places)
    jobs.run("ccvs/reconstruct-given", "reconstruct", KNOWN, **places)
    for name in ("context", "no-context"):
        jobs.run(f"ccvs/decode-{name}", "decode", DECODED[name], **places)
    places["prior"] = jobs.run("ccvs/prior", "prior", CONTEXT, **places)
    sample(jobs, "ccvs", ("plain", "draft", "long"), PRIOR, places)
    for name in ("plain", "long"):
        places["tokens"] = jobs.work / f"ccvs/sample-{name}"
        jobs.run(f"ccvs/decode-{name}", "decode", DECODED[f"sample-{name}"], **places)
    jobs.run("ccvs/generate", "generate", f"{PRIOR} {GIVEN} --video @video --frames 11", **places)


def ccvs_end(jobs: Jobs) -> None:
    places = context_places(jobs, "ccvs-tabletop-tiny-end", "ccvs")
    places["prior"] = jobs.run("ccvs-end/prior", "prior", CONTEXT, **places)
    sample(jobs, "ccvs-end", ("plain", "draft", "guided", "guided-long", "drawn-controls"), PRIOR, places)
    jobs.run("ccvs-end/generate", "generate", f"{PRIOR} {GIVEN} --video @video --end @video", **places)


def ccvs_state(jobs: Jobs) -> None:
    places = context_places(jobs, "ccvs-tabletop-tiny-state", "ccvs-state")
    places["controls"] = jobs.run("ccvs-state/controls", "controls", **places)
    jobs.run("ccvs-state/tokens", "tokens", WITH_CONTROLS, **places)
    places["prior"] = jobs.run("ccvs-state/prior", "prior", CONTEXT, **places)
    drawn = ("plain", "draft", "long", "guided", "guided-draft", "drawn-controls", "top-k-of-state")
    sample(jobs, "ccvs-state", drawn, PRIOR, places)
    places["states"] = states_of(jobs, 8)
    flags = f"{PRIOR} {GIVEN} {WITH_CONTROLS} --video @video --states @states --guidance 1.5"
    jobs.run("ccvs-state/generate", "generate", flags, **places)


def ccvs_class(jobs: Jobs) -> None:
    """Classes, states and sounds in one cache; a prior of tracks alone before one that they steer."""
    places = context_places(jobs, "ccvs-tabletop-tiny-class", "ccvs-class")
    places["controls"] = jobs.run("ccvs-class/controls", "controls", ALL_CONTROLS, **places)
    jobs.run("ccvs-class/tokens", "tokens", WITH_CONTROLS, **places)
    places["prior"] = jobs.run("ccvs-class/prior", "prior", f"{CONTEXT} {ALL_CONTROLS}", **places)
    places["frames"] = jobs.work / "ccvs-state/prior"
    sample(jobs, "ccvs-class", ("plain", "class", "long"), f"{PRIOR} --prior @frames", places)
    flags = f"{CONTEXT} {ALL_CONTROLS} --set prior.controls=[sound]"
    places["prior"] = jobs.run("ccvs-sound/prior", "prior", flags, **{**places, "preset": "ccvs-tabletop-tiny-sound"})
    sample(jobs, "ccvs-sound", ("plain", "guided"), PRIOR, places)
    flags = f"{PRIOR} {WITH_CONTROLS} {NOTHING_GIVEN} --sound @video"
    jobs.run("ccvs-sound/generate", "generate", flags, **places)


def other_tokenizers(jobs: Jobs) -> None:
    for name, (preset, flags) in TOKENIZERS.items():
        tokenizer = jobs.run(f"{name}/tokenizer", "tokenizer", flags, preset=preset)
        jobs.run(f"{name}/tokens", "tokens", tokenizer=tokenizer)


def first_stage(jobs: Jobs, system: str, flags: str, places: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer, the cache of its codes, these decoded, and clips put through it. Returns where the first two are."""
    tokenizer = jobs.run(f"{system}/tokenizer", "tokenizer", flags, **places)
    made: dict[str, Any] = {
        "tokenizer": tokenizer,
        "tokens": jobs.run(f"{system}/tokens", "tokens", tokenizer=tokenizer),
    }
    jobs.run(f"{system}/decode", "decode", **made)
    jobs.run(f"{system}/reconstruct", "reconstruct", **made)
    return made


def context_places(jobs: Jobs, preset: str, cache: str) -> dict[str, Any]:
    """Paths for a system with the tokenizer of `ccvs`, whose codes are those of the system `cache`."""
    paths = {"tokenizer": jobs.work / "ccvs/tokenizer", "tokens": jobs.work / cache / "tokens", "video": jobs.video}
    return {"preset": preset, "given": 1, **paths}


def sample(jobs: Jobs, system: str, names: Iterable[str], priors: str, places: Mapping[str, Any]) -> None:
    for name in names:
        jobs.run(f"{system}/sample-{name}", "sample", f"{priors} {GIVEN} {SAMPLED[name]}", **places)


def states_of(jobs: Jobs, frames: int) -> Path:
    """A table of the first video's states as `generate` takes it."""
    with (jobs.work / "videos/states.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.pop("file_name").endswith(jobs.video.name)][:frames]
    path = jobs.work / "states.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


SYSTEMS = (presets, gpt, counted, lvt, video_vqvae, ccvs, ccvs_end, ccvs_state, ccvs_class, other_tokenizers)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--work", type=click.Path(path_type=Path), help="New folder for what the jobs write; default: removed.")
def record(out: Path, work: Path | None) -> None:
    """Run all jobs and write what they produced into OUT."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = Jobs((work or Path(folder)).absolute())
        jobs.run("videos", "videos")
        for system in SYSTEMS:
            started, before = time.perf_counter(), len(jobs.entries)
            system(jobs)
            seconds = time.perf_counter() - started
            click.echo(f"{system.__name__}: {len(jobs.entries) - before} entries, {seconds:.0f} s")
    about = {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability(), "os": platform.machine()}
    out.write_text(json.dumps({"about": about, "entries": jobs.entries}, indent=1, sort_keys=True) + "\n")


@main.command()
@click.argument("a", type=click.Path(path_type=Path, exists=True))
@click.argument("b", type=click.Path(path_type=Path, exists=True))
def compare(a: Path, b: Path) -> None:
    """Print the entries of A and B that differ."""
    first, second = (json.loads(path.read_text()) for path in (a, b))
    if first["about"] != second["about"]:
        click.echo(f"recorded under other conditions: {first['about']} and {second['about']}")
    first, second = first["entries"], second["entries"]
    differ = [name for name in sorted(first | second) if first.get(name) != second.get(name)]
    for name in differ:
        click.echo(f"{name}{difference(first.get(name), second.get(name))}")
    click.echo(f"{len(first | second) - len(differ)} entries are equal, {len(differ)} differ")
    sys.exit(bool(differ))


def difference(a: Any, b: Any) -> str:
    """In words where two entries first differ, None being one that is not there."""
    if not (isinstance(a, list) and isinstance(b, list) and len(a) == len(b)):
        return f": {a} -> {b}"
    place = next(i for i, (one, other) in enumerate(zip(a, b, strict=True)) if one != other)
    return f"[{place}]{difference(a[place], b[place])}"


if __name__ == "__main__":
    main()
