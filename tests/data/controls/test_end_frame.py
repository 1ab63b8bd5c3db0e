"""The end frame is a step of the clip, and its streams are derived from those of the level."""

from __future__ import annotations

import numpy as np
import pytest

from tokenreel.data.controls.end_frame import end_tokens
from tokenreel.data.spec import END, END_STEP, Framing, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError, DataError

SPEC = TokenSpec((StreamSpec("video", (5, 2, 3), 7, codebooks=2, stride=2),), 10, Framing(8, 8)).with_end_frame()


def test_the_streams_of_an_end_frame() -> None:
    end, step = SPEC.stream(END), SPEC.stream(END_STEP)
    assert (end.shape, end.codebook_size, end.unconditional_token, end.role) == ((1, 2, 3, 2), 7, 7, "control")
    assert (step.shape, step.codebook_size, step.unconditional_token, step.role) == ((1, 1, 1, 1), 5, 5, "control")
    assert SPEC.with_end_frame() == SPEC
    assert TokenSpec.from_json(SPEC.to_json()) == SPEC


def test_each_clip_has_the_requested_step() -> None:
    codes = np.random.default_rng(0).integers(0, 7, (3, *SPEC.levels[0].shape))
    found = end_tokens(SPEC, {"video": codes}, np.array([4, 0, 2]))
    for row, step in enumerate((4, 0, 2)):
        assert np.array_equal(found[END][row, 0], codes[row, step])
        assert found[END_STEP][row].item() == step
    with pytest.raises(DataError, match=r"end steps \(=0 to 5\) must be 0 to 4"):
        end_tokens(SPEC, {"video": codes}, np.array([4, 0, 5]))


def test_tokens_of_two_levels_have_no_end_frame() -> None:
    levels = (StreamSpec("top", (1, 1, 1), 3, stride=2), StreamSpec("bottom", (2, 1, 1), 3))
    with pytest.raises(ConfigError, match=r"one level; these have \['top', 'bottom'\]"):
        TokenSpec(levels, 2, Framing(8, 8)).with_end_frame()
