"""What held-out clips say of a generator, and signs that training has failed: collapse, discriminators that win."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.metrics.baselines import cross_fade, repeat_last
from tokenreel.metrics.motion import motion
from tokenreel.metrics.reconstruction import ReconstructionScores
from tokenreel.metrics.spread import Spread

COLLAPSED_BELOW = 0.2  # spread of generated clips over that of true ones
WINDOW = 100  # steps
WON_BELOW = 0.01  # loss of the discriminators
WON_SHARE = 0.5  # of the steps of a window
FRAME_SCORES = ("psnr", "ssim")


class GeneratorScores:
    """Accumulates over generated clips with the true clips of the same conditions."""

    def __init__(self, spec: GeneratorSpec) -> None:
        self._spec = spec
        self._motion, self._true_motion = list[float](), list[float]()  # by clip
        self._spread, self._true_spread = Spread(), Spread()
        self._frames, self._baseline = (_frame_scores(spec) if has_frames(spec) else None for _ in range(2))

    def update(self, true: np.ndarray, generated: np.ndarray) -> None:
        """Adds a clip, both uint8 [T, H, W, 3]. Only generated frames count; motion has a given one on each side."""
        spec = self._spec
        own = slice(spec.given_frames, spec.frames - spec.end_frame)
        moving = slice(max(0, spec.given_frames - 1), None)
        if len(true[moving]) > 1:
            self._motion.append(motion(generated[moving]))
            self._true_motion.append(motion(true[moving]))
        self._spread.update(generated[None, own])
        self._true_spread.update(true[None, own])
        if self._frames is not None and self._baseline is not None:
            self._frames.update(true[own], generated[own])
            self._baseline.update(true[own], self._known_frames(true)[own])

    def merge(self, other: GeneratorScores) -> None:
        """Adds the clips of another one of the same spec."""
        self._motion += other._motion
        self._true_motion += other._true_motion
        self._spread.merge(other._spread)
        self._true_spread.merge(other._true_spread)
        if self._frames and other._frames and self._baseline and other._baseline:
            self._frames.merge(other._frames)
            self._baseline.merge(other._baseline)

    def compute(self) -> dict[str, float]:
        """Motion and spread of generated clips, of 255, and their ratios to those of the true ones, NaN where those are
        0; with given frames PSNR (dB) and SSIM beside those of `baseline`.
        """
        own, true = self._spread.compute(), self._true_spread.compute()
        scores = {"spread": own, "spread_ratio": _ratio(own, true)}
        if self._motion:
            moves, true_moves = float(np.mean(self._motion)), float(np.mean(self._true_motion))
            scores |= {"motion": moves, "motion_ratio": _ratio(moves, true_moves)}
        if self._frames is not None and self._baseline is not None:
            own_scores, simple = self._frames.compute(), self._baseline.compute()
            scores |= {name: own_scores[name] for name in FRAME_SCORES}
            scores |= {f"{name}_{self.baseline}": simple[name] for name in FRAME_SCORES}
        return scores

    @property
    def baseline(self) -> str:
        """What needs no model: the cross-fade of the frames at both ends, or the repetition of the nearest one."""
        return "cross_fade" if self._spec.given_frames and self._spec.end_frame else "repetition"

    def _known_frames(self, true: np.ndarray) -> np.ndarray:
        """The baseline: uint8 [T, H, W, 3]."""
        given, frames = self._spec.given_frames, len(true)
        if not given:
            return np.repeat(true[-1:], frames, axis=0)
        if not self._spec.end_frame:
            return repeat_last(true[:given], frames)
        return np.concatenate([true[: given - 1], cross_fade(true[given - 1], true[-1], frames - given + 1)])


def collapse_alarms(scores: dict[str, float], clips: int) -> tuple[str, ...]:
    """A warning where the generated clips are nearly the same."""
    if not scores.get("spread_ratio", 1.0) < COLLAPSED_BELOW:  # also where it is NaN
        return ()
    return (
        f"collapse: {clips} generated clips differ from one another by {scores['spread_ratio']:.2g} of what true clips "
        f"do (below {COLLAPSED_BELOW:g}). If they differed more before, resume from an earlier checkpoint (--resume "
        "PATH), or start again with a larger training.batch or lower learning rates; else train for longer",
    )


class DiscriminatorWatch(nn.Module):
    """In how many of the last steps the discriminators' loss was nearly 0: the generator then learns nothing."""

    won: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("won", torch.zeros(WINDOW, dtype=torch.bool))  # step n at place n modulo WINDOW
        self.register_buffer("steps", torch.tensor(0))

    def add(self, first_step: int, losses: Sequence[float]) -> None:
        """Losses of consecutive steps from `first_step`, counted from 1."""
        won = self.won.cpu()
        for step, loss in enumerate(losses, first_step):
            won[step % WINDOW] = loss < WON_BELOW
        self.won.copy_(won)
        self.steps.fill_(first_step + len(losses) - 1)

    @property
    def share(self) -> float:
        """Of the steps of the window; 0 before the first."""
        return int(self.won.sum()) / max(1, min(WINDOW, int(self.steps)))

    @property
    def alarms(self) -> tuple[str, ...]:
        if int(self.steps) < WINDOW or self.share < WON_SHARE:
            return ()
        return (
            f"the discriminators have won: their loss was below {WON_BELOW:g} in {self.share:.0%} of the last {WINDOW} "
            "steps, so the generator learns little: start again with a lower training.discriminator_learning_rate or "
            "fewer discriminator_updates",
        )


def has_frames(spec: GeneratorSpec) -> bool:
    """Whether some of a clip's frames are given."""
    return spec.given_frames > 0 or spec.end_frame


def _frame_scores(spec: GeneratorSpec) -> ReconstructionScores:
    """Without a mean image, as what is relative to it is not reported."""
    return ReconstructionScores(np.zeros((spec.framing.height, spec.framing.width, 3)))


def _ratio(value: float, true: float) -> float:
    return value / true if true else float("nan")
