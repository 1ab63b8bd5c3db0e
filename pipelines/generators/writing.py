"""A generator's samples as files, in batches, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from tokenreel.data.cache.files import flush, staged_folder
from tokenreel.data.pixels import to_frames
from tokenreel.data.video.writer import write_video
from tokenreel.decoders.generators.conditions import Conditions
from tokenreel.pipelines.common.folders import fresh_folder
from tokenreel.pipelines.common.progress import Progress
from tokenreel.pipelines.decoding.tokens_to_video import frame_rate_of
from tokenreel.pipelines.generators.loading import LoadedGenerator

Inputs = Callable[[np.ndarray], tuple[Tensor, Conditions]]  # numbers of samples [B] -> their noise and conditions


@contextmanager
def complete_folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which is renamed to `out` when the block ends; after an error or a kill `out` does not
    exist. Raises UserError if `out` is not empty or cannot be written.
    """
    out = fresh_folder(out).resolve()  # a link to an empty folder stays one
    out.rmdir()
    with staged_folder(out) as staging:
        yield staging
        staging.rename(out)
        flush(out.parent)


def file_name(number: int, suffix: str) -> str:
    return f"{number:06d}.{suffix}"


def write_samples(
    generator: LoadedGenerator, inputs: Inputs, count: int, batch: int, folder: Path, suffix: str
) -> Iterator[np.ndarray]:
    """Writes a file for each of the samples 0 .. count - 1 and yields their frames, uint8 [B, T, H, W, 3]."""
    with Progress(count, "generate", "video") as bar:
        for first in range(0, count, batch):
            numbers = np.arange(first, min(first + batch, count))
            videos = to_frames(generator.generate(*inputs(numbers)))
            for number, frames in zip(numbers.tolist(), videos, strict=True):
                write_video(folder / file_name(number, suffix), frames, frame_rate_of(generator.model))
            bar.advance(len(numbers))
            yield videos
