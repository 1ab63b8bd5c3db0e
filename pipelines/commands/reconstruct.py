"""`tokenreel reconstruct`: video -> tokens -> video, side by side, with the scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_model
from tokenreel.data.plan import DataConfig, Plan, make_plan
from tokenreel.data.video.writer import write_video
from tokenreel.errors import DataError
from tokenreel.metrics.codes import CodeCounter
from tokenreel.metrics.reconstruction import ReconstructionScores, mean_image
from tokenreel.pipelines.commands.decode import decode_tokens, frame_rate_of, require_context
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.output_folder import fresh_folder
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.report.pictures import beside
from tokenreel.tokenizers.base import VideoTokenizer

MEAN_IMAGE_CLIPS = 64  # training clips, enough for the mean of a fixed camera's picture
READ_AHEAD = 4  # clips


@dataclass(frozen=True)
class ReconstructedClip:
    row: int  # of the plan
    original: np.ndarray  # uint8 [T, H, W, 3]
    decoded: np.ndarray  # uint8 [T, H, W, 3]; the first `known` ones are the original's
    tokens: dict[str, np.ndarray]  # [t, h, w, q] by stream
    known: int = 0  # first frames that were not decoded


def run(
    tokenizer: str,
    data: str,
    out: Path,
    num: int,
    split: str | None = "validation",
    context: int | None = None,
    prime: int = 0,
    device: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Reconstructs the first `num` clips of `split`: `out/original`, `out/reconstructed` and `out/side_by_side` hold an
    mp4 of each, `out/scores.json` the scores over all of them.

    Each frame is decoded with up to `context` decoded ones before it (None: as the tokenizer has it). The first `prime`
    frames are known: they stand in for their reconstruction, and the scores leave them out. Raises DataError where the
    split has no clip, ConfigError for context that the tokenizer or the clips do not have.
    """
    model = VideoTokenizer.from_pretrained(tokenizer, revision=revision).freeze().to(choose_device(device))
    require_context(model, model.spec.frames, context, prime)
    folders = {name: out / name for name in ("original", "reconstructed", "side_by_side")}
    with DecodePool(data, workers=1) as pool:
        plan = make_plan(pool.source, data_config_of(model), pool.probe(range(len(pool.source.entries))))
        rows = plan.rows(split)[:num]
        if not len(rows):
            raise DataError(f"--split {split}: {data} has no such clip; it has {len(plan)} in all")
        fresh_folder(out)
        for folder in folders.values():
            folder.mkdir()
        rate = frame_rate_of(model)
        scorer = Scorer(model, mean_image_of(plan, pool))
        for clip in progress(reconstruct(model, plan, pool, rows, context, prime), "reconstruct", "clip", len(rows)):
            scorer.update(clip)
            pairs = (clip.original, clip.decoded, beside([clip.original, clip.decoded]))
            for folder, frames in zip(folders.values(), pairs, strict=True):
                write_video(folder / f"{clip.row:06d}.mp4", frames, rate)
    scores = scorer.compute()
    (out / "scores.json").write_text(json.dumps(scores, indent=1))
    quarantined = [f"{name}: {reason} ({detail})" for name, reason, detail in plan.unreadable]
    used = {"context": model.context if context is None else context, "known_frames": prime}
    summary = {"out": str(out), "clips": len(rows), "split": split, **used, **scores}
    return {**summary, "quarantined": len(quarantined), "quarantined_videos": quarantined[:20]}


def data_config_of(tokenizer: VideoTokenizer) -> DataConfig:
    """Clips as the tokenizer takes them, divided as everywhere by default, so that held-out videos stay held out."""
    return DataConfig(tokenizer.spec.framing, tokenizer.spec.frames)


def mean_image_of(plan: Plan, pool: DecodePool) -> np.ndarray:
    """float64 [H, W, 3], of training clips spread over the plan."""
    rows = plan.rows("train")
    chosen = rows[np.linspace(0, len(rows) - 1, min(MEAN_IMAGE_CLIPS, len(rows))).astype(np.int64)]
    return mean_image(clip for _, clip in read_clips(plan, pool, chosen))


def read_clips(plan: Plan, pool: DecodePool, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(row, uint8 [T, H, W, 3]). Raises DecodeFailure where a clip does not decode."""
    for row, result in zip(rows.tolist(), pool.read(map(plan.request, rows.tolist()), ahead=READ_AHEAD), strict=True):
        if result.frames is None:
            assert result.failure is not None
            raise result.failure
        yield row, result.frames


def reconstruct(
    tokenizer: VideoTokenizer,
    plan: Plan,
    pool: DecodePool,
    rows: np.ndarray,
    context: int | None = None,
    known: int = 0,
) -> Iterator[ReconstructedClip]:
    """The clips of `rows` of the plan, one after the other; `context` and `known` (first frames) as `run` has them."""
    device = next(tokenizer.parameters()).device
    for row, original in read_clips(plan, pool, rows):
        with torch.inference_mode():
            codes = tokenizer.encode(to_model(original[None], device))
        tokens = {name: array.cpu().numpy() for name, array in codes.items()}
        first = original[None, :known] if known else None
        decoded = decode_tokens(tokenizer, tokens, context=context, known=first)[0]
        yield ReconstructedClip(row, original, decoded, {name: array[0] for name, array in tokens.items()}, known)


class Scorer:
    """Scores of reconstructed clips: pixels of the frames that were decoded, and how much of each codebook they use."""

    def __init__(self, tokenizer: VideoTokenizer, mean_image: np.ndarray) -> None:
        self._pixels = ReconstructionScores(mean_image)
        self._compression = tokenizer.spec.compression
        self.counters = {level.name: CodeCounter(level.codes, level.codebooks) for level in tokenizer.spec.levels}

    def update(self, clip: ReconstructedClip) -> None:
        self._pixels.update(clip.original[clip.known :], clip.decoded[clip.known :])
        for name, counter in self.counters.items():
            counter.update(clip.tokens[name])

    def compute(self) -> dict[str, Any]:
        """Those of `ReconstructionScores`, `compression` (the part of the bits that the codes save) and `codes`:
        share used and perplexity of each level's codebooks.
        """
        codes = {
            name: [{"used": round(use.used, 4), "perplexity": round(use.perplexity, 1)} for use in counter.use()]
            for name, counter in self.counters.items()
        }
        pixels = {name: round(value, 4) for name, value in self._pixels.compute().items()}
        return {**pixels, "compression": round(self._compression, 4), "codes": codes}
