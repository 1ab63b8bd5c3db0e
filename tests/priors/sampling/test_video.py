"""The sampler: speculative decoding changes only the number of forward passes, and windows slide correctly."""

from __future__ import annotations

import pytest
import torch
from brute_force import one_by_one
from toy_priors import ToyConfig, ToyPrior, interleaved_order, spec_of, subscale_order

from tokenreel.data.spec import END, END_STEP, StreamSpec
from tokenreel.errors import CheckpointError, ConfigError, DataError
from tokenreel.priors.base import raster_order
from tokenreel.priors.gpt.model import GPT, GPTConfig
from tokenreel.priors.ngram.prior import TemporalBigramConfig, TemporalBigramPrior
from tokenreel.priors.sampling.logits import SamplingConfig, StreamSampling
from tokenreel.priors.sampling.video import sample, sample_video
from tokenreel.testing.priors import random_given, random_tokens, scramble


def toy(order: str = "raster") -> ToyPrior:
    """A class for the clip, a state for each frame, and the video."""
    spec = spec_of(
        StreamSpec("video", (6, 2, 2), 5),
        StreamSpec("class", (1, 1, 1), 3, role="control"),
        StreamSpec("state", (6, 1, 1), 7, role="control"),
        frames=6,
    )
    names = ("class", "state", "video")
    if order == "subscale":
        return scrambled(ToyPrior(ToyConfig(), spec, subscale_order(spec, "video", (2, 1, 2)), ("video",)))
    return scrambled(ToyPrior(ToyConfig(), spec, interleaved_order(spec, names), names))


def scrambled(prior: ToyPrior) -> ToyPrior:
    scramble(prior)
    return prior


def still_video_prior(rows: int = 97) -> TemporalBigramPrior:
    """Fitted on clips whose tokens mostly stay the same from step to step."""
    spec = spec_of(StreamSpec("video", (8, 3, 5), 11), frames=8)
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(11, (rows, 8, 3, 5, 1), generator=generator)
    for t in range(1, 8):
        stays = torch.rand(rows, 3, 5, 1, generator=generator) < 0.8
        indices[:, t] = torch.where(stays, indices[:, t - 1], indices[:, t])
    prior = TemporalBigramPrior(TemporalBigramConfig(), spec)
    prior.prepare([{"video": indices}])
    return prior


@pytest.mark.parametrize("order", ["raster", "subscale"])
@pytest.mark.parametrize("speculate", [0, 1, 4, 1 << 70])
def test_samples_equal_those_of_sampling_one_by_one(order: str, speculate: int):
    """Against brute force, with scattered given tokens that differ by row, and ids other than 0, 1, 2."""
    prior = toy(order)
    tokens, given = random_tokens(prior, 3), random_given(prior, 3, fraction=0.3)
    given[1], given[2, -5:] = False, True
    expected = one_by_one(prior, tokens, given, 5, [4, 0, 17])
    found = sample(prior, tokens, given, SamplingConfig(speculate=speculate), seed=5, samples=torch.tensor([4, 0, 17]))
    assert torch.equal(prior.flatten(found.tokens), expected)


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(temperature=0.7, top_k=3, top_p=0.9),
        SamplingConfig(greedy=True),
        SamplingConfig(streams={"video": StreamSampling(top_k=2), "state": StreamSampling(greedy=True)}),
    ],
)
def test_speculative_decoding_is_exact_under_every_setting(config: SamplingConfig):
    prior = toy()
    tokens = random_tokens(prior, 5)
    plain = sample(prior, tokens, prior.given_frames(1), SamplingConfig(**{**vars(config), "speculate": 0}))
    speculative = sample(prior, tokens, prior.given_frames(1), SamplingConfig(**{**vars(config), "speculate": 3}))
    for name in prior.predicts:
        assert torch.equal(plain.tokens[name], speculative.tokens[name])


