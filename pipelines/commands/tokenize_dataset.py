"""`tokenreel tokenize-dataset`: a frozen tokenizer and a data set become a sealed token cache.

The cache is the same, byte for byte, for any number of workers or machines and through any crash. What a shard holds is
`data/cache/fill.py`'s; here the plan is made or taken up again, the work divided, and the cache sealed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import lcm
from pathlib import Path
from typing import Any

from tokenreel.data.cache.documents import CacheDocuments
from tokenreel.data.cache.layout import CacheHeader, choose_shard_rows
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import codes_to_cache
from tokenreel.data.cache.writer import CacheWriter, holds_cache
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import BY_REQUEST, TOO_SHORT, DataConfig, Plan, make_plan
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.numpy_files import read_foreign_codes
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing, TokenSpec
from tokenreel.errors import ConfigError, DataError
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.progress import Progress, progress
from tokenreel.pipelines.tokenizing.estimate import estimate
from tokenreel.pipelines.tokenizing.job import Precision, TokenizeJob, make_job, provenance
from tokenreel.pipelines.tokenizing.precision import fraction_changed
from tokenreel.pipelines.tokenizing.processes import fill_shards
from tokenreel.pipelines.tokenizing.stats import TokenizingStats, require_no_collapse
from tokenreel.pipelines.tokenizing.tables import TABLE_HASHES, require_same_tables, table_hashes
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.controls.controls import Controls


def run(
    *,
    tokenizer: str | None,
    data: str,
    out: Path,
    controls: str | None = None,
    workers: int = 1,
    shard_index: int = 0,
    num_shards: int = 1,
    device: str | None = None,
    precision: Precision = "fp32",
    revision: str | None = None,
    controls_revision: str | None = None,
    exclude: Sequence[str] = (),
    hop: int | None = None,
    whole_videos: bool = False,
    max_bad_fraction: float = 0.05,
    allow_collapsed: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Writes the tokens of `data` into `out`, or goes on with what is there; the fields of the result are its summary.

    `controls`: fitted coders, whose tracks are written beside the tokenizer's codes. `revision` is the tokenizer's.
    Without a `tokenizer` `data` is an npy file of codes that another program made, which become a cache as they are.
    `shard_index` of `num_shards`: the part of the work that this call does; whichever call finds all of it done seals.
    Raises ConfigError, DataError (more than `max_bad_fraction` of the videos or rows do not decode; a level has
    collapsed and `allow_collapsed` is not set), CacheError (`out` holds something else, cannot be written).
    """
    started = time.perf_counter()
    if not 0 <= shard_index < num_shards:
        raise ConfigError(f"--shard-index (={shard_index}) must be at least 0 and below --num-shards (={num_shards})")
    if tokenizer is None:
        return import_codes(Path(data), out)
    job = make_job(out, tokenizer, data, str(choose_device(device)), precision, controls, revision, controls_revision)
    model, coders = job.load_tokenizer(), job.load_controls()
    config = clip_config(model.spec, hop, whole_videos)
    source = open_source(data)
    tables = table_hashes(source, coders)
    plan = _plan(out, source, config, exclude, tables)
    _require_few_bad_videos(plan, max_bad_fraction)
    header = _header(model, coders, job, plan, whole_videos, tables)
    if dry_run:
        return estimate(model, job, header, workers)
    writer = CacheWriter.create(out, header, plan.to_json(), _origin(data, str(tokenizer), controls))
    stats = TokenizingStats(header, max_bad_fraction)
    cache_id = None
    for _ in range(2):  # a second time if a shard was damaged before it was sealed
        shards = [shard for shard in writer.pending() if shard % num_shards == shard_index]
        with Progress(header.rows, "tokenize", "clip", done=header.rows - _rows_of(header, shards)) as bar:
            for filled in fill_shards(job, shards, workers):
                stats.add(filled)
                bar.advance(filled.rows)
        approve = None if allow_collapsed else partial(require_no_collapse, out, model.collapse_advice)
        cache_id = writer.seal(approve=approve)
        if cache_id or not shards:
            break
    summary = {**stats.summary(time.perf_counter() - started), **_outcome(out, plan, writer, cache_id)}
    return {**summary, "codes_changed_by_bf16": fraction_changed(job, plan)} if precision == "bf16" else summary


def import_codes(codes: Path, out: Path) -> dict[str, Any]:
    """Foreign codes [N, t, h, w] or [N, t, h, w, q] as a cache. Raises DataError where the file holds anything else."""
    if codes.suffix != ".npy":
        raise DataError(
            f"--data {codes} is no .npy file of codes: give it, or a --tokenizer that makes codes of videos"
        )
    array = read_foreign_codes(codes)
    framing = Framing(*array.shape[2:4])  # the videos are not known: a pixel a code
    cache_id = codes_to_cache(out, array, framing)
    return {"rows": len(array), "tokens": int(array.size), "out": str(out), "cache_id": cache_id, "sealed": True}


