"""GPT with controls: the contract for every combination, and that controls condition what follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from toy_priors import spec_of

from tokenreel.data.spec import END, END_STEP, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.base import Prior, vocabulary_size
from tokenreel.priors.gpt.inputs import FEATURES
from tokenreel.priors.gpt.model import GPT, GPTConfig
from tokenreel.priors.gpt.order import latest_positions
from tokenreel.testing.prior_sampling import check_sample_frequencies
from tokenreel.testing.priors import (
    check_contract,
    check_normalised,
    check_step_computes_one_position,
    random_given,
    random_tokens,
    scramble,
)

SCALE = 0.1  # see test_model.py
CONTROLS = [("class",), ("end",), ("state",), ("sound",), ("class", "state", "sound", "end")]


def controlled(codebooks: int = 1) -> TokenSpec:
    """A level with so many codebooks, a class, and for each of 3 frames a state of 2 tokens and a sound of 7."""
    return spec_of(
        StreamSpec("video", (3, 2, 1), 5, codebooks),
        StreamSpec("class", (1, 1, 1), 13, stride=3, role="control", unconditional_token=13),
        StreamSpec("state", (3, 1, 2), 7, role="control", unconditional_token=7),
        StreamSpec("sound", (3, 7, 1), 11, role="control", unconditional_token=11),
        StreamSpec("music", (1, 1, 2), 3, codebooks=2, role="control"),
        frames=3,
    )


def gpt(controls: tuple[str, ...], spec: TokenSpec | None = None, **settings: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(depth=2, width=24, heads=3, controls=controls, **settings), spec or controlled())


@pytest.mark.parametrize("codebooks", [1, 3])
@pytest.mark.parametrize("controls", CONTROLS)
def test_contract(controls: tuple[str, ...], codebooks: int) -> None:
    prior = scramble(gpt(controls, controlled(codebooks)), scale=SCALE)
    given = random_given(prior, 3, 0.3)
    given[0] = prior.given_frames(1) | prior.given_streams({"state", "sound"} & set(controls))
    check_contract(prior, random_tokens(prior, 3), given)


@pytest.mark.parametrize("positions", ["decomposed", "joint"])
@pytest.mark.parametrize("previous_step", [False, True])
def test_contract_with_either_kind_of_positions(positions: str, previous_step: bool) -> None:
    prior = scramble(gpt(CONTROLS[-1], positions=positions, previous_step=previous_step), scale=SCALE)
    check_contract(prior, random_tokens(prior, 3), random_given(prior, 3, 0.3))


@pytest.mark.parametrize(
    ("controls", "options"),
    [
        (("state",), ["latest_controls"]),
        (("end",), ["end_frame_input"]),
        *((CONTROLS[-1], [option]) for option in FEATURES),
        (CONTROLS[-1], FEATURES),
    ],
)
def test_contract_with_additional_inputs(controls: tuple[str, ...], options: Iterable[str]) -> None:
    prior = scramble(gpt(controls, controlled(codebooks=3), **dict.fromkeys(options, True)), scale=SCALE)
    assert list(prior.inputs) == list(options)
    given = random_given(prior, 3, 0.3)
    given[0] = prior.given_frames(1) | prior.given_streams({"state", "sound"} & set(controls))
    check_contract(prior, random_tokens(prior, 3), given)


@pytest.mark.parametrize("option", FEATURES)
def test_an_input_feature_reads_nothing_from_its_target_on(option: str) -> None:
    """And it gives the same vectors for a range of targets as for each row's own targets."""
    prior = scramble(gpt(CONTROLS[-1], controlled(codebooks=3), **{option: True}))
    feature, tokens = prior.inputs[option], random_tokens(prior, 2)
    flat, length = prior.flatten(tokens), len(prior.order())
    with torch.no_grad():
        expected = feature(flat, tokens, slice(length))
        assert expected.shape == (2, length, 24)
        assert torch.equal(feature(flat, tokens, slice(5)), expected[:, :5])
        for position in range(length):
            target = torch.tensor([[position], [length - 1 - position]])
            changed = flat.where(torch.arange(length) < target, (flat + 1) % prior.codebook_sizes())
            assert torch.equal(feature(changed, tokens, target), expected.take_along_dim(target[..., None], 1))