def test_drafts_save_forward_passes_in_a_still_video():
    """One forward pass per token without drafts; far fewer with them, as four tokens in five are copies."""
    prior = still_video_prior()
    plain = sample(prior, {}, None, SamplingConfig(speculate=0), samples=torch.arange(1))
    assert plain.forwards == plain.tokens_sampled == 120
    for speculate, least in ((7, 2), (None, 1.3)):  # by itself drafting begins after 32 passes
        speculative = sample(prior, {}, None, SamplingConfig(speculate=speculate), samples=torch.arange(1))
        assert torch.equal(plain.tokens["video"], speculative.tokens["video"])
        assert speculative.tokens_per_forward > least


def test_given_tokens_in_the_middle_cost_no_forward_pass():
    """There is one per sampled token, however many are given between them."""
    prior = toy()
    given = random_given(prior, 1, fraction=0.6)
    found = sample(prior, random_tokens(prior, 1), given)
    assert found.forwards == found.tokens_sampled == int((~given).sum())


def test_more_given_tokens_in_a_row_than_fit_in_a_block():
    spec = spec_of(StreamSpec("video", (3, 17, 7), 5), frames=3)
    prior = scrambled(ToyPrior(ToyConfig(), spec, raster_order(spec, ["video"]), ("video",)))
    tokens = random_tokens(prior, 2)
    given = torch.ones(2, len(prior.order()), dtype=torch.bool)
    given[0, [2, 3, 340]] = given[1, [0, 200]] = False
    expected = one_by_one(prior, tokens, given, 0, [0, 1])
    for speculate in (0, 2):
        found = sample(prior, tokens, given, SamplingConfig(speculate=speculate))
        assert torch.equal(prior.flatten(found.tokens), expected)


def test_tokens_that_are_not_given_are_never_read():
    prior = toy()
    given = prior.given_frames(2) | prior.given_streams(["class"])
    tokens = random_tokens(prior, 3)
    garbage = {name: torch.full_like(indices, 999) for name, indices in tokens.items()}
    flat = torch.where(given, prior.flatten(tokens), prior.flatten(garbage))
    found = sample(prior, prior.unflatten(flat), given)
    assert torch.equal(prior.flatten(found.tokens), prior.flatten(sample(prior, tokens, given).tokens))


def test_an_unconditional_token_can_be_given():
    """It is beyond the codebook, and conditions like any other."""
    spec = spec_of(
        StreamSpec("video", (3, 2, 1), 5),
        StreamSpec("class", (1, 1, 1), 7, role="control", unconditional_token=7),
        frames=3,
    )
    prior = scrambled(ToyPrior(ToyConfig(), spec, interleaved_order(spec, ["video", "class"]), ("video", "class")))
    tokens = random_tokens(prior, 2) | {"class": torch.full((2, 1, 1, 1, 1), 7)}
    found = sample(prior, tokens, prior.given_streams(["class"]))
    assert (found.tokens["class"] == 7).all()
    assert (found.tokens["video"] < 5).all()
    with pytest.raises(DataError, match="has tokens from 8 to 8"):
        sample(prior, tokens | {"class": torch.full((2, 1, 1, 1, 1), 8)}, prior.given_streams(["class"]))


def test_dropout_is_off_and_the_mode_is_restored():
    prior = toy()
    expected = sample(prior, {}, samples=torch.arange(2))
    prior.feature = torch.nn.Sequential(prior.feature, torch.nn.Dropout(0.9))
    found = sample(prior.train(), {}, samples=torch.arange(2))
    assert prior.training
    assert torch.equal(found.tokens["video"], expected.tokens["video"])


def test_nan_is_reported():
    prior = toy()
    prior.head.weight.data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="weights contain NaN"):
        sample(prior, {}, samples=torch.arange(2))


