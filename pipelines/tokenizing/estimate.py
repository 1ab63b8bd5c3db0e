"""What tokenizing a data set will take, estimated from the plan and from encoding a batch of black clips."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tokenreel.data.cache.layout import CacheHeader
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.tokenizing.job import TokenizeJob, make_encoder
from tokenreel.tokenizers.base import VideoTokenizer


def estimate(model: VideoTokenizer, job: TokenizeJob, header: CacheHeader, workers: int) -> dict[str, Any]:
    """The summary of `--dry-run`. Time is that of the encoder: decoding, if it is slower, takes longer."""
    framing = header.spec.framing
    batch = header.provenance["batch"]
    frames = np.zeros((batch, header.row_frames, framing.height, framing.width, 3), dtype=np.uint8)
    encode = make_encoder(model, job)
    with cpu_threads(1):
        encode(frames)  # warm-up: the first call also selects kernels
        started = time.perf_counter()
        encode(frames)
        seconds = time.perf_counter() - started
    tokens_per_row = sum(layout.row_bytes // layout.dtype.itemsize for layout in header.streams.values())
    return {
        "dry_run": True,
        "rows": header.rows,
        "tokens": header.rows * tokens_per_row,
        "shards": header.shards,
        "disk_bytes": sum(map(header.bytes_of, range(header.shards))),
        "encode_seconds": round(header.rows / batch * seconds / workers, 1),
        "memory_bytes_per_worker": 3 * frames.nbytes + header.bytes_of(0),
    }
