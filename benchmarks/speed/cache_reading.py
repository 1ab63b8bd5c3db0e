"""Reading random clips from a sealed cache, with checksums verified, against np.memmap and zarr-python.

    python -m tokenreel.benchmarks.speed.cache_reading

All readers take turns in one process on the same tokens in the page cache, so compare the ratios of medians. np.memmap
is read clip by clip, as training loops do (nanoGPT's get_batch), and by one fancy index, its fastest way.

`first_use_seconds_per_gib` is what each process pays once: mapping a file and comparing it with its sha256.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec

CLIPS, FRAMES, GRID, CODEBOOK_SIZE = 32_768, 16, 8, 1024  # 2 KiB per clip, 64 MiB in all
SHARDS = 16
BATCH, ROUNDS = 64, 15
SECONDS = 0.1  # for which each reader reads in a round


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first_use, rates = measure(Path(folder))
    clips = {name: round(rate) for name, rate in rates.items()}
    ours = f"cache, batches of {BATCH}"
    ratios = {
        "times zarr-python, clip by clip": rates[ours] / rates["zarr-python, clip by clip"],
        f"times zarr-python, batches of {BATCH}": rates[ours] / rates[f"zarr-python, batches of {BATCH}"],
        "of np.memmap, both clip by clip": rates["cache, clip by clip"] / rates["np.memmap, clip by clip"],
        f"of np.memmap clip by clip, batches of {BATCH}": rates[ours] / rates["np.memmap, clip by clip"],
        f"of np.memmap, fancy index of {BATCH}": rates[ours] / rates[f"np.memmap, fancy index of {BATCH}"],
    }
    rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
    result = {"clips_per_second": clips, "ratios": rounded, "first_use_seconds_per_gib": round(first_use, 2)}
    print(json.dumps(result, indent=2))  # noqa: T201


def measure(folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds per GiB of the first use of all files, and clips per second by reader: the median over rounds."""
    codes = np.random.default_rng(0).integers(0, CODEBOOK_SIZE, (CLIPS, FRAMES, GRID, GRID, 1), dtype=np.uint16)
    readers = make_readers(folder, codes)
    rows = np.random.default_rng(1).permutation(CLIPS)
    started = time.perf_counter()
    readers["cache, clip by clip"](np.arange(0, CLIPS, CLIPS // SHARDS))
    first_use = (time.perf_counter() - started) / codes.nbytes * 2**30
    for reader in readers.values():
        np.testing.assert_array_equal(reader(rows[:BATCH]), codes[rows[:BATCH]])
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(ROUNDS):
        for name, reader in readers.items():
            rates[name].append(clips_per_second(reader, rows))
    return first_use, {name: statistics.median(values) for name, values in rates.items()}


def make_readers(folder: Path, codes: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Readers of rows [n] -> codes [n, t, h, w, q], by name."""
    stream = StreamSpec("video", codes.shape[1:4], CODEBOOK_SIZE)
    sources = [{"id": str(row)} for row in range(CLIPS)]
    spec = TokenSpec((stream,), FRAMES, Framing(64, 64))
    write_token_file(folder / "cache", spec, {"video": codes}, "benchmark", sources)
    codes.tofile(folder / "codes.bin")
    memmap = np.memmap(folder / "codes.bin", dtype=np.uint16, mode="r", shape=codes.shape)
    cache = TokenCache.open(folder / "cache")
    array = zarr.open_array(folder / "cache/streams/video", mode="r")
    return {
        f"cache, batches of {BATCH}": lambda rows: cache.read(rows)["video"],
        "cache, clip by clip": lambda rows: np.concatenate([cache.read([row])["video"] for row in rows.tolist()]),
        "np.memmap, clip by clip": lambda rows: np.stack([memmap[row] for row in rows.tolist()]),
        f"np.memmap, fancy index of {BATCH}": lambda rows: memmap[rows],
        "zarr-python, clip by clip": lambda rows: np.stack([array[row] for row in rows.tolist()]),
        f"zarr-python, batches of {BATCH}": lambda rows: np.asarray(array.oindex[rows]),
    }


def clips_per_second(reader: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> float:
    """Rate over about SECONDS of random batches."""
    count, start, started = 0, int(rows[0]), time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS:
        start = (start * 31 + BATCH) % (CLIPS - BATCH)
        count += len(reader(rows[start : start + BATCH]))
    return count / elapsed


if __name__ == "__main__":
    main()