def test_invalid_sampling_requests_are_refused():
    prior = toy()
    tokens = random_tokens(prior, 3)
    with pytest.raises(ConfigError, match="pass the ids of the samples"):
        sample(prior, {})
    with pytest.raises(DataError, match="same number of rows"):
        sample(prior, tokens, samples=torch.arange(2))
    with pytest.raises(ConfigError, match="lack stream 'state'"):
        sample(prior, {"video": tokens["video"]}, prior.given_streams(["state"]))
    with pytest.raises(DataError, match=r"'video': expected tokens of shape \[6, 2, 2, 1\] per clip, got \[5,"):
        sample(prior, {"video": tokens["video"][:, :5]}, prior.given_frames(1))
    with pytest.raises(DataError, match=r"'video' has tokens from 0 to 5, but a codebook size of 5"):
        sample(prior, {"video": torch.full((1, 6, 2, 2, 1), 5)}, prior.given_frames(1))
    with pytest.raises(ConfigError, match="did you mean 'state'"):
        sample_video(prior, {"stat": tokens["state"]}, 6)
    with pytest.raises(ConfigError, match="did you mean 'video'"):
        sample(prior, tokens, None, SamplingConfig(streams={"vido": StreamSampling()}))


def test_a_sliding_window_equals_sampling_each_window_by_hand():
    """Each window begins with the last steps of the one before, and has the random numbers of the video's steps.

    Given are the class, the states of the whole video, and the first step of the video.
    """
    prior = toy()
    clip = random_tokens(prior, 2)
    states = torch.randint(7, (2, 13, 1, 1, 1), generator=torch.Generator().manual_seed(9))
    video = clip["video"][:, :1]
    known = 1
    for start in (0, 4, 7):  # by 4 frames, then by the rest
        indices = torch.zeros(2, 6, 2, 2, 1, dtype=torch.long)
        indices[:, : known - start] = video[:, start:known]
        window = {"class": clip["class"], "state": states[:, start : start + 6], "video": indices}
        given = torch.tensor([s != 0 or t < known - start for s, t, *_ in prior.order().tolist()]).expand(2, -1)
        sampled = prior.unflatten(one_by_one(prior, window, given, 3, [0, 1], start))["video"]
        video, known = torch.cat([video[:, :start], sampled], 1), start + 6
    tokens = {"class": clip["class"], "state": states, "video": clip["video"][:, :1]}
    for speculate in (0, 3):
        found = sample_video(prior, tokens, 13, SamplingConfig(window_stride=4, speculate=speculate), seed=3)
        assert torch.equal(found.tokens["video"], video)
        assert torch.equal(found.tokens["state"], states)
        assert torch.equal(found.tokens["class"], clip["class"])
    assert found.tokens_sampled == 2 * 12 * 4


def test_controls_that_are_not_given_are_sampled_with_the_video():
    prior = toy()
    found = sample_video(prior, {}, 11, samples=torch.arange(3))
    assert {name: indices.shape[1] for name, indices in found.tokens.items()} == {"class": 1, "state": 11, "video": 11}
    assert found.tokens_sampled == 3 * (1 + 11 + 11 * 4)
    assert all((nats > 0).all() for nats in found.nats.values())


def test_a_video_as_long_as_a_clip_is_one_window():
    prior = toy()
    tokens = random_tokens(prior, 3)
    first_steps = {"class": tokens["class"], "video": tokens["video"][:, :2]}
    clip = sample(prior, tokens, prior.given_frames(2) | prior.given_streams(["class"]), seed=1)
    video = sample_video(prior, first_steps, 6, seed=1)
    for name in prior.predicts:
        assert torch.equal(video.tokens[name], clip.tokens[name])


def test_a_longer_video_begins_with_the_shorter_one():
    """Random numbers belong to the steps of the video; of a shorter video no further tokens are sampled."""
    prior = toy()
    short, clip, longer = (sample_video(prior, {}, frames, samples=torch.arange(2)) for frames in (4, 6, 9))
    assert torch.equal(clip.tokens["video"][:, :4], short.tokens["video"])
    assert torch.equal(longer.tokens["video"][:, :6], clip.tokens["video"])
    assert short.tokens_sampled == 2 * (1 + 4 + 4 * 4)


def test_a_short_video_in_subscale_order_samples_what_its_frames_need():
    """Its last frame comes after later ones in subscale order; these are sampled and not returned."""
    prior = toy("subscale")
    clip = sample_video(prior, {}, 6, samples=torch.arange(2))
    short = sample_video(prior, {}, 3, samples=torch.arange(2))
    assert torch.equal(short.tokens["video"], clip.tokens["video"][:, :3])


