"""`tokenreel tokenize-dataset`: a frozen tokenizer and a data set become a sealed token cache.

The cache is the same, byte for byte, for any number of workers or machines and after any crash. Here the plan is made
or loaded, the work divided, and the cache sealed; `data/cache/fill.py` fills the shards.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from math import lcm
from pathlib import Path
from typing import Any

from tokenreel.config import to_mapping
from tokenreel.data.cache.documents import CacheDocuments
from tokenreel.data.cache.layout import CacheHeader, choose_shard_rows
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.writer import CacheWriter, holds_cache
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import BY_REQUEST, REQUESTED, TOO_SHORT, Plan, requested_exclusions
from tokenreel.data.plan_config import DataConfig
from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import TokenSpec
from tokenreel.data.video.probe_store import probes_beside
from tokenreel.errors import ConfigError, DataError, shown
from tokenreel.pipelines.common.device import choose_device
from tokenreel.pipelines.common.plans import describe_splits, inventory_of, plan_of, require_all_taken, with_contents
from tokenreel.pipelines.common.progress import Progress
from tokenreel.pipelines.common.settings import differing_settings
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.tokenizing.estimate import estimate
from tokenreel.pipelines.tokenizing.foreign_tokens import import_tokens
from tokenreel.pipelines.tokenizing.job import TokenizeJob, make_job, provenance
from tokenreel.pipelines.tokenizing.precision import fraction_changed
from tokenreel.pipelines.tokenizing.processes import fill_shards
from tokenreel.pipelines.tokenizing.stats import TokenizingStats, require_no_collapse
from tokenreel.pipelines.tokenizing.tables import TABLE_HASHES, require_same_tables, table_hashes
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.controls.controls import Controls


def run(request: TokenizeRequest) -> dict[str, Any]:
    """Writes the tokens of `data` into `out`, or continues what is there. Whichever call finds all shards written seals
    the cache. Without a tokenizer `data` is an .npy file of tokens that another program made.

    Raises ConfigError, DataError (more than `max_bad_fraction` of the videos or clips do not decode; a level has
    collapsed; `strict`, and something is skipped), CacheError (`out` holds something else, or cannot be written).
    """
    started = time.perf_counter()
    if request.tokenizer is None:
        return import_tokens(Location(request.data), request.out)
    job = _job(request, request.tokenizer)
    tokenizer, controls = job.load_tokenizer(), job.load_controls()
    loading = time.perf_counter() - started
    source = open_source(request.data)
    tables = table_hashes(source, controls)
    plan = _plan(request, source, clip_config(request, tokenizer.spec), tables)
    if request.strict:
        require_all_taken(source, plan)
    _require_few_bad_videos(plan, request.max_bad_fraction)
    inventory = inventory_of(source, plan)
    header = _header(job, tokenizer, controls, plan, tables, request.whole_videos)
    if request.dry_run:
        about = {**describe_splits(source, plan), "inventory": inventory}
        return {**estimate(job, header, plan, request, time.perf_counter() - started, loading), **about}
    writer = CacheWriter.create(request.out, header, plan.to_json(), {**_origin(request), "inventory": inventory})
    tally = TokenizingStats(header, request.max_bad_fraction)
    cache_id = _fill_and_seal(request, job, writer, tally, tokenizer.collapse_advice)
    summary = {**tally.summary(time.perf_counter() - started), **_outcome(request.out, plan, writer, cache_id)}
    summary |= {**describe_splits(source, plan), "inventory": inventory}
    if request.precision == "bf16":
        summary["tokens_changed_by_bf16"] = fraction_changed(job, plan)
    return summary


def clip_config(request: TokenizeRequest, spec: TokenSpec) -> DataConfig:
    """How videos are cut into rows. Raises ConfigError where the tokenizer or the flags do not allow it."""
    if not request.whole_videos:
        return DataConfig(spec.framing, spec.frames, request.clip_stride)
    if spec.time != "framewise":
        raise ConfigError(f"--whole-videos needs a framewise tokenizer, and this one is {spec.time!r}: omit it")
    if request.clip_stride is not None:
        raise ConfigError(
            f"--clip-stride (={request.clip_stride}) has no effect with --whole-videos, which keeps all frames"
        )
    return DataConfig(spec.framing, lcm(*(stream.stride for stream in spec.levels)))


def _job(request: TokenizeRequest, tokenizer: str) -> TokenizeJob:
    device = str(choose_device(request.device))
    revisions = (request.revision, request.controls_revision)
    places = (request.out, tokenizer, request.data)
    return make_job(*places, device, request.precision, request.controls, *revisions, request.decoders)


def _fill_and_seal(
    request: TokenizeRequest, job: TokenizeJob, writer: CacheWriter, tally: TokenizingStats, advice: str
) -> str | None:
    """The identity of the cache, or None where other calls have shards left to write. `advice`: against collapse."""
    rows = writer.header.rows
    approve = None if request.allow_collapsed else partial(require_no_collapse, request.out, advice)
    for _ in range(2):  # a second time if a shard was damaged before it was sealed
        shards = [shard for shard in writer.pending() if shard % request.num_shards == request.shard_index]
        with Progress(rows, "tokenize", "clip", done=rows - _rows_of(writer.header, shards)) as bar:
            for filled in fill_shards(job, shards, request.workers):
                tally.add(filled)
                bar.advance(filled.rows)
        cache_id = writer.seal(approve=approve)
        if cache_id or not shards:
            return cache_id
    return None


def _plan(request: TokenizeRequest, source: VideoSource, config: DataConfig, tables: Mapping[str, str]) -> Plan:
    """The plan of `out` if it has one, so that a restart reads no video twice; else a new one."""
    if not holds_cache(request.out):
        probes = None if request.dry_run else probes_beside(request.out)
        with DecodePool(source.location, request.workers * request.decoders, probes) as pool:
            return with_contents(plan_of(pool, config, exclude=request.exclude, limit=request.limit), source)
    started = CacheDocuments.load(request.out)
    plan = Plan.from_json(started.plan)
    plan.require_source(source)
    require_same_tables(request.out, started.header, tables)
    _require_same_flags(request, plan, source, config)
    return plan


def _require_same_flags(request: TokenizeRequest, plan: Plan, source: VideoSource, config: DataConfig) -> None:
    planned = {name: reason for name, reason, _ in plan.excluded if reason in REQUESTED}
    wanted = requested_exclusions(source.entries, request.exclude, request.limit)
    settings = differing_settings(to_mapping(plan.config), to_mapping(config))
    differences = [f"with {name} = {then}, not {now}" for name, (then, now) in settings.items()]
    if planned != wanted:
        differences.append(f"{_requested(planned)}, not {_requested(wanted)}")
    if differences:
        raise ConfigError(
            f"{request.out} was started {'; '.join(differences)}. Give the same tokenizer and flags, or a new folder"
        )


def _requested(excluded: Mapping[str, str]) -> str:
    """In words."""
    names = sorted(name for name, reason in excluded.items() if reason == BY_REQUEST)
    over = len(excluded) - len(names)
    parts = ([shown(names)] if names else []) + ([f"{over} over --limit"] if over else [])
    return f"without {' and '.join(parts)}" if parts else "with all videos"


def _require_few_bad_videos(plan: Plan, limit: float) -> None:
    bad = plan.unreadable
    if len(bad) > limit * len(plan.videos):
        examples = "; ".join(f"{name}: {reason} ({detail})" for name, reason, detail in bad[:3])
        raise DataError(
            f"{len(bad)} of {len(plan.videos)} videos cannot be read, more than --max-bad-fraction (={limit}): "
            f"{examples}. Exclude them (--exclude), or raise --max-bad-fraction"
        )


def _origin(request: TokenizeRequest) -> dict[str, str]:
    """Where the data, the tokenizer and the controls were."""
    places = {"data": request.data, "tokenizer": request.tokenizer, "controls": request.controls}
    return {name: place for name, place in places.items() if place is not None}


def _header(
    job: TokenizeJob,
    tokenizer: VideoTokenizer,
    controls: Controls | None,
    plan: Plan,
    tables: Mapping[str, str],
    whole_videos: bool,
) -> CacheHeader:
    frames = plan.config.frames
    spec = tokenizer.spec if controls is None else controls.added_to(tokenizer.spec)
    if whole_videos:
        _require_controls_of_frames(spec)
    shard_rows = choose_shard_rows(spec, frames, len(plan))
    return CacheHeader(
        kind="videos" if whole_videos else "clips",
        spec=spec,
        row_frames=frames,
        rows=len(plan),
        shard_rows=shard_rows,
        code_fingerprint=tokenizer.code_fingerprint,
        plan_sha256=plan.sha256,
        provenance={
            **provenance(tokenizer, controls, job, frames, shard_rows),
            **({TABLE_HASHES: dict(tables)} if tables else {}),
        },
    )


def _require_controls_of_frames(spec: TokenSpec) -> None:
    """Raises ConfigError for a control of a clip, such as its class: a whole video has no clips."""
    for stream in spec.streams:
        if stream.role == "control" and stream.stride > 1:
            raise ConfigError(
                f"--whole-videos cannot store the control {stream.name!r}, which belongs to a clip and not to a frame: "
                "omit the flag, or fit the controls without it"
            )


def _rows_of(header: CacheHeader, shards: Iterable[int]) -> int:
    return sum(len(header.columns["valid"].rows_of(shard)) for shard in shards)


def _outcome(out: Path, plan: Plan, writer: CacheWriter, cache_id: str | None) -> dict[str, Any]:
    """What the cache holds now, whichever call wrote it."""
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
