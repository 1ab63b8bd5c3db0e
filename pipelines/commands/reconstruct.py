"""`tokenreel reconstruct`: video -> tokens -> video, side by side, with the scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import make_plan
from tokenreel.data.video.writer import write_video
from tokenreel.errors import DataError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.decoding.reconstruction import Scorer, data_config_of, mean_image_of, reconstruct
from tokenreel.pipelines.decoding.tokens_to_video import frame_rate_of, require_context
from tokenreel.pipelines.report.pictures import beside
from tokenreel.tokenizers.base import VideoTokenizer


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
