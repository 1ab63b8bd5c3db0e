"""The work of one process in tokenizing a data set: load the frozen tokenizer, open the data, fill shards.

Batch size and number of threads change only the last bits of sums, but those can change a token. Both are therefore
fixed: one thread, and a batch size that follows from the size of a clip.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from tokenreel import __version__
from tokenreel.data.cache.documents import CacheDocuments
from tokenreel.data.cache.fill import Encoder, FilledShard, ShardFiller
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.pixels import to_model
from tokenreel.data.plan import Plan
from tokenreel.data.sources.open import SOURCES
from tokenreel.data.spec import TokenSpec
from tokenreel.data.video.probe_store import probes_beside
from tokenreel.hub import resolve
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.requests.tokenizing import Precision
from tokenreel.registry import Extendable
from tokenreel.tokenizers.base import TOKENIZERS, VideoTokenizer
from tokenreel.tokenizers.controls.base import CONTROL_ENCODERS
from tokenreel.tokenizers.controls.controls import Controls
from tokenreel.tokenizers.quantizers.base import QUANTIZERS

BATCH_PIXELS = {
    "cpu": 1 << 17,
    "cuda": 1 << 24,
}  # per device type: 32 (fits a CPU cache) or 4,096 frames of 64 x 64

REGISTRIES: tuple[Extendable, ...] = (SOURCES, TOKENIZERS, QUANTIZERS, CONTROL_ENCODERS)  # whose members a job may name


@dataclass(frozen=True)
class TokenizeJob:
    """What every process of a `tokenize-dataset` run needs to know."""

    cache: str  # folder with the plan
    tokenizer: str  # a local folder, so that all processes use the same revision of a repository
    data: str
    device: str
    precision: Precision
    controls: str | None = None  # folder
    decoders: int = 1  # processes that decode for each one that encodes

    def load_tokenizer(self) -> VideoTokenizer:
        model = VideoTokenizer.from_pretrained(self.tokenizer)
        return model.freeze().to(self.device)

    def load_controls(self) -> Controls | None:
        return None if self.controls is None else Controls.from_pretrained(self.controls)

    def open_data(self) -> DecodePool:
        return DecodePool(self.data, self.decoders, probes=probes_beside(Path(self.cache)))


def make_job(
    cache: Path,
    tokenizer: str,
    data: str,
    device: str,
    precision: Precision,
    controls: str | None = None,
    revision: str | None = None,
    controls_revision: str | None = None,
    decoders: int = 1,
) -> TokenizeJob:
    """`tokenizer` and `controls` may be repositories on the Hub, at these revisions. Raises HubError like `resolve`."""
    tokenizer_folder = str(resolve(tokenizer, revision))
    controls_folder = None if controls is None else str(resolve(controls, controls_revision))
    return TokenizeJob(str(cache), tokenizer_folder, data, device, precision, controls_folder, decoders)


def tokenize_shards(job: TokenizeJob, shards: Sequence[int]) -> Iterator[FilledShard]:
    """Tokenizes `shards`: other processes decode ahead, this one encodes on one thread."""
    tokenizer = job.load_tokenizer()
    documents = CacheDocuments.load(Path(job.cache))
    writer = CacheWriter(Path(job.cache), documents.header)
    encode = make_encoder(tokenizer, job)
    batch = documents.header.provenance["batch"]
    with cpu_threads(1), job.open_data() as pool:
        plan = Plan.from_json(documents.plan)
        filler = ShardFiller(writer, plan, pool, encode, batch, job.load_controls())
        yield from filler.fill(shards)


def make_encoder(tokenizer: VideoTokenizer, job: TokenizeJob) -> Encoder:
    """Returns a function from uint8 [n, T, H, W, 3] to tokens by stream [n, t, h, w, q], in the job's precision."""
    device_type = torch.device(job.device).type

    @torch.inference_mode()
    def encode(frames: np.ndarray) -> Mapping[str, np.ndarray]:
        with torch.autocast(device_type, torch.bfloat16, enabled=job.precision == "bf16"):
            tokens = tokenizer.encode(to_model(frames, job.device))
        return {name: indices.cpu().numpy() for name, indices in tokens.items()}

    return encode


def batch_size(spec: TokenSpec, row_frames: int, shard_rows: int, device: str) -> int:
    """Number of clips encoded at once: a power of two, at most the rows of a shard."""
    pixels = row_frames * spec.framing.height * spec.framing.width
    clips = BATCH_PIXELS[torch.device(device).type] // pixels
    return min(shard_rows, 1 << max(0, clips.bit_length() - 1))


def provenance(
    tokenizer: VideoTokenizer, controls: Controls | None, job: TokenizeJob, row_frames: int, shard_rows: int
) -> dict[str, Any]:
    """What produced the tokens, besides the data. It is hashed into the cache's identity, so it contains no paths."""
    device = torch.device(job.device)
    processor = torch.backends.cpu.get_cpu_capability()
    return {
        "tokenizer": dict(tokenizer.document),
        "weights_fingerprint": tokenizer.weights_fingerprint,
        "device": f"cpu {processor}" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "precision": job.precision,
        "batch": batch_size(tokenizer.spec, row_frames, shard_rows, job.device),
        "threads": 1,
        "versions": {
            "tokenreel": __version__,
            "torch": torch.__version__,
            "av": av.__version__,
            **{name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())},
            "machine": platform.machine(),
        },
        **({} if controls is None else {"controls": dict(controls.document)}),
    }
