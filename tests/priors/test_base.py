"""What the base class of all priors does for its subclasses."""

from __future__ import annotations

import pytest
import torch
from toy_priors import ToyConfig, ToyPrior, interleaved_order, spec_of

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, raster_order
from tokenreel.priors.ngram.prior import UnigramConfig, UnigramPrior
from tokenreel.testing.priors import random_tokens

VIDEO = StreamSpec("video", (5, 2, 3), 7, codebooks=2)
STATE = StreamSpec("state", (5, 1, 1), 11, role="control")
SPEC = spec_of(VIDEO, STATE, frames=5)


def test_raster_order_is_the_order_of_the_arrays():
    prior = UnigramPrior(UnigramConfig(), SPEC)
    tokens = random_tokens(prior, rows=3)
    assert torch.equal(prior.flatten(tokens), tokens["video"].flatten(1))
    assert raster_order(SPEC, ["state"]).tolist() == [[1, t, 0, 0, 0] for t in range(5)]


def test_given_frames_are_levels_only_and_given_streams_are_complete():
    prior = ToyPrior(ToyConfig(), SPEC, interleaved_order(SPEC, ["state", "video"]), ("state", "video"))
    order = prior.order()
    assert prior.given_frames(2).tolist() == [s == 0 and t < 2 for s, t, *_ in order.tolist()]
    assert prior.given_streams(["state"]).tolist() == [s == 1 for s, *_ in order.tolist()]
    with pytest.raises(ConfigError, match="did you mean 'state'"):
        prior.given_streams(["stat"])


def test_given_frames_must_fill_code_steps():
    spec = TokenSpec((StreamSpec("video", (3, 2, 2), 7, stride=2),), 6, Framing(height=8, width=8))
    prior = UnigramPrior(UnigramConfig(), spec)
    assert int(prior.given_frames(4).sum()) == 2 * 4
    with pytest.raises(ConfigError, match=r"frames \(=3\) do not fill"):
        prior.given_frames(3)
    with pytest.raises(ConfigError, match=r"given frames \(=7\)"):
        prior.given_frames(7)


def test_of_a_window_tokenizer_only_frames_encoded_alone_can_be_given():
    level = StreamSpec("video", (3, 2, 2), 7, stride=2)
    alone = StreamSpec("video_given", (2, 2, 2), 7, stride=2, role="control")
    spec = TokenSpec((level, alone), 6, Framing(height=8, width=8), time="window")
    prior = UnigramPrior(UnigramConfig(("video",)), spec)
    assert int(prior.given_frames(4).sum()) == 2 * 4
    with pytest.raises(ConfigError, match=r"given frames \(=2\) must be 4"):
        prior.given_frames(2)


def test_unflatten_keeps_tokens_that_the_order_omits():
    """A prior may predict only the later steps of a stream."""
    order = raster_order(SPEC, ["video"])
    prior = ToyPrior(ToyConfig(), SPEC, order[order[:, 1] >= 2], ("video",))
    tokens = random_tokens(prior, rows=3)
    flat = torch.zeros_like(prior.flatten(tokens))
    indices = prior.unflatten(flat, tokens)["video"]
    assert torch.equal(indices[:, :2], tokens["video"][:, :2])
    assert not indices[:, 2:].any()
    assert not prior.unflatten(flat)["video"].any()


def test_codebooks_and_the_one_of_each_position():
    """Streams in the order of `predicts`, whatever the order of generation."""
    prior = ToyPrior(ToyConfig(), SPEC, interleaved_order(SPEC, ["state", "video"]), ("state", "video"))
    assert prior.codebooks() == [(STATE, 0), (VIDEO, 0), (VIDEO, 1)]
    expected = [0 if s == 1 else 1 + q for s, *_, q in prior.order().tolist()]
    assert prior.codebook_index().tolist() == expected
    assert prior.codebook_sizes().tolist() == [11 if s == 1 else 7 for s, *_ in prior.order().tolist()]


def test_the_document_says_whether_it_was_trained_without_controls_and_with_given_frames(tmp_path):
    prior = UnigramPrior(UnigramConfig(), SPEC)
    for without_controls, given_frames in ((False, 3), (True, 0)):
        prior.trained_without_controls, prior.trained_given_frames = without_controls, given_frames
        prior.save_pretrained(tmp_path / str(given_frames))
        loaded = Prior.from_pretrained(tmp_path / str(given_frames))
        assert (loaded.trained_without_controls, loaded.trained_given_frames) == (without_controls, given_frames)