def test_contract_of_a_control_prior() -> None:
    prior = scramble(gpt(("class", "state", "sound"), controlled(codebooks=3), controls_only=True), scale=SCALE)
    assert prior.predicts == ("state", "sound")
    assert len(prior.order()) == 3 * (2 + 7)
    check_contract(prior, random_tokens(prior, 3), random_given(prior, 3, 0.3))


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        (("class",), r"controls_only: controls \(=\['class'\]\) must include a frame-level one"),
        (("state", "end"), "controls_only: .* must not include 'end'"),
    ],
)
def test_a_control_prior_without_frame_level_controls_is_refused(controls: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gpt(controls, controls_only=True)


def test_latest_controls_are_refused_without_frame_level_controls() -> None:
    with pytest.raises(ConfigError, match=r"latest_controls: controls \(=\['class'\]\) must include"):
        gpt(("class",), latest_controls=True)


def test_the_end_frame_as_an_input_is_refused_without_an_end_frame() -> None:
    with pytest.raises(ConfigError, match=r"end_frame_input: controls \(=\['class'\]\) must include .* 'end'"):
        gpt(("class",), end_frame_input=True)


def test_the_end_frame_as_an_input_against_looking_it_up_token_by_token() -> None:
    """Rows: an end at the clip's last step, one before, none, and one without a step."""
    prior = scramble(gpt(("state", "end"), controlled(codebooks=3), end_frame_input=True))
    tokens, feature = random_tokens(prior, 4), prior.inputs["end_frame_input"]
    tokens[END_STEP] = torch.tensor([2, 1, 3, 3]).view(4, 1, 1, 1, 1)  # 3: unconditional, as is 5 for its tokens
    tokens[END][2] = 5
    with torch.no_grad():
        found = feature(prior.flatten(tokens), tokens, slice(None))
        assert not found[:, prior.positions_of("state")].any()
        for position in prior.positions_of("video").nonzero()[:, 0].tolist():
            _, step, h, w, q = prior.order()[position].tolist()
            for clip, arrival in enumerate([2, 1, None, None]):
                distance = 5 if arrival is None else arrival - step + 2  # -2 to 2; then no end frame
                vector = feature.token_embedding.table.weight[6 * q + tokens[END][clip, 0, h, w, q]]
                expected = vector * feature.distance_weight[distance] + feature.distance_embedding.weight[distance]
                torch.testing.assert_close(found[clip, position], expected)


def test_the_latest_position_of_a_location_against_searching_backwards() -> None:
    prior = gpt(("state", "sound"), controlled(codebooks=2))
    order, controls = prior.order().numpy(), [1, 2]
    latest, streams = latest_positions(order, controls)
    locations = [tuple(token) for token in order[:, [0, 2, 3, 4]].tolist()]
    of_controls = list(dict.fromkeys(location for location in locations if location[0] in controls))
    assert streams == [stream for stream, *_ in of_controls]
    for row, location in zip(latest.tolist(), of_controls, strict=True):
        assert row == [
            max((j for j in range(i) if locations[j] == location), default=-1) for i in range(len(locations))
        ]


@pytest.mark.parametrize("speculate", [0, 2])
def test_samples_follow_its_probabilities(speculate: int) -> None:
    spec = spec_of(
        StreamSpec("video", (2, 1, 2), 3),
        StreamSpec("class", (1, 1, 1), 5, role="control", unconditional_token=5),
        StreamSpec("state", (2, 1, 1), 2, role="control", unconditional_token=2),
        frames=2,
    )
    prior = scramble(gpt(("class", "state", "end"), spec), scale=SCALE)
    tokens, given = random_tokens(prior, 2), torch.zeros(2, 6, dtype=torch.bool)
    given[1, 2] = given[1, 3] = True
    check_normalised(prior, tokens, given)
    check_sample_frequencies(prior, tokens, given, speculate=speculate)


def test_a_new_token_computes_one_position() -> None:
    prior = scramble(gpt(CONTROLS[-1]))
    check_step_computes_one_position(prior, random_tokens(prior, 1))


def test_its_own_spec_holds_levels_and_its_controls() -> None:
    assert [stream.name for stream in gpt(()).spec.streams] == ["video"]
    assert [stream.name for stream in gpt(("state", "class")).spec.streams] == ["video", "class", "state"]
    prior = gpt(("end", "sound"))
    assert [stream.name for stream in prior.spec.streams] == ["video", "sound", END, END_STEP]
    assert (prior.predicts, prior.reads) == (("video", "sound"), (END, END_STEP))


@pytest.mark.parametrize("name", ["class", "music", END, END_STEP])
def test_all_inputs_condition_every_token(name: str) -> None:
    """Each token of the prefix, and the step of the end frame, changes each log-prob; the unconditional token differs
    from all others.
    """
    prior = scramble(gpt((*CONTROLS[-1], "music"), controlled(3)), scale=SCALE)
    tokens, given = random_tokens(prior, 1), torch.zeros(1, len(prior.order()), dtype=torch.bool)
    stream = prior.spec.stream(name)
    with torch.no_grad():
        before = prior.log_prob(tokens, given)
        for position in range(stream.positions):
            found = []
            for token in range(vocabulary_size(stream)):
                changed = tokens[name].clone()
                changed.view(-1)[position] = token
                found.append(prior.log_prob({**tokens, name: changed}, given))
            assert (torch.stack(found) - before).abs().amax(0).gt(1e-5).all()
            assert all((found[-1] - other).abs().max() > 1e-5 for other in found[:-1])


def test_unconditional_tokens_can_be_given_everywhere() -> None:
    """As in training with dropped controls: cached sampling gives the same."""
    prior = scramble(gpt(CONTROLS[-1]), scale=SCALE)
    controls = [stream for stream in prior.spec.streams if stream.role == "control"]
    unconditional = {control.name: torch.full((2, *control.shape), control.codebook_size) for control in controls}
    given = prior.given_streams(["state", "sound"]).expand(2, -1)
    tokens = random_tokens(prior, 2) | unconditional
    with torch.no_grad():
        log_probs = prior.log_prob(tokens, given)
    first = int((~given[0]).int().argmax())
    found = prior.start(tokens, given).log_probs.gather(1, tokens["video"][:, 0, 0, 0])[:, 0]
    torch.testing.assert_close(found, log_probs[:, first], atol=1e-4, rtol=0)


def test_the_end_frame_is_embedded_like_the_frame_at_its_step() -> None:
    """Except for the prefix's own position embedding, as the level's tokens at that step."""
    prior = scramble(gpt(("end",), controlled(3)))
    assert prior.prefix is not None
    prior.prefix.position_embedding.weight.data.zero_()
    tokens = random_tokens(prior, 2)
    tokens[END] = tokens["video"][torch.arange(2), torch.tensor([2, 1])][:, None]
    tokens[END_STEP] = torch.tensor([2, 1]).view(2, 1, 1, 1, 1)
    positions = prior.position_embedding()
    flat = prior.flatten(tokens)
    embedded = prior.token_embedding(flat, slice(None)) + positions
    prefix = prior.prefix(tokens, prior.token_embedding, positions)
    for row, step in enumerate((2, 1)):
        assert torch.equal(prefix[row], embedded[row, prior.order()[:, 1] == step])


def test_joint_positions_have_one_vector_each() -> None:
    """Instead of one per time, location and codebook."""
    sizes = [sum(p.numel() for p in gpt(("state",), positions=kind).parameters()) for kind in ("decomposed", "joint")]
    times, locations, codebooks, tokens = 3, 2 + 2, 1 + 1, 3 * (2 + 2)
    assert sizes[1] - sizes[0] == 24 * (tokens - times - locations - codebooks)


def test_learns_from_its_prefix() -> None:
    """The class is the token that the whole clip repeats, and so is the end frame: both are learned."""
    spec = spec_of(
        StreamSpec("video", (3, 1, 2), 5),
        StreamSpec("class", (1, 1, 1), 5, role="control", unconditional_token=5),
        frames=3,
    )
    for controls in (("class",), ("end",)):
        prior = gpt(controls, spec)
        optimizer, generator = torch.optim.AdamW(prior.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
        given = torch.zeros(64, 6, dtype=torch.bool)
        for _ in range(100):
            kind = torch.randint(5, (64, 1, 1, 1, 1), generator=generator)
            tokens = {"video": kind.expand(-1, 3, -1, 2, -1), "class": kind, END: kind.expand(-1, 1, 1, 2, 1)}
            loss = prior.loss({**tokens, END_STEP: torch.full_like(kind, 2)}, given)
            optimizer.zero_grad()
            loss.backward()
            assert all(parameter.grad is not None for parameter in prior.parameters())
            optimizer.step()
        assert loss.item() < 0.05, f"{controls}: without the prefix it is at least log 5 / 6 = 0.27"


def test_document_round_trip() -> None:
    prior = scramble(gpt(CONTROLS[-1], positions="joint"), scale=SCALE)
    again = Prior.from_document(prior.to_document())
    again.load_state_dict(prior.state_dict())
    tokens, given = random_tokens(prior, 2), random_given(prior, 2, 0.3)
    assert torch.equal(again.eval().log_prob(tokens, given), prior.log_prob(tokens, given))


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        (("pose",), r"have \['class', 'state', 'sound', 'music'\] and lack \['pose'\]"),
        (("state", "state"), "must be different control streams"),
        (("video",), r"lack \['video'\]"),
    ],
)
def test_controls_that_the_tokens_lack_are_refused(controls: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gpt(controls)


def test_a_control_of_another_length_is_refused() -> None:
    spec = spec_of(StreamSpec("video", (3, 1, 1), 5), StreamSpec("state", (2, 1, 1), 5, role="control"), frames=3)
    with pytest.raises(ConfigError, match="'state' has 2 steps of 1 frames; a clip of 3"):
        gpt(("state",), spec)


def test_an_end_frame_of_two_levels_is_refused() -> None:
    spec = spec_of(StreamSpec("top", (1, 1, 1), 3, stride=2), StreamSpec("bottom", (2, 1, 1), 3), frames=2)
    with pytest.raises(ConfigError, match=r"one level; these have \['top', 'bottom'\]"):
        gpt(("end",), spec)
