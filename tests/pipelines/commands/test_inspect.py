"""`tokenreel inspect` on caches written by the test: code statistics against brute force, images pixel by pixel."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

from tokenreel.data.cache.layout import CacheHeader, Kind
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.plan_config import plan_sha256
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.common import codebook_usage
from tokenreel.pipelines.report.code_pictures import given_steps
from tokenreel.pipelines.report.pictures import CHANGED, SAME, indexed_colours

ROWS, T = 23, 5
VIDEO = StreamSpec("video", (T, 3, 7), codebook_size=11, codebooks=2)
STATE = StreamSpec("state", (T, 1, 1), codebook_size=13, role="control")
SPEC = TokenSpec((VIDEO, STATE), T, Framing(12, 28))


def make_tokens() -> dict[str, np.ndarray]:
    """Codes of the second codebook have unequal frequencies, and the control is a counter."""
    random = np.random.default_rng(7)
    video = random.integers(0, 11, (ROWS, *VIDEO.shape))
    video[..., 1] = video[..., 1] ** 2 // 11
    return {"video": video, "state": (np.arange(ROWS)[:, None] + np.arange(T)).reshape(ROWS, T, 1, 1, 1) % 13}


def token_file(path: Path, given: int) -> Path:
    sources = [{"id": f"../taken from/v {row}.mp4"} for row in range(ROWS)]
    write_token_file(path, SPEC, make_tokens(), "fingerprint", sources, {"given_frames": given})
    return path


def unfinished(path: Path, kind: Kind = "clips", row_frames: int = T) -> CacheWriter:
    """A cache of two videos with 8 and 6 rows, without any shard."""
    plan = {"videos": [{"id": "long"}, {"id": "short"}]}
    spec = TokenSpec((VIDEO,), T, Framing(12, 28))
    return CacheWriter.create(path, CacheHeader(kind, spec, row_frames, 14, 16, "f", plan_sha256(plan)), plan, {})


def inspect(capsys: pytest.CaptureFixture[str], *flags: str | Path) -> dict[str, Any]:
    assert run_command(["inspect", *map(str, flags), "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


def brute_force(codes: np.ndarray, size: int) -> tuple[int, int, float]:
    """(codes in use, the smallest number that holds 80 %, entropy in bits) of all `codes`."""
    counts = sorted((codes == code).sum() for code in range(size))
    holding = next(n for n in range(1, size + 1) if 5 * sum(counts[-n:]) >= 4 * codes.size)
    parts = [count / codes.size for count in counts if count]
    return len(parts), holding, -sum(part * math.log2(part) for part in parts)


def assert_usage(use: dict[str, Any], codes: np.ndarray, size: int) -> None:
    """Compares with the usage of `codes` [..., q]."""
    expected = [brute_force(codes[..., codebook], size) for codebook in range(codes.shape[-1])]
    assert use["codebook_size"] == size
    assert (use["in_use"], use["holding_80_percent"]) == ([e[0] for e in expected], [e[1] for e in expected])
    assert use["entropy_bits"] == pytest.approx([e[2] for e in expected], abs=5e-4)
    assert use["perplexity"] == pytest.approx([2 ** e[2] for e in expected], abs=0.05)


def test_codebook_usage_equals_a_brute_force_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = inspect(capsys, token_file(tmp_path / "x", given=2))
    assert summary["rows_counted"] == ROWS
    for name, codes in make_tokens().items():
        assert_usage(summary["codebook_usage"][name], codes, SPEC.stream(name).codebook_size)


@pytest.mark.parametrize(("limit", "value"), [("MAX_ROWS", 3), ("MAX_TOKENS", 3 * (T * 3 * 7 * 2 + T) + 1)])
def test_evenly_spaced_rows_of_a_large_cache_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(codebook_usage, limit, value)
    monkeypatch.setattr(codebook_usage, "TOKENS_AT_ONCE", 500)  # two rows
    summary = inspect(capsys, token_file(tmp_path / "x", given=2))
    assert summary["rows_counted"] == 3
    assert_usage(summary["codebook_usage"]["video"], make_tokens()["video"][[0, 11, 22]], 11)


def test_images_show_each_code_and_each_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pixel by pixel for evenly spaced rows, with a black bar after the two given steps."""
    summary = inspect(capsys, token_file(tmp_path / "x", given=2), "--pictures", tmp_path / "y", "--num-clips", "3")
    names = [f"{row:06d}_.._taken_from_v_{row}.mp4" for row in (0, 11, 22)]
    files = [f"{name}_{stream}.png" for name in names for stream in ("video", "state")]
    assert summary["pictures"]["files"] == [*files, "codes_video.png", "codes_state.png"]
    assert sorted(path.name for path in (tmp_path / "y").iterdir()) == sorted(summary["pictures"]["files"])
    square, gap, bar = 64 // 7, 2, 4
    for row, name in zip((0, 11, 22), names, strict=True):
        codes, image = make_tokens()["video"][row], imageio.imread(tmp_path / "y" / f"{name}_video.png")
        for step, y, x, codebook in np.ndindex(codes.shape):
            left = step * (7 * square + gap) + x * square + (step >= 2) * (bar + gap)
            top = codebook * (3 * square + gap) + y * square
            assert (image[top, left] == indexed_colours(codes[step, y, x, codebook])).all()
            changed = step > 0 and codes[step, y, x, codebook] != codes[step - 1, y, x, codebook]
            assert (image[top + 2 * (3 * square + gap), left] == (CHANGED if changed else SAME)).all()
        assert (image[:, 2 * (7 * square + gap) :][:, :bar] == 0).all()
    assert imageio.imread(tmp_path / "y" / f"{names[0]}_state.png").shape == (2 * 64 + gap, T * (64 + gap) - gap, 3)