def test_two_levels_with_sliding_windows():
    """The bottom prior reads the top level of the whole video; one that ends early is refused."""
    spec = spec_of(StreamSpec("top", (3, 1, 2), 3, stride=2), StreamSpec("bottom", (6, 2, 1), 5), frames=6)
    top = scrambled(ToyPrior(ToyConfig(), spec, raster_order(spec, ["top"]), ("top",)))
    bottom = scrambled(ToyPrior(ToyConfig(), spec, raster_order(spec, ["bottom"]), ("bottom",), reads=("top",)))
    tokens = sample_video(top, {}, 10, SamplingConfig(window_stride=2), samples=torch.arange(3)).tokens
    found = sample_video(bottom, tokens, 10, SamplingConfig(window_stride=4))
    assert found.tokens["bottom"].shape == (3, 10, 2, 1, 1)
    changed = {"top": torch.cat([tokens["top"][:, :-1], (tokens["top"][:, -1:] + 1) % 3], 1)}
    again = sample_video(bottom, changed, 10, SamplingConfig(window_stride=4))
    assert torch.equal(found.tokens["bottom"][:, :6], again.tokens["bottom"][:, :6])
    assert not torch.equal(found.tokens["bottom"], again.tokens["bottom"])
    with pytest.raises(ConfigError, match="have 4 steps of stream 'top', but the prior reads 5"):
        sample_video(bottom, {"top": tokens["top"][:, :4]}, 10)


def test_more_given_frames_than_the_video_has_are_refused():
    prior = toy()
    with pytest.raises(ConfigError, match="have 6 steps of stream 'video', but the video has 5"):
        sample_video(prior, {"video": random_tokens(prior, 1)["video"]}, 5)


def controlled_gpt(*controls: str) -> GPT:
    """Class, state and a level of two codebooks; trained without controls too."""
    spec = spec_of(
        StreamSpec("video", (3, 2, 1), 5, codebooks=2),
        StreamSpec("class", (1, 1, 1), 7, stride=3, role="control", unconditional_token=7),
        StreamSpec("state", (3, 1, 1), 11, role="control"),
        frames=3,
    )
    prior = scramble(GPT(GPTConfig(depth=2, width=24, heads=3, controls=controls), spec), scale=0.1)
    prior.trained_without_controls = True
    return prior


@pytest.mark.parametrize("speculate", [0, 3])
def test_an_end_frame_slides_with_the_window(speculate: int):
    """Each window equals the shifted clip by brute force: the end frame at its step there, or none if it is outside."""
    prior = controlled_gpt("end", "state")
    clip = random_tokens(prior, 2)
    video, end_step = clip["video"][:, :1], 5  # of 7 frames, in windows from 0 to 4: the last two contain it
    state = clip["state"][:, :0]
    for start in range(5):
        known, states = (indices[:, start : start + 3] for indices in (video, state))
        given = prior.positions_of("video") & (prior.order()[:, 1] < known.shape[1])
        given |= prior.positions_of("state") & (prior.order()[:, 1] < states.shape[1])
        inside = end_step - start < 3
        window = {
            "video": torch.cat([known, clip["video"]], 1)[:, :3],
            "state": torch.cat([states, clip["state"]], 1)[:, :3],
            END: clip[END] if inside else torch.full_like(clip[END], 5),
            END_STEP: torch.full((2, 1, 1, 1, 1), end_step - start if inside else 3),
        }
        sampled = prior.unflatten(one_by_one(prior, window, given.expand(2, -1), 3, [0, 1], start))
        video, state = (torch.cat([x[:, :start], sampled[n]], 1) for n, x in {"video": video, "state": state}.items())
    tokens = {"video": clip["video"][:, :1], END: clip[END], END_STEP: torch.full((2, 1, 1, 1, 1), end_step)}
    found = sample_video(prior, tokens, 7, SamplingConfig(window_stride=1, speculate=speculate), seed=3)
    assert torch.equal(found.tokens["video"], video)
    assert torch.equal(found.tokens["state"], state)


