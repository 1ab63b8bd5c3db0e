from __future__ import annotations

from pathlib import Path

import pytest

from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.settings import require_section, resolve

FILE = """
tokenizer: {type: frame-vqvae, hidden: 32, quantizer: {type: vq, codebook_size: 512}}
training:
  batch: 8
  steps: 100
  tokenizer: {steps: 200}
  prior: {batch: 4}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def test_each_source_wins_over_the_one_before(file: Path) -> None:
    """File < --set < flags; the file's part for a stage wins over its shared part, but over no later source."""
    assert resolve(None, file, [], {}, "tokenizer")["training"] == {"batch": 8, "steps": 200}
    assert resolve(None, file, [], {}, "prior")["training"] == {"batch": 4, "steps": 100}
    assert resolve(None, file, ["training.steps=3"], {}, "tokenizer")["training"]["steps"] == 3
    flags = {"training.steps": 5, "training.seed": None}
    assert resolve(None, file, ["training.steps=3"], flags, "tokenizer")["training"] == {"batch": 8, "steps": 5}


def test_an_assignment_changes_one_field_of_many(file: Path) -> None:
    sections = resolve(None, file, ["tokenizer.quantizer.codebook_size=64"], {}, "tokenizer")
    assert sections["tokenizer"] == {
        "type": "frame-vqvae",
        "hidden": 32,
        "quantizer": {"type": "vq", "codebook_size": 64},
    }


def test_a_quantizer_of_another_type_takes_no_field_of_the_old_one(file: Path) -> None:
    sections = resolve(None, file, ["tokenizer.quantizer={type: fsq, levels: [8, 5]}"], {}, "tokenizer")
    assert sections["tokenizer"]["quantizer"] == {"type": "fsq", "levels": [8, 5]}


def test_what_is_misspelt_gets_the_nearest_name(file: Path) -> None:
    with pytest.raises(ConfigError, match="'trainig' is not known; did you mean 'training'"):
        resolve(None, file, ["trainig.steps=3"], {}, "prior")
    with pytest.raises(ConfigError, match="preset 'no-such' is not known"):
        resolve("no-such", None, [], {}, "prior")
    with pytest.raises(ConfigError, match="no section 'prior': give --preset NAME"):
        require_section(resolve(None, file, [], {}, "prior"), "prior")
