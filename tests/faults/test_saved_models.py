"""Saved models: what was cast to half precision, and configurations that are hostile, damaged or deeply nested.

Every model here is small and made by code.
"""

from __future__ import annotations

import copy
import itertools
import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.decoders.generators.toy_generators import ToyGenerator

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.decoders.generators.base import GENERATORS, VideoGenerator, build_generator
from tokenreel.errors import ConfigError, HubError, UserError
from tokenreel.pipelines.artifacts.verification import verify_model
from tokenreel.priors.base import Prior, build_prior
from tokenreel.testing.priors import random_tokens
from tokenreel.tokenizers.base import VideoTokenizer, build_tokenizer
from tokenreel.tokenizers.controls.controls import Controls, resolved_encoders

SPEC = TokenSpec((StreamSpec("video", (3, 2, 4), 7),), frames=3, framing=Framing(8, 16))
PIXELCNN = {
    "embedding": 6, "hidden": 8, "residual": 6, "layers": 2, "heads": 2, "kernel": 3, "condition_hidden": 8,
    "condition_residual": 4, "condition_blocks": 1, "attention_every": 2,
}  # fmt: skip
SUBSCALE = {
    "subscale": [3, 1, 1], "kernel": [1, 3, 3], "depth": 1, "width": 8, "heads": 2, "head_width": 4, "embedding": 6,
}  # fmt: skip
PRIORS: dict[str, tuple[dict[str, Any], TokenSpec | None]] = {
    "gpt": ({"depth": 2, "width": 8, "heads": 2}, SPEC),
    "subscale-transformer": (SUBSCALE, SPEC),
    "pixelcnn-top": (PIXELCNN, None),
    "pixelcnn-bottom": (PIXELCNN, None),
    "unigram": ({}, SPEC),
    "temporal-bigram": ({}, SPEC),
}
TOKENIZERS: dict[str, dict[str, Any]] = {
    "frame-vqvae": {"hidden": 6, "residual": 4, "blocks": 1, "latent": 5},
    "hierarchical-vqvae": {},
    "context-autoencoder": {"width": 4, "multipliers": [1, 1], "latent": 6},
}
CONTROLS = {
    "state": {"type": "state", "codebook_size": 5, "columns": ["x", "y"]},
    "class": {"type": "class", "names": ["ant", "bee"]},
}
MODELS = (*PRIORS, *TOKENIZERS, "controls", "toy generator")
HOSTILE = (None, "x", "1", [], {}, ["gpt"], {"type": ["gpt"]}, -1, 0, 10**9, 10**30, True, 0.5, float("inf"))


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS._members, "toy", ToyGenerator)


def build(name: str) -> VideoTokenizer | Prior | Controls | VideoGenerator:
    if name in PRIORS:
        section, spec = PRIORS[name]
        return build_prior({"type": name, **section}, spec or build("hierarchical-vqvae").spec)
    if name in TOKENIZERS:
        return build_tokenizer({"type": name, **TOKENIZERS[name]}, 8, Framing(16, 32))
    if name == "toy generator":
        return build_generator({"type": "toy", "given_frames": 1}, 5, Framing(6, 11), ("ant", "bee"))
    return Controls(resolved_encoders(CONTROLS))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(document)
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return document


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_value_of_any_field_is_an_error_and_no_traceback(name: str, tmp_path: Path) -> None:
    """Each field of config.json gets the next of the hostile values."""
    build(name).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    document = json.loads(config.read_text())
    before, longest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for path, value in zip(places(document), itertools.cycle(HOSTILE), strict=False):
        config.write_text(json.dumps(replaced(document, path, value)))
        try:
            verify_model(tmp_path)
        except UserError as error:
            longest = max(longest, len(str(error)))
        except Exception as error:
            raise AssertionError(f"{path} = {value!r}") from error
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # MiB
    assert grown < 500
    assert longest < 1000


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("gpt", "depth"), ("gpt", "width"), ("subscale-transformer", "depth"), ("pixelcnn-top", "layers"),
        ("frame-vqvae", "blocks"), ("frame-vqvae", "hidden"), ("frame-vqvae", "downsamplings"),
        ("hierarchical-vqvae", "blocks"), ("context-autoencoder", "latent"),
    ],
)  # fmt: skip
def test_a_configuration_of_a_giant_network_is_refused_before_it_is_built(
    name: str, field: str, tmp_path: Path
) -> None:
    build(name).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    document = json.loads(config.read_text())
    config.write_text(json.dumps(replaced(document, ("config", field), 10**9)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ConfigError, HubError)):
        verify_model(tmp_path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 300


def test_a_deeply_nested_configuration_is_no_traceback(tmp_path: Path) -> None:
    build("unigram").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(HubError, match="cannot be read as JSON"):
        verify_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", [name for name in PRIORS if not name.startswith("pixelcnn")])
def test_a_prior_cast_to_another_precision_is_saved_and_loaded_as_it_is(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    prior = build(name)
    assert isinstance(prior, Prior)
    prior.to(dtype).save_pretrained(tmp_path)
    loaded = Prior.from_pretrained(tmp_path)
    assert loaded.weights_fingerprint == prior.weights_fingerprint
    assert all(tensor.dtype == loaded.state_dict()[key].dtype for key, tensor in prior.state_dict().items())
    if dtype is torch.bfloat16 and not name.startswith("subscale"):  # which computes it where the processor can
        tokens = random_tokens(prior, 2)
        given = torch.zeros(2, len(prior.order()), dtype=torch.bool)
        assert torch.equal(loaded.start(tokens, given).log_probs, prior.eval().start(tokens, given).log_probs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*TOKENIZERS, "controls", "pixelcnn-top"])
def test_what_does_not_work_in_half_precision_says_so_before_it_is_saved(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Tokens depend on the precision, so half precision is chosen where they are computed (`--precision`)."""
    model = build(name).to(dtype)
    with pytest.raises(ConfigError, match=r"is not saved in half precision: call \.float\(\)"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    model.float().save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="is not saved in half precision"):
        model.to(dtype).save_pretrained(tmp_path / "model")
    verify_model(tmp_path / "model")
