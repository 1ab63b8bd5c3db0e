"""What the base of all priors does for its members."""

from __future__ import annotations

import json

import pytest
import torch
from prior_contract import random_tokens
from toy_priors import Toy, ToyConfig, interleaved_order, spec_of

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.hub import fingerprint
from tokenreel.priors.base import Prior, raster_order
from tokenreel.priors.ngram.prior import UnigramConfig, UnigramPrior

VIDEO = StreamSpec("video", (5, 2, 3), 7, codebooks=2)
STATE = StreamSpec("state", (5, 1, 1), 11, role="control")
SPEC = spec_of(VIDEO, STATE, frames=5)


def test_raster_order_is_that_of_the_arrays():
    prior = UnigramPrior(UnigramConfig(), SPEC)
    tokens = random_tokens(prior, rows=3)
    assert torch.equal(prior.flatten(tokens), tokens["video"].flatten(1))
    assert raster_order(SPEC, ["state"]).tolist() == [[1, t, 0, 0, 0] for t in range(5)]


def test_given_frames_are_levels_only_and_given_streams_are_whole():
    prior = Toy(ToyConfig(), SPEC, interleaved_order(SPEC, ["state", "video"]), ("state", "video"))
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


def test_of_a_window_tokenizer_only_what_was_encoded_alone_can_be_given():
    level = StreamSpec("video", (3, 2, 2), 7, stride=2)
    track = StreamSpec("video_given", (2, 2, 2), 7, stride=2, role="control")
    spec = TokenSpec((level, track), 6, Framing(height=8, width=8), time="window")
    prior = UnigramPrior(UnigramConfig(("video",)), spec)
    assert int(prior.given_frames(4).sum()) == 2 * 4
    with pytest.raises(ConfigError, match=r"given frames \(=2\) must be 4"):
        prior.given_frames(2)


def test_codes_that_the_order_leaves_out_survive():
    """A prior may predict only later steps of a stream; unflatten keeps the earlier ones as they are."""
    order = raster_order(SPEC, ["video"])
    prior = Toy(ToyConfig(), SPEC, order[order[:, 1] >= 2], ("video",))
    tokens = random_tokens(prior, rows=3)
    flat = torch.zeros_like(prior.flatten(tokens))
    indices = prior.unflatten(flat, tokens)["video"]
    assert torch.equal(indices[:, :2], tokens["video"][:, :2])
    assert not indices[:, 2:].any()
    assert not prior.unflatten(flat)["video"].any()


def test_a_prior_from_before_it_said_how_it_was_trained_counts_as_never_trained_without_controls(tmp_path):
    prior = UnigramPrior(UnigramConfig(), SPEC)
    prior.trained_without_controls = True
    prior.save_pretrained(tmp_path)
    assert Prior.from_pretrained(tmp_path).trained_without_controls
    document = json.loads((tmp_path / "config.json").read_text())
    own = {key: document[key] for key in ("config", "spec", "code_fingerprint")}
    document["fingerprints"] = {"weights": fingerprint(own, prior.state_dict())}
    del document["trained_without_controls"]
    (tmp_path / "config.json").write_text(json.dumps(document))
    loaded = Prior.from_pretrained(tmp_path)
    assert not loaded.trained_without_controls
    assert loaded.fingerprints() == document["fingerprints"] != prior.fingerprints()
    loaded.trained_without_controls = True
    assert loaded.fingerprints() == prior.fingerprints()
