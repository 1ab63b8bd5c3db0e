"""Pictures of held-out clips for the trackers of `--log-with`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from accelerate import Accelerator

from tokenreel.data.order import evenly_spaced

FRAMES = 8  # of a clip
ONE_BY_ONE = ("wandb", "swanlab")  # take a list of pictures; TensorBoard takes a batch


def film_strips(*videos: np.ndarray) -> np.ndarray:
    """Videos uint8 [T, H, W, 3] of one clip, below each other -> uint8 [n H, FRAMES W, 3]: evenly spaced frames, time
    from left to right.
    """
    chosen = evenly_spaced(np.arange(len(videos[0])), FRAMES)
    return np.concatenate([np.concatenate(list(video[chosen]), axis=1) for video in videos])


def log_pictures(accelerator: Accelerator, pictures: Mapping[str, np.ndarray], step: int) -> None:
    """Sends pictures uint8 [H, W, 3] by name to the trackers that take them; nothing without such a tracker."""
    if not pictures:
        return
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            batches = {name: picture[None] for name, picture in pictures.items()}
            tracker.log_images(batches, step=step, dataformats="NHWC")
        elif tracker.name in ONE_BY_ONE:
            tracker.log_images({name: [picture] for name, picture in pictures.items()}, step=step)
