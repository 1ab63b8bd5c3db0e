"""`tokenreel reconstruct`: video -> tokens -> video, side by side, with the scores."""

from __future__ import annotations

import json
from typing import Any

from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.video.probe_store import probes_beside
from tokenreel.data.video.writer import write_video
from tokenreel.errors import DataError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.plans import plan_of
from tokenreel.pipelines.common.progress import progress
from tokenreel.pipelines.decoding.reconstruction import Scorer, data_config_of, mean_image_of, reconstruct
from tokenreel.pipelines.decoding.tokens_to_video import frame_rate_of, require_context
from tokenreel.pipelines.report.pictures import beside
from tokenreel.pipelines.requests.decoding import ReconstructRequest
from tokenreel.tokenizers.base import VideoTokenizer


def run(request: ReconstructRequest) -> dict[str, Any]:
    """Reconstructs the first `num` clips of the split (None: validation, or all clips where that is empty).

    `out/original`, `out/reconstructed` and `out/side_by_side` hold an mp4 of each, `out/scores.json` the scores over
    all of them, without the given frames.

    Raises DataError where the split has no clip, ConfigError for context that the tokenizer or the clips do not have.
    """
    device = choose_device(request.device)
    tokenizer = VideoTokenizer.from_pretrained(request.tokenizer, revision=request.revision).freeze().to(device)
    context, given, out = request.context, request.given_frames, request.out
    require_context(tokenizer, tokenizer.spec.frames, context, given)
    folders = [out / name for name in ("original", "reconstructed", "side_by_side")]
    with DecodePool(request.data, workers=1, probes=probes_beside(out)) as pool:
        plan = plan_of(pool, data_config_of(tokenizer), limit=request.limit)
        split = request.split or ("validation" if len(plan.rows("validation")) else None)
        rows = plan.rows(split)[: request.num]
        if not len(rows):
            raise DataError(f"--split {request.split}: {request.data} has no such clip among its {len(plan)}")
        fresh_folder(out)
        for folder in folders:
            folder.mkdir()
        scorer = Scorer(tokenizer, mean_image_of(plan, pool))
        clips = reconstruct(tokenizer, plan, pool, rows, context, given)
        for clip in progress(clips, "reconstruct", "clip", len(rows)):
            scorer.update(clip)
            videos = (clip.original, clip.decoded, beside([clip.original, clip.decoded]))
            for folder, frames in zip(folders, videos, strict=True):
                write_video(folder / f"{clip.row:06d}.mp4", frames, frame_rate_of(tokenizer))
    scores = scorer.compute()
    (out / "scores.json").write_text(json.dumps(scores, indent=1))
    quarantined = [f"{name}: {reason} ({detail})" for name, reason, detail in plan.unreadable]
    return {
        "out": str(out),
        "clips": len(rows),
        "videos": len(set(plan.video[rows].tolist())),
        "split": split or "all",
        "context": tokenizer.context if context is None else context,
        "given_frames": given,
        **scores,
        "quarantined": len(quarantined),
        "quarantined_videos": quarantined[:20],
    }