def test_a_video_ends_with_its_end_frame():
    """Its step is by default the last one, also of a video that is shorter than a clip."""
    prior = controlled_gpt("end")
    end = random_tokens(prior, 29)[END]
    for frames, window_stride in ((2, 0), (3, 0), (5, 1)):
        step = torch.full((29, 1, 1, 1, 1), frames - 1)
        config = SamplingConfig(window_stride=window_stride)
        found, default = (sample_video(prior, {END: end, **more}, frames, config) for more in ({END_STEP: step}, {}))
        assert torch.equal(found.tokens["video"], default.tokens["video"])
        other = sample_video(prior, {END: end, END_STEP: step - 1}, frames, config)
        assert not torch.equal(found.tokens["video"], other.tokens["video"])
    with pytest.raises(ConfigError, match="have 'end_step' but lack 'end'"):
        sample_video(prior, {END_STEP: step}, 3)


def test_controls_that_are_read_and_not_given_are_unconditional():
    prior = controlled_gpt("class", "end")
    rows = torch.arange(29)
    found = sample(prior, {}, samples=rows).tokens["video"]
    unconditional = {
        name: torch.full((29, *prior.spec.stream(name).shape), prior.spec.stream(name).codebook_size)
        for name in prior.reads
    }
    assert torch.equal(found, sample(prior, unconditional).tokens["video"])
    assert not torch.equal(found, sample(prior, {"class": unconditional["class"] * 0}).tokens["video"])


def test_omitted_controls_are_refused_if_the_prior_was_never_trained_without_them():
    """Where all controls are given samples are the same; an omitted one, or a window without end frame, is refused."""
    prior = controlled_gpt("class", "end", "state")
    clip = {name: indices[:, :1] for name, indices in random_tokens(prior, 2).items() if name != "state"}
    without = {
        name: {key: indices for key, indices in clip.items() if key != name} for name in ("class", END, END_STEP)
    }
    in_both_windows = without[END_STEP] | {END_STEP: torch.full((2, 1, 1, 1, 1), 2)}  # a video of 5: steps 0-2 and 2-4
    allowed = [(without[END_STEP], 3), (without[END_STEP], 2), (in_both_windows, 5)]
    config = SamplingConfig(window_stride=1)
    expected = [sample_video(prior, tokens, frames, config).tokens for tokens, frames in allowed]
    prior.trained_without_controls = False
    for (tokens, frames), before in zip(allowed, expected, strict=True):
        assert torch.equal(sample_video(prior, tokens, frames, config).tokens["video"], before["video"])
    with pytest.raises(ConfigError, match=r"control 'class' is not given.*\(--class, --given-controls\), or train"):
        sample_video(prior, without["class"], 3)
    with pytest.raises(ConfigError, match=r"control 'end' is not given.*\(--end, --given-controls\), or train with"):
        sample(prior, {"class": clip["class"]})
    for tokens, frames, step in ((without[END_STEP], 4, 3), (in_both_windows, 6, 2)):
        with pytest.raises(ConfigError, match=f"at step {step}, is not in every window of 3 frames of a video of"):
            sample_video(prior, tokens, frames, config)


@pytest.mark.parametrize("controls", [(), ("class",), ("state",), ("class", "state", "end")])
def test_a_video_without_given_frames(controls: tuple[str, ...]):
    """Beyond the trained length too; states that are not given are sampled with their own top-k."""
    prior = controlled_gpt(*controls)
    config = SamplingConfig(window_stride=1, streams={"state": StreamSampling(top_k=1)} if "state" in controls else {})
    found = sample_video(prior, {}, 5, config, samples=torch.arange(13))
    assert found.tokens["video"].shape == (13, 5, 2, 1, 2)
    if "state" in controls:
        assert len(found.tokens["state"][:, 0].unique()) == 1
        assert (found.tokens["state"] < 11).all()
