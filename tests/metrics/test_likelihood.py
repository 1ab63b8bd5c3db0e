"""bits/code against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import DataError
from tokenreel.metrics.likelihood import bits_per_code, permute_streams
from tokenreel.priors.ngram.prior import UnigramConfig, UnigramPrior

SPEC = TokenSpec((StreamSpec("video", (5, 2, 3), 4),), 5, Framing(height=8, width=8))


def fitted() -> UnigramPrior:
    """Tokens 0..3 with probabilities near 1/2, 1/4, 1/8, 1/8."""
    prior = UnigramPrior(UnigramConfig(), SPEC)
    codes = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3]).repeat(30 * 100)
    prior.prepare([{"video": codes.view(-1, 5, 2, 3, 1)}])
    return prior


def clips(value: int, rows: int) -> dict[str, torch.Tensor]:
    return {"video": torch.full((rows, 5, 2, 3, 1), value)}


def test_bits_by_hand_exclude_given_tokens():
    """Half of the clips have 1 bit/code, half 3; the first two frames are given and must not count."""
    prior = fitted()
    found = bits_per_code(prior, [clips(0, 3), clips(2, 3)], prior.given_frames(2))
    assert found.bits_per_code == pytest.approx(2.0, abs=1e-3)
    assert found.by_stream == pytest.approx({"video": 2.0}, abs=1e-3)
    np.testing.assert_allclose(found.clip_bits, [18, 18, 18, 54, 54, 54], rtol=1e-3)
    assert np.isnan(found.by_step["video"]).tolist() == [True, True, False, False, False]
    assert found.by_step["video"][2:] == pytest.approx([2.0] * 3, abs=1e-3)


def test_batches_do_not_matter():
    prior = fitted()
    codes = torch.randint(4, (7, 5, 2, 3, 1), generator=torch.Generator().manual_seed(0))
    given = prior.given_frames(1)
    together = bits_per_code(prior, [{"video": codes}], given)
    parts = bits_per_code(prior, [{"video": part} for part in codes.split(3)], given)
    assert together.bits_per_code == pytest.approx(parts.bits_per_code, rel=1e-12)


def test_the_mode_of_the_prior_is_restored():
    prior = fitted().train()
    bits_per_code(prior, [clips(0, 1)], prior.given_frames(0))
    assert prior.training


@pytest.mark.parametrize("batches", [[], [clips(0, 2)]])
def test_nothing_to_score_is_an_error(batches: list[dict[str, torch.Tensor]]):
    prior = fitted()
    with pytest.raises(DataError, match="nothing to score"):
        bits_per_code(prior, batches, prior.given_frames(5))


def test_no_clip_keeps_its_permuted_streams():
    tokens = {"video": torch.arange(3), "state": torch.arange(3) * 2, "sound": torch.arange(3) * 3}
    (found,) = permute_streams([tokens], ["state", "sound"])
    assert {name: codes.tolist() for name, codes in found.items()} == {
        "video": [0, 1, 2],
        "state": [2, 4, 0],
        "sound": [3, 6, 0],
    }
    with pytest.raises(DataError, match="a batch of one clip"):
        next(permute_streams([{"video": torch.arange(1)}], ["video"]))