def test_an_image_of_whole_videos_is_a_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are code steps: all are counted, and images start at windows that do not overlap."""
    writer = unfinished(tmp_path / "x", "videos", row_frames=1)
    steps = np.random.default_rng(3).integers(0, 11, (14, 1, *VIDEO.shape[1:]))
    source = np.repeat([0, 1], [8, 6]).astype(np.int32)
    columns = {"valid": np.ones(14, np.uint8), "label": -np.ones(14, np.int32), "first_frame": np.zeros(14, np.int64)}
    writer.put(0, {"video": steps, "source": source, **columns})
    summary = inspect(capsys, tmp_path / "x", "--pictures", tmp_path / "y")
    assert (summary["sealed"], summary["rows_counted"]) == (False, 14)
    assert_usage(summary["codebook_usage"]["video"], steps, 11)
    files = ["000000_long_video.png", "000008_short_video.png", "codes_video.png"]
    assert summary["pictures"] == {"folder": str(tmp_path / "y"), "clips": 2, "files": files}
    assert imageio.imread(tmp_path / "y" / files[1]).shape[1] == T * (63 + 2) - 2  # no bar: nothing was given


def test_an_empty_cache_has_no_statistics_and_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished(tmp_path / "x")
    summary = inspect(capsys, tmp_path / "x")
    assert (summary["shards"], summary["rows_counted"], summary["codebook_usage"]) == ("0 of 1", 0, {})
    assert run_command(["inspect", str(tmp_path / "x"), "--pictures", str(tmp_path / "y")]) == 1
    assert "holds no complete clip" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


def test_images_are_only_of_caches_and_overwrite_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert run_command(["inspect", str(tmp_path), "--pictures", str(tmp_path / "y")]) == 2
    assert "is a saved model: give a token cache or a token file" in capsys.readouterr().err
    assert run_command(["inspect", str(token_file(tmp_path / "x", given=0)), "--pictures", str(tmp_path)]) == 1
    assert "--pictures" in capsys.readouterr().err


def test_given_steps_are_those_without_a_sampled_frame() -> None:
    level = StreamSpec("video", (4, 1, 1), codebook_size=3, stride=4)
    causal = TokenSpec((level,), 13, Framing(2, 2), time="causal")  # steps of 1, 4, 4 and 4 frames
    assert [given_steps(causal, level, frames) for frames in (0, 1, 4, 5, 12, 13)] == [0, 1, 1, 2, 3, 4]
    assert given_steps(SPEC, VIDEO, 2) == 2
    assert given_steps(SPEC, STATE, 2) == 0


def test_inspect_needs_no_torch(tmp_path: Path) -> None:
    arguments = ["inspect", str(token_file(tmp_path / "x", given=2)), "--pictures", str(tmp_path / "y"), "--quiet"]
    code = f"import sys; from tokenreel.pipelines.cli.program import run_command; assert run_command({arguments}) == 0"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("text", "last"),
    [
        (b'{"step": 3}\n{"step": 7}\n', {"step": 7}),
        (b'{"step": 3}\n{"step": ', {"step": 3}),
        (b'{"step": 3}\nx}\n\xff}\n[1]\n', {"step": 3}),
        (b'{"step": 3}\n' + b"[" * 100_000 + b"\n", {"step": 3}),
        (b"x}\n", None),
    ],
)
def test_the_newest_intact_line_of_the_metrics_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes, last: dict[str, int] | None
) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_bytes(text)
    assert inspect(capsys, tmp_path).get("last_metrics") == last


def test_metrics_that_claim_gigabytes_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{}")
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(1 << 40)  # a hole, which takes no space
    assert "last_metrics" not in inspect(capsys, tmp_path)


def test_a_checkpoint_without_its_step_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state.json").write_text("{}")
    assert run_command(["inspect", str(tmp_path)]) == 1
    assert f"{tmp_path}/state.json is damaged: it states no step" in capsys.readouterr().err
