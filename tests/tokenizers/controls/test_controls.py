"""Controls: saved and loaded unchanged, and their streams in a spec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError, DataError, HubError
from tokenreel.tokenizers.base import VideoTokenizer
from tokenreel.tokenizers.controls.base import DatasetInfo
from tokenreel.tokenizers.controls.controls import Controls, resolve_controls, resolved_encoders

SECTION = {
    "state": {"type": "state", "codebook_size": 5, "columns": ["x", "y"]},
    "class": {"type": "class", "names": ["ant", "bee"]},
    "sound": {
        "type": "sound",
        "codebook_size": 3,
        "bands": 2,
        "slices": 1,
        "rate": 1000,
        "window": 16,
        "frame_rate": 20,
    },
    "type": {"type": "integers", "file": "grip.csv", "column": "grip", "codebook_size": 7},
}
SPEC = TokenSpec((StreamSpec("video", (11, 2, 3), 13),), 11, Framing(8, 12))


@pytest.fixture(scope="module")
def controls() -> Controls:
    fitted = Controls(resolved_encoders(SECTION))
    generator = np.random.default_rng(0)
    fitted.encoder("state").fit([generator.random((11, 2), dtype=np.float32)])
    fitted.encoder("sound").fit([generator.normal(size=(11, 50)).astype(np.float32)])
    return fitted


def test_saved_and_loaded_controls_are_equal_in_the_same_order(controls: Controls, tmp_path: Path) -> None:
    controls.save_pretrained(tmp_path / "x")
    back = Controls.from_pretrained(tmp_path / "x")
    assert back.names == tuple(SECTION)
    assert back.streams(11) == controls.streams(11)
    assert back.weights_fingerprint == controls.weights_fingerprint
    inputs = {"state": np.random.default_rng(1).random((11, 2), dtype=np.float32), "class": "bee"}
    for name, indices in controls.encode(inputs).items():
        np.testing.assert_array_equal(back.encode(inputs)[name], indices)
    assert "from tokenreel import Controls" in (tmp_path / "x/README.md").read_text()
    with pytest.raises(HubError, match="expected a saved tokenizer, got a saved controls"):
        VideoTokenizer.from_pretrained(tmp_path / "x")


def test_a_document_without_encoders_is_no_traceback() -> None:
    with pytest.raises(ConfigError, match=r"config\.encoders: expected a list"):
        Controls.from_document({"config": {"type": "controls"}})


def test_a_setting_added_after_saving_does_not_change_the_streams(controls: Controls) -> None:
    """Absent from the saved document, as an older version would have written it, it has its default."""
    document = controls.to_document()
    stored = [dict(entry) for entry in document["config"]["encoders"]]
    del stored[2]["floor_db"]
    older = Controls.from_document({"config": {**document["config"], "encoders": stored}})
    older.load_state_dict(controls.state_dict())
    assert older.encoder("sound").config == controls.encoder("sound").config
    assert older.to_document()["config"]["encoders"] == stored
    assert older.streams(11)[2].encoder_fingerprint != controls.streams(11)[2].encoder_fingerprint
    assert Controls.from_document(older.to_document()).to_document() == older.to_document()


def test_encoders_without_codebooks_are_saved_too(tmp_path: Path) -> None:
    Controls(resolved_encoders({"class": SECTION["class"]})).save_pretrained(tmp_path / "x")
    assert Controls.from_pretrained(tmp_path / "x").encode({"class": "ant"})["class"].tolist() == [[[[0]]]]


def test_control_streams_follow_the_levels_and_identify_their_encoder(controls: Controls) -> None:
    spec = controls.added_to(SPEC)
    assert spec.levels == SPEC.levels
    assert [(s.name, s.grid, s.codebook_size, s.unconditional_token, s.stride) for s in spec.streams[1:]] == [
        ("state", (11, 1, 2), 5, 5, 1),
        ("class", (1, 1, 1), 2, 2, 11),
        ("sound", (11, 2, 1), 3, 3, 1),
        ("type", (11, 1, 1), 7, 7, 1),
    ]
    assert len({stream.encoder_fingerprint for stream in spec.streams}) == 5
    assert TokenSpec.from_json(spec.to_json()) == spec


def test_errors_name_the_control(controls: Controls) -> None:
    with pytest.raises(DataError, match="control 'class': class 'cat' is not known"):
        controls.encode({"class": "cat"})
    with pytest.raises(ConfigError, match="no control is called 'stat'; did you mean 'state'"):
        controls.encoder("stat")
    for name in ("video", "video_given"):
        with pytest.raises(ConfigError, match=rf"controls\.{name}: the tokenizer has a stream of that name"):
            Controls(resolved_encoders({name: SECTION["class"]})).added_to(SPEC)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "expected at least one"),
        ([], "expected a mapping of names"),
        ({"a b": SECTION["class"]}, "must consist of letters, digits"),
        ({"state": {"type": "stat"}}, r"controls\.state\.type: no control is called 'stat'; did you mean 'state'"),
        (
            {"state": {"type": "state", "codebook_siz": 5}},
            r"controls\.state\.codebook_siz: unknown key; did you mean 'codebook_size'",
        ),
        ({"label": SECTION["class"]}, r"controls\.label: reserved name \(one of end, end_step, .*valid\)"),
        ({"end": SECTION["class"]}, r"controls\.end: reserved name"),
    ],
)
def test_an_invalid_section_is_rejected(section: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Controls(resolved_encoders(section))


def test_defaults_of_a_section_come_from_the_data_set() -> None:
    dataset = DatasetInfo(("bee", "ant"), 20.0, lambda file: ("x", "y"))
    open_section = {
        "state": {"type": "state", "codebook_size": 5},
        "class": {"type": "class"},
        "sound": {key: value for key, value in SECTION["sound"].items() if key != "frame_rate"},  # type: ignore[attr-defined]
        "type": SECTION["type"],
    }
    assert list(resolved_encoders(open_section)) == ["type"]
    assert resolve_controls(open_section, dataset).streams(11) == Controls(resolved_encoders(SECTION)).streams(11)
