"""The rate of tokenize-dataset, relative to its bare encoder on decoded frames.

    python -m tokenreel.benchmarks.speed.tokenize_rate

Both take turns in one process, on one thread and with equal batches; decoding runs in another process, so two cores are
needed. First with frames that need no decoding (an array file) and LVT's encoder, then with mp4 files and a small
encoder, where decoding is the bottleneck and its fraction of the time is reported. Loading is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.cache.documents import load_root
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.writer import write_video
from tokenreel.pipelines.commands import tokenize_dataset
from tokenreel.pipelines.common.device import cpu_threads
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.tokenizing.job import TokenizeJob, make_encoder
from tokenreel.tokenizers.base import build_tokenizer

SIZE, FRAMES, ROUNDS = 64, 16, 5
LVT = {"type": "frame-vqvae", "quantizer": {"type": "vq", "codebook_size": 512}}
SMALL = {**LVT, "hidden": 16, "residual": 8, "blocks": 1, "latent": 8}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        results = {
            "encoding is the bottleneck": measure(root / "arrays", LVT, write_arrays(root, videos=8)),
            "decoding is the bottleneck": measure(root / "files", SMALL, write_files(root, videos=8)),
        }
    print(json.dumps(results, indent=2))  # noqa: T201


def measure(folder: Path, section: dict[str, Any], data: str) -> dict[str, float]:
    """Medians over rounds: frames per second of both, their ratio, and the fraction of time that waits for frames."""
    model = folder / "tokenizer"
    build_tokenizer(section, FRAMES, Framing(SIZE, SIZE)).save_pretrained(model)
    runs, bare = [], []
    for number in range(ROUNDS):
        out = folder / f"cache-{number}"
        runs.append(
            tokenize_dataset.run(
                TokenizeRequest(tokenizer=str(model), data=data, out=out, device="cpu", allow_collapsed=True)
            )
        )
        job = TokenizeJob(str(out), str(model), data, "cpu", "fp32")
        bare.append(bare_encoder_rate(job, frames=runs[-1]["frames"]))
    rates = [run["frames_per_worker_second"] for run in runs]
    return {
        "tokenize_dataset_frames_per_second": statistics.median(rates),
        "bare_encoder_frames_per_second": round(statistics.median(bare), 1),
        "ratio": round(statistics.median(rate / bare_rate for rate, bare_rate in zip(rates, bare, strict=True)), 3),
        "decode_fraction": statistics.median(run["decode_fraction"] for run in runs),
    }


def bare_encoder_rate(job: TokenizeJob, frames: int) -> float:
    """Frames per second of the encoder over as many decoded frames, in batches of the size that the cache had."""
    header, _ = load_root(Path(job.cache))
    batch = header.provenance["batch"]
    framing = header.spec.framing
    clips = np.random.default_rng(0).integers(0, 256, (batch, FRAMES, framing.height, framing.width, 3), dtype=np.uint8)
    encode = make_encoder(job.load_tokenizer(), job)
    with cpu_threads(1):
        encode(clips)
        started = time.perf_counter()
        for _ in range(frames // (batch * FRAMES)):
            encode(clips)
        return frames / (time.perf_counter() - started)


def write_arrays(root: Path, videos: int) -> str:
    """Writes an npy file [videos, T, H, W, 3] of frames of the tokenizer's size. Returns its path."""
    path = root / "videos.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (videos, 8 * FRAMES, SIZE, SIZE, 3), dtype=np.uint8))
    return str(path)


def write_files(root: Path, videos: int) -> str:
    """Writes mp4 files of Tabletop with edges four times as long. Returns their folder."""
    folder = root / "videos"
    folder.mkdir()
    source = open_source(f"tabletop:?videos={videos}&seed=0&frames={4 * FRAMES}&size={4 * SIZE}")
    for video in range(videos):
        frames = source.read(video, np.arange(4 * FRAMES), Framing(4 * SIZE, 4 * SIZE))
        write_video(folder / f"{video:03d}.mp4", frames, 10.0)
    return str(folder)


if __name__ == "__main__":
    main()
