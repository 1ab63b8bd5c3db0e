"""The demo shows samples next to the clip that they continue."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_foreign_tokens
from tokenreel.data.spec import Framing
from tokenreel.data.tabletop.scene import CONFIG_FILE
from tokenreel.errors import UserError
from tokenreel.pipelines.cli.program import program
from tokenreel.pipelines.report.choice_bound import choice_bits_per_code
from tokenreel.pipelines.report.demo_report import Stages, _group_by_start
from tokenreel.pipelines.requests.fields import Request
from tokenreel.pipelines.requests.generation import SampleRequest
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest


def test_the_commands_of_the_report_are_those_that_ran() -> None:
    """Parsed again by the command line, each makes the same request, whatever its paths are called."""
    requests: list[tuple[str, Request]] = [
        ("tokenize-dataset", TokenizeRequest(tokenizer="a b/tok", data="it's; $HOME", out=Path("out & x"), workers=2)),
        (
            "sample",
            SampleRequest(
                prior=("one", "two"), cache=Path("c"), out=Path("s"), num=9, top_k=5, speculate=8, greedy=True,
                top_k_of={"state": 3}, temperature=0.7,
            ),
        ),
    ]  # fmt: skip
    stages = Stages()
    for name, made in requests:
        stages.run(name, name, lambda _: {}, made)
    for line, (name, made) in zip(stages.commands, requests, strict=True):
        _, command, *arguments = shlex.split(line)
        assert command == name
        parsed = program.commands[command].make_context(command, arguments).params
        assert type(made)(**{k: v for k, v in parsed.items() if k not in ("as_json", "quiet", "debug")}) == made


@pytest.mark.parametrize("text", ['{"frames": ', "[5]", '{"frame": 5}'])
def test_a_damaged_file_of_the_data_sets_choices_is_named(tmp_path: Path, text: str) -> None:
    write_foreign_tokens(tmp_path / "cache", np.zeros((3, 2, 1, 1), np.int64), Framing(8, 8), codebook_size=2)
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(UserError, match=rf"{CONFIG_FILE}.*(damaged|unknown key)"):
        choice_bits_per_code(TokenCache.open(tmp_path / "cache"), tmp_path, 1)


def test_samples_are_grouped_by_the_clip_that_they_continue() -> None:
    """Sample i continues start i % starts; an incomplete last round is omitted."""
    samples = np.arange(11)[:, None]
    assert _group_by_start(samples, 3)[..., 0].tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert _group_by_start(samples[:3], 1)[..., 0].tolist() == [[0, 1, 2]]
