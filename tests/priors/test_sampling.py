"""The sampler: drafts change nothing but the number of forwards, and windows slide as they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prior_contract import random_given, random_tokens, scramble
from toy_priors import Toy, ToyConfig, interleaved_order, spec_of, subscale_order

from tokenreel.data.spec import StreamSpec
from tokenreel.errors import CheckpointError, ConfigError, DataError
from tokenreel.priors.base import Prior, Tokens, raster_order
from tokenreel.priors.counted import PreviousStep, PreviousStepConfig
from tokenreel.priors.sampling import SamplingConfig, StreamSampling, sample, sample_video, sample_windows
from tokenreel.priors.uniforms import uniforms


def toy(order: str = "raster") -> Toy:
    """A class for the clip, a state for each frame, and the video."""
    spec = spec_of(
        StreamSpec("video", (6, 2, 2), 5),
        StreamSpec("class", (1, 1, 1), 3, role="track"),
        StreamSpec("state", (6, 1, 1), 7, role="track"),
        frames=6,
    )
    names = ("class", "state", "video")
    if order == "subscale":
        return scrambled(Toy(ToyConfig(), spec, subscale_order(spec, "video", (2, 1, 2)), ("video",)))
    return scrambled(Toy(ToyConfig(), spec, interleaved_order(spec, names), names))


def scrambled(prior: Toy) -> Toy:
    scramble(prior)
    return prior


def still_video_prior(rows: int = 97) -> PreviousStep:
    """Fitted on clips whose codes mostly stay as they were."""
    spec = spec_of(StreamSpec("video", (8, 3, 5), 11), frames=8)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(11, (rows, 8, 3, 5, 1), generator=generator)
    for t in range(1, 8):
        stays = torch.rand(rows, 3, 5, 1, generator=generator) < 0.8
        codes[:, t] = torch.where(stays, codes[:, t - 1], codes[:, t])
    prior = PreviousStep(PreviousStepConfig(), spec)
    prior.fit([{"video": codes}])
    return prior


def one_by_one(
    prior: Prior, tokens: Tokens, given: torch.Tensor, seed: int, ids: list[int], start: int = 0
) -> torch.Tensor:
    """Plain sampling spelled out: for each position the whole teacher-forced distribution, inverted in numpy.

    `start` is the frame of the video at which the clip starts; the random numbers are those of the video's steps.
    """
    flat = prior.flatten(tokens)
    sizes = prior.position_codes()
    order, streams = prior.order(), prior.spec.streams
    for i in (~given.all(0)).nonzero().flatten().tolist():
        stream, t, h, w, q = order[i].tolist()
        _, height, width, codebooks = streams[stream].shape
        step = t if streams[stream].name == "class" else t + start
        code = stream * 2**48 + ((step * height + h) * width + w) * codebooks + q
        number = uniforms(seed, np.array(ids), np.array([code]))[:, 0]
        columns = []
        for k in range(int(sizes[i])):
            flat_k = flat.clone()
            flat_k[:, i] = k
            with torch.no_grad():
                columns.append(prior.log_prob(prior.unflatten(flat_k, tokens), given)[:, i].exp().double())
        cumulative = torch.stack(columns, 1).cumsum(1).numpy()
        drawn = (cumulative <= number[:, None] * cumulative[:, -1:]).sum(1)
        flat[:, i] = torch.where(given[:, i], flat[:, i], torch.from_numpy(drawn))
    return flat


@pytest.mark.parametrize("order", ["raster", "subscale"])
@pytest.mark.parametrize("draft", [0, 1, 4, 99])
def test_samples_are_those_of_sampling_one_by_one(order: str, draft: int):
    """Against brute force, with scattered given codes that differ by row, from ids that are not 0, 1, 2."""
    prior = toy(order)
    tokens, given = random_tokens(prior, 3), random_given(prior, 3, share=0.3)
    given[1], given[2, -5:] = False, True
    expected = one_by_one(prior, tokens, given, 5, [4, 0, 17])
    found = sample(prior, tokens, given, SamplingConfig(draft=draft), seed=5, samples=torch.tensor([4, 0, 17]))
    assert torch.equal(prior.flatten(found.tokens), expected)


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(temperature=0.7, top_k=3, top_p=0.9),
        SamplingConfig(greedy=True),
        SamplingConfig(streams={"video": StreamSampling(top_k=2), "state": StreamSampling(greedy=True)}),
    ],
)
def test_drafts_are_exact_under_every_setting(config: SamplingConfig):
    prior = toy()
    tokens = random_tokens(prior, 5)
    plain = sample(prior, tokens, prior.given_frames(1), config)
    drafted = sample(prior, tokens, prior.given_frames(1), SamplingConfig(**{**vars(config), "draft": 3}))
    for name in prior.predicts:
        assert torch.equal(plain.tokens[name], drafted.tokens[name])


def test_drafts_save_forwards_where_the_video_stands_still():
    """One forward a code without drafts; with them far fewer, since four codes in five are copies."""
    prior = still_video_prior()
    plain = sample(prior, {}, samples=torch.arange(1))
    drafted = sample(prior, {}, None, SamplingConfig(draft=7), samples=torch.arange(1))
    assert plain.forwards == plain.codes_drawn == 120
    assert torch.equal(plain.tokens["video"], drafted.tokens["video"])
    assert drafted.codes_per_forward > 2


def test_given_codes_in_the_middle_are_fed_with_the_next_drawn_one():
    """Forwards are as many as codes drawn, however many are given between them."""
    prior = toy()
    given = random_given(prior, 1, share=0.6)
    drawn = sample(prior, random_tokens(prior, 1), given)
    assert drawn.forwards == drawn.codes_drawn == int((~given).sum())


def test_a_long_stretch_of_given_codes_is_fed_in_parts():
    """More given codes in a row than one block holds."""
    spec = spec_of(StreamSpec("video", (3, 17, 7), 5), frames=3)
    prior = scrambled(Toy(ToyConfig(), spec, raster_order(spec, ["video"]), ("video",)))
    tokens = random_tokens(prior, 2)
    given = torch.ones(2, len(prior.order()), dtype=torch.bool)
    given[0, [2, 3, 340]] = given[1, [0, 200]] = False
    expected = one_by_one(prior, tokens, given, 0, [0, 1])
    for draft in (0, 2):
        found = sample(prior, tokens, given, SamplingConfig(draft=draft))
        assert torch.equal(prior.flatten(found.tokens), expected)


def test_codes_that_are_not_given_are_never_looked_at():
    prior = toy()
    given = prior.given_frames(2) | prior.given_streams(["class"])
    tokens = random_tokens(prior, 3)
    garbage = {name: torch.full_like(codes, 999) for name, codes in tokens.items()}
    flat = torch.where(given, prior.flatten(tokens), prior.flatten(garbage))
    found = sample(prior, prior.unflatten(flat), given)
    assert torch.equal(prior.flatten(found.tokens), prior.flatten(sample(prior, tokens, given).tokens))


def test_a_null_code_can_be_given():
    """It stands for "not given", lies beyond the codebook, and conditions like any other."""
    spec = spec_of(
        StreamSpec("video", (3, 2, 1), 5), StreamSpec("class", (1, 1, 1), 7, role="track", null_code=7), frames=3
    )
    prior = scrambled(Toy(ToyConfig(), spec, interleaved_order(spec, ["video", "class"]), ("video", "class")))
    tokens = random_tokens(prior, 2) | {"class": torch.full((2, 1, 1, 1, 1), 7)}
    found = sample(prior, tokens, prior.given_streams(["class"]))
    assert (found.tokens["class"] == 7).all()
    assert (found.tokens["video"] < 5).all()
    with pytest.raises(DataError, match="has codes from 8 to 8"):
        sample(prior, tokens | {"class": torch.full((2, 1, 1, 1, 1), 8)}, prior.given_streams(["class"]))


def test_dropout_is_off_and_the_mode_comes_back():
    prior = toy()
    expected = sample(prior, {}, samples=torch.arange(2))
    prior.feature = torch.nn.Sequential(prior.feature, torch.nn.Dropout(0.9))
    found = sample(prior.train(), {}, samples=torch.arange(2))
    assert prior.training
    assert torch.equal(found.tokens["video"], expected.tokens["video"])


def test_nan_is_said():
    prior = toy()
    prior.head.weight.data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="weights hold NaN"):
        sample(prior, {}, samples=torch.arange(2))


def test_what_cannot_be_sampled_is_named():
    prior = toy()
    tokens = random_tokens(prior, 3)
    with pytest.raises(ConfigError, match="pass samples"):
        sample(prior, {})
    with pytest.raises(DataError, match="same number of rows"):
        sample(prior, tokens, samples=torch.arange(2))
    with pytest.raises(ConfigError, match="lack stream 'state'"):
        sample(prior, {"video": tokens["video"]}, prior.given_streams(["state"]))
    with pytest.raises(DataError, match=r"'video': its codes are \[5, 2, 2, 1\], not \(6, 2, 2, 1\)"):
        sample(prior, {"video": tokens["video"][:, :5]}, prior.given_frames(1))
    with pytest.raises(DataError, match=r"'video' has codes from 0 to 5, but its codebook only 5"):
        sample(prior, {"video": torch.full((1, 6, 2, 2, 1), 5)}, prior.given_frames(1))
    with pytest.raises(ConfigError, match="did you mean 'state'"):
        sample_video(prior, {"stat": tokens["state"]}, 6)
    with pytest.raises(ConfigError, match="did you mean 'video'"):
        sample(prior, tokens, None, SamplingConfig(streams={"vido": StreamSampling()}))


def test_windows_are_those_of_sliding_by_hand():
    """Every window is the clip that holds what the last one left, drawn with the random numbers of the video's steps.

    The class is given once, the states for the whole video, and the video's first step.
    """
    prior = toy()
    clip = random_tokens(prior, 2)
    states = torch.randint(7, (2, 13, 1, 1, 1), generator=torch.Generator().manual_seed(9))
    video = clip["video"][:, :1]
    known = 1
    for start in (0, 4, 7):  # by 4 frames, and then by what is left
        codes = torch.zeros(2, 6, 2, 2, 1, dtype=torch.long)
        codes[:, : known - start] = video[:, start:known]
        window = {"class": clip["class"], "state": states[:, start : start + 6], "video": codes}
        given = torch.tensor([s != 0 or t < known - start for s, t, *_ in prior.order().tolist()]).expand(2, -1)
        drawn = prior.unflatten(one_by_one(prior, window, given, 3, [0, 1], start))["video"]
        video, known = torch.cat([video[:, :start], drawn], 1), start + 6
    begun = {"class": clip["class"], "state": states, "video": clip["video"][:, :1]}
    for draft in (0, 3):
        found = sample_video(prior, begun, 13, SamplingConfig(slide=4, draft=draft), seed=3)
        assert torch.equal(found.tokens["video"], video)
        assert torch.equal(found.tokens["state"], states)
        assert torch.equal(found.tokens["class"], clip["class"])
    assert found.codes_drawn == 2 * 12 * 4


def test_tracks_that_nobody_gives_are_drawn_along_with_the_video():
    prior = toy()
    found = sample_video(prior, {}, 11, samples=torch.arange(3))
    assert {name: codes.shape[1] for name, codes in found.tokens.items()} == {"class": 1, "state": 11, "video": 11}
    assert found.codes_drawn == 3 * (1 + 11 + 11 * 4)
    assert all((nats > 0).all() for nats in found.nats.values())


def test_a_whole_clip_is_one_sample():
    prior = toy()
    tokens = random_tokens(prior, 3)
    begun = {"class": tokens["class"], "video": tokens["video"][:, :2]}
    clip = sample(prior, tokens, prior.given_frames(2) | prior.given_streams(["class"]), seed=1)
    video = sample_video(prior, begun, 6, seed=1)
    for name in prior.predicts:
        assert torch.equal(video.tokens[name], clip.tokens[name])


def test_a_longer_video_begins_with_the_shorter_one():
    """Random numbers belong to the steps of the video; a clip that is cut short draws no code that it does not show."""
    prior = toy()
    short, clip, longer = (sample_video(prior, {}, frames, samples=torch.arange(2)) for frames in (4, 6, 9))
    assert torch.equal(clip.tokens["video"][:, :4], short.tokens["video"])
    assert torch.equal(longer.tokens["video"][:, :6], clip.tokens["video"])
    assert short.codes_drawn == 2 * (1 + 4 + 4 * 4)


def test_subscale_order_cut_short_draws_what_its_frames_need():
    """The last wanted frame is drawn after later ones in subscale order; these are drawn and not shown."""
    prior = toy("subscale")
    clip = sample_video(prior, {}, 6, samples=torch.arange(2))
    short = sample_video(prior, {}, 3, samples=torch.arange(2))
    assert torch.equal(short.tokens["video"], clip.tokens["video"][:, :3])


def test_parts_hold_each_step_once_and_no_more():
    """What keeps memory flat: after the first clip, a part is as long as the slide."""
    prior = toy()
    parts = list(sample_windows(prior, {}, 14, SamplingConfig(slide=2), samples=torch.arange(2)))
    assert [part.tokens["video"].shape[1] for part in parts] == [6, 2, 2, 2, 2]
    assert ["class" in part.tokens for part in parts] == [True, False, False, False, False]


def test_two_levels_slide_one_after_the_other():
    """Bottom reads the top of the whole long video; a top that ends early is refused."""
    spec = spec_of(StreamSpec("top", (3, 1, 2), 3, stride=2), StreamSpec("bottom", (6, 2, 1), 5), frames=6)
    top = scrambled(Toy(ToyConfig(), spec, raster_order(spec, ["top"]), ("top",)))
    bottom = scrambled(Toy(ToyConfig(), spec, raster_order(spec, ["bottom"]), ("bottom",), reads=("top",)))
    tokens = sample_video(top, {}, 10, SamplingConfig(slide=2), samples=torch.arange(3)).tokens
    found = sample_video(bottom, tokens, 10, SamplingConfig(slide=4))
    assert found.tokens["bottom"].shape == (3, 10, 2, 1, 1)
    changed = {"top": torch.cat([tokens["top"][:, :-1], (tokens["top"][:, -1:] + 1) % 3], 1)}
    again = sample_video(bottom, changed, 10, SamplingConfig(slide=4))
    assert torch.equal(found.tokens["bottom"][:, :6], again.tokens["bottom"][:, :6])
    assert not torch.equal(found.tokens["bottom"], again.tokens["bottom"])
    with pytest.raises(ConfigError, match="hold 4 steps of stream 'top'; the prior reads 5"):
        sample_video(bottom, {"top": tokens["top"][:, :4]}, 10)


def test_more_given_than_the_video_has_is_refused():
    prior = toy()
    with pytest.raises(ConfigError, match="hold 6 steps of stream 'video', more than the video's 5"):
        sample_video(prior, {"video": random_tokens(prior, 1)["video"]}, 5)