def clip_config(spec: TokenSpec, hop: int | None, whole_videos: bool) -> DataConfig:
    """How videos are cut into rows. Raises ConfigError where the tokenizer or the flags do not allow it."""
    if not whole_videos:
        return DataConfig(spec.framing, spec.frames, hop)
    if spec.time != "framewise":
        raise ConfigError(f"--whole-videos is for framewise tokenizers, this one is {spec.time!r}: leave it out")
    if hop is not None:
        raise ConfigError(f"--hop (={hop}) means nothing with --whole-videos, which keep every frame: leave one out")
    return DataConfig(spec.framing, lcm(*(stream.stride for stream in spec.levels)))


def _plan(
    out: Path, source: VideoSource, config: DataConfig, exclude: Sequence[str], tables: Mapping[str, str]
) -> Plan:
    """The plan of `out` if it has one, so that a restart reads no video twice; else a new one."""
    if not holds_cache(out):
        with DecodePool(source.location, workers=1) as pool:
            probes = progress(pool.probe(range(len(source.entries))), "plan", "video", total=len(source.entries))
            return make_plan(source, config, probes, exclude)
    begun = CacheDocuments.load(out)
    plan = Plan.from_json(begun.plan)
    plan.require_source(source)
    require_same_tables(out, begun.header, tables)
    _require_same_flags(out, plan, config, exclude)
    return plan


def _require_same_flags(out: Path, plan: Plan, config: DataConfig, exclude: Iterable[str]) -> None:
    begun = {name for name, reason, _ in plan.excluded if reason == BY_REQUEST}
    if plan.config != config or begun != set(exclude):
        raise ConfigError(
            f"{out} was begun with {plan.config} without {sorted(begun) or 'no video'}; this is {config} without "
            f"{sorted(exclude) or 'no video'}. Give the same flags and tokenizer, or a new folder"
        )


def _require_few_bad_videos(plan: Plan, limit: float) -> None:
    bad = plan.unreadable
    if len(bad) > limit * len(plan.videos):
        shown = "; ".join(f"{name}: {reason} ({detail})" for name, reason, detail in bad[:3])
        raise DataError(
            f"{len(bad)} of {len(plan.videos)} videos cannot be read, more than --max-bad-fraction (={limit}): "
            f"{shown}. Leave them out by --exclude, or raise --max-bad-fraction"
        )


def _origin(data: str, tokenizer: str, controls: str | None) -> dict[str, str]:
    """Where the data and what made the codes were found."""
    return {"data": data, "tokenizer": tokenizer, **({} if controls is None else {"controls": controls})}


def _header(
    model: VideoTokenizer,
    controls: Controls | None,
    job: TokenizeJob,
    plan: Plan,
    whole_videos: bool,
    tables: Mapping[str, str],
) -> CacheHeader:
    frames = plan.config.frames
    spec = model.spec if controls is None else controls.added_to(model.spec)
    if whole_videos:
        _require_frame_tracks(spec)
    shard_rows = choose_shard_rows(spec, frames, len(plan))
    return CacheHeader(
        kind="videos" if whole_videos else "clips",
        spec=spec,
        row_frames=frames,
        rows=len(plan),
        shard_rows=shard_rows,
        code_fingerprint=model.code_fingerprint,
        plan_sha256=plan.sha256,
        provenance={
            **provenance(model, controls, job, frames, shard_rows),
            **({TABLE_HASHES: dict(tables)} if tables else {}),
        },
    )


def _require_frame_tracks(spec: TokenSpec) -> None:
    """Raises ConfigError where a track stands for a whole clip, for a video kept whole has none."""
    for stream in spec.streams:
        if stream.role == "control" and stream.stride > 1:
            raise ConfigError(
                f"--whole-videos keeps no code of a whole clip, which control {stream.name!r} is: leave it out, or "
                "leave that control out of the section controls"
            )


def _rows_of(header: CacheHeader, shards: Iterable[int]) -> int:
    return sum(len(header.columns["valid"].rows_of(shard)) for shard in shards)


def _outcome(out: Path, plan: Plan, writer: CacheWriter, cache_id: str | None) -> dict[str, Any]:
    """What the cache holds now, whoever wrote it."""
    cache = TokenCache.open(out, allow_partial=True)
    invalid = writer.invalid_rows()
    too_short = [name for name, reason, _ in plan.excluded if reason == TOO_SHORT]
    return {
        "out": str(out),
        "cache_id": cache_id,
        "sealed": cache_id is not None,
        "shards": writer.header.shards,
        "missing_shards": len(writer.pending()),
        "videos": len(plan.videos) - len(plan.excluded),
        "valid_rows": int(cache.column("valid").sum()),
        "videos_too_short": too_short[:20],
        "quarantined": len(plan.unreadable) + len(invalid),
        "quarantined_videos": [f"{name}: {reason} ({detail})" for name, reason, detail in plan.unreadable[:20]],
        "quarantined_rows": [f"{bad.row}: {bad.reason}" for bad in invalid[:20]],
    }
