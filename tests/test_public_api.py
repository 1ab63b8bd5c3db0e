"""Public names: the same for Python and type checkers; their representations; and `run`."""

from __future__ import annotations

import ast
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch

import tokenreel
from tokenreel import Controls, Prior, Samples, TokenCache, TokenSpec, VideoTokenizer
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import Framing, StreamSpec
from tokenreel.pipelines.run import COMMANDS
from tokenreel.tokenizers.controls.class_name import ClassConfig, ClassEncoder

SPEC = TokenSpec(
    (
        StreamSpec("video", (3, 5, 7), codebook_size=1009, codebooks=2),
        StreamSpec("class", (1, 1, 1), codebook_size=11, role="control"),
    ),
    frames=3,
    framing=Framing(11, 13),
)


def test_type_checkers_and_python_have_the_same_public_names() -> None:
    """With `__getattr__` only, every public name would be Any. As mypy takes 40 s, the source is compared."""
    tree = ast.parse(Path(tokenreel.__file__).read_text())
    (branch,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in branch.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(branch.body)
    declared = {alias.asname or alias.name: node.module for node in imports for alias in node.names}
    assert declared == tokenreel._MODULES
    assert sorted([*declared, "__version__"]) == sorted(tokenreel.__all__) == dir(tokenreel)
    for name, module in declared.items():
        assert getattr(getattr(tokenreel, name), "__module__", module).startswith("tokenreel."), name


def test_representations_of_models_start_with_a_summary() -> None:
    tokenizer = VideoTokenizer.from_preset("lvt-tabletop-tiny")
    count = sum(p.numel() for p in tokenizer.parameters())
    lines = repr(tokenizer).splitlines()
    assert lines[0] == "FrameVQVAE("
    assert lines[1].strip() == f"frame-vqvae: video [16, 16, 16, 4] of 64 codes; {count:,} parameters"
    prior = Prior.from_preset("gpt-tabletop-tiny", SPEC)
    count = sum(p.numel() for p in prior.parameters())
    parts = repr(prior).splitlines()[1].strip().split("; ")
    assert parts[0] == "gpt: predicts video, reads none"
    assert parts[1:] == ["video [3, 5, 7, 2] of 1,009 codes", f"{count:,} parameters", "untrained"]
    prior.code_fingerprint = "0123456789abcdef"
    assert repr(prior).splitlines()[1].endswith("; trained on tokens of 01234567")
    controls = Controls({"kind": ClassEncoder(ClassConfig(names=("cat", "dog", "owl")))})
    assert repr(controls).splitlines()[1].strip() == "kind: 3 codes"


def test_representations_of_tokens_have_their_shapes(tmp_path: Path) -> None:
    assert SPEC.summary == "video [3, 5, 7, 2] of 1,009 codes, class [1, 1, 1, 1] of 11 codes"
    tokens = {stream.name: np.zeros((17, *stream.shape), np.int64) for stream in SPEC.streams}
    write_token_file(tmp_path / "tokens", SPEC, tokens, "0123456789abcdef", [{"id": f"{i}"} for i in range(17)])
    text = repr(TokenCache.open(tmp_path / "tokens"))
    assert text == f"<TokenCache {tmp_path / 'tokens'}: 17 rows of samples; {SPEC.summary}; codes of 01234567>"
    codes = {"video": torch.zeros(2, *SPEC.streams[0].shape, dtype=torch.long)}
    samples = Samples(codes, {name: torch.zeros_like(value) for name, value in codes.items()}, 105.5, 1260)
    assert repr(samples) == "Samples(video [2, 3, 5, 7, 2]; forwards=105.5, tokens_sampled=1,260)"


def test_a_notebook_displays_a_cache_as_an_escaped_table(tmp_path: Path) -> None:
    tokens = {stream.name: np.zeros((17, *stream.shape), np.int64) for stream in SPEC.streams}
    sources = [{"id": f"{i}", "split": "train" if i < 13 else "validation", "label": 0} for i in range(17)]
    hostile = "<script>alert('&')</script>"
    path = tmp_path / "<b>tokens"
    cache_id = write_token_file(path, SPEC, tokens, "0123456789abcdef", sources, plan={"classes": [hostile]})
    table = TokenCache.open(path)._repr_html_()
    cells = [tuple(cell.text for cell in row) for row in ElementTree.fromstring(table)]
    assert cells == [
        ("path", str(path)),
        ("rows", "17 of samples"),
        ("sources", "13 train, 4 validation"),
        ("classes", hostile),
        ("frames", "3"),
        ("level video", "[3, 5, 7, 2] of 1,009 codes"),
        ("control class", "[1, 1, 1, 1] of 11 codes"),
        ("tokens of", "01234567"),
        ("cache_id", cache_id),
    ]


def test_videos_are_written_and_read_by_public_names(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)
    tokenreel.write_video(str(tmp_path / "a.mp4"), frames, frame_rate=7, lossless=True)
    assert np.array_equal(tokenreel.read_video(str(tmp_path / "a.mp4"), Framing(6, 8)), frames)


def test_every_command_with_results_has_a_public_request() -> None:
    """The others print presets and the environment, which Python can read by other means."""
    requests = {command.request.__name__ for command in COMMANDS if command.module not in ("presets", "doctor")}
    assert {name for name in tokenreel.__all__ if name.endswith("Request")} == requests


def test_run_returns_the_summary_of_the_command(tmp_path: Path) -> None:
    request = tokenreel.TabletopRequest(directory=tmp_path / "videos", videos=2, frames=3, size=16)
    assert tokenreel.run(request)["frames"] == 6
    assert len(list(tmp_path.glob("videos/*/*.mp4"))) == 2
