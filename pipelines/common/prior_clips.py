"""The clips of a cache as a prior reads and scores them: with given first frames and an end frame, beside baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.controls.end_frame import end_tokens
from tokenreel.data.spec import END, END_STEP
from tokenreel.metrics.likelihood import Likelihood, bits_per_code
from tokenreel.priors.base import Prior
from tokenreel.priors.ngram.prior import TemporalBigramConfig, TemporalBigramPrior, UnigramConfig, UnigramPrior

MAX_COUNTED_CLIPS = 8192  # evenly spaced training clips, on which baselines and frequencies of tokens are counted
COUNTING_BATCH = 64  # clips
SCORING_BATCH = 8  # clips

Batch = dict[str, Tensor]  # tokens [n, t, h, w, q] by stream


def default_given_frames(prior: Prior) -> int:
    """The number of first frames that are given where nobody says how many: no fewer than in training, whose tokens the
    prior has not learned.
    """
    return max(prior.spec.frames_encoded_alone or 1, prior.trained_given_frames)


class PriorClips:
    """Clips of `cache` for `prior`, the first `given_frames` of each given.

    Raises ConfigError where these frames cannot be given.
    """

    def __init__(self, prior: Prior, cache: TokenCache, given_frames: int) -> None:
        self.prior = prior
        self.cache = cache
        self.given_frames = given_frames
        self.given = prior.given_frames(given_frames)  # bool [L]

    def read(self, rows: np.ndarray, ends: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Tokens by stream, [n, t, h, w, q], of all streams that the prior reads or predicts.

        An end frame among them is the last of each clip (None), or the one that `ends`, [n] in (0, 1), selects from
        the steps that are not given.
        """
        names = [name for name in (*self.prior.reads, *self.prior.predicts) if name not in (END, END_STEP)]
        tokens, spec = self.cache.read(rows, streams=names), self.prior.spec
        if END not in self.prior.reads:
            return tokens
        given, steps = spec.steps_of_frames(self.given_frames, spec.levels[0]), spec.levels[0].grid[0]
        end_steps = np.full(len(rows), steps - 1) if ends is None else given + (ends * (steps - given)).astype(np.int64)
        return tokens | end_tokens(spec, tokens, end_steps)

    def batches(self, rows: np.ndarray, size: int, device: torch.device) -> Iterator[Batch]:
        for first in range(0, len(rows), size):
            clips = self.read(rows[first : first + size])
            yield {name: torch.from_numpy(indices).long().to(device) for name, indices in clips.items()}

    def counted(self) -> Iterator[Batch]:
        """Batches of the training clips that are counted, on the CPU."""
        rows = self.cache.rows("train", stride=1)
        rows = rows[:: max(1, len(rows) // MAX_COUNTED_CLIPS)]
        return self.batches(rows, COUNTING_BATCH, torch.device("cpu"))

    def score(
        self,
        prior: Prior,
        rows: np.ndarray,
        device: torch.device,
        change: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> Likelihood:
        """Bits of the levels of `rows` after the given frames, all control streams given, in batches as `change` makes
        them. `prior`: the prior itself or a baseline, on the device.
        """
        given = prior.given_frames(self.given_frames) | prior.given_streams(prior.control_streams)
        return bits_per_code(prior, map(change, self.batches(rows, SCORING_BATCH, device)), given)

    def baselines(self) -> dict[str, Prior]:
        """The unigram and the temporal bigram prior of the same streams, counted, on the CPU; none where the cache has
        no training clips.
        """
        spec, predicts = self.cache.spec, self.prior.predicts
        if not any(video.get("split") == "train" for video in self.cache.plan["videos"]):
            return {}
        names = tuple(name for name in predicts if name not in self.prior.control_streams)
        baselines: dict[str, Prior] = {
            "unigram": UnigramPrior(UnigramConfig(names), spec),
            "temporal_bigram": TemporalBigramPrior(TemporalBigramConfig(names), spec),
        }
        for baseline in baselines.values():
            baseline.prepare(self.counted())
        return baselines
