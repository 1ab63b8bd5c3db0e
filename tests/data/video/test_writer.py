"""Files of the writer, read back by other libraries."""

from __future__ import annotations

import ctypes
import platform
import tracemalloc
from pathlib import Path

import av
import imageio.v3
import numpy as np
import pytest

from tokenreel.data.tabletop.clip import TabletopConfig, tabletop_clip
from tokenreel.data.video.encoders import SHEET_COLUMNS
from tokenreel.data.video.writer import write_video
from tokenreel.errors import DataError

M_PERTURB = -6  # option of glibc's mallopt: the byte that fills new memory


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return tabletop_clip(TabletopConfig(height=46, width=62, frames=19), 1).frames


def _read(path: Path) -> tuple[np.ndarray, list[float]]:
    with av.open(path) as container:
        decoded = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]
    return np.stack([pixels for pixels, _ in decoded]), [time for _, time in decoded]


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(np.float64) - other).mean()))


def test_mp4_keeps_times_and_approximate_pixels(frames: np.ndarray, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames, 12.5)
    decoded, times = _read(tmp_path / "clip.mp4")
    assert decoded.shape == frames.shape
    assert times == pytest.approx(np.arange(19) / 12.5, abs=1e-4)
    assert _psnr(decoded, frames) > 33  # at such a small size 4:2:0 loses more than the compression


def test_a_fractional_rate_does_not_drift(frames: np.ndarray, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", frames, 24000 / 1001)
    assert _read(tmp_path / "clip.mp4")[1] == pytest.approx(np.arange(19) * 1001 / 24000, abs=1e-4)


def test_lossless_mp4_is_exact_also_in_odd_sizes(frames: np.ndarray, tmp_path: Path) -> None:
    odd = frames[:, :43, :61]
    write_video(tmp_path / "clip.mp4", odd, 10, lossless=True)
    assert np.array_equal(_read(tmp_path / "clip.mp4")[0], odd)


def test_odd_sizes_are_padded_and_never_resized(frames: np.ndarray, tmp_path: Path) -> None:
    odd = frames[:, :43, :61]
    write_video(tmp_path / "clip.mp4", odd, 10)
    decoded, _ = _read(tmp_path / "clip.mp4")
    assert decoded.shape == (19, 44, 62, 3)
    assert _psnr(decoded[:, :43, :61], odd) > 33
    assert _psnr(decoded[:, 43, :61], odd[:, 42]) > 30


def test_the_same_clip_gives_the_same_file(frames: np.ndarray, tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, frames, 10)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc fills what it allocates")
@pytest.mark.parametrize("number", [5, 7])
def test_the_file_does_not_depend_on_memory_that_nothing_wrote(number: int, tmp_path: Path) -> None:
    """Clips whose files differed with x264's macroblock tree."""
    clip = tabletop_clip(TabletopConfig(), number).frames
    contents = set()
    for fill in (0, 1, 85, 127, 170, 255):
        ctypes.CDLL(None).mallopt(M_PERTURB, fill)
        write_video(tmp_path / "clip.mp4", clip, 10)
        ctypes.CDLL(None).mallopt(M_PERTURB, 0)
        contents.add((tmp_path / "clip.mp4").read_bytes())
    assert len(contents) == 1


def test_sound_is_synchronous_with_the_frames(frames: np.ndarray, tmp_path: Path) -> None:
    sound = np.zeros(19 * 1600, np.float32)
    sound[9000:12000] = 0.5 * np.sin(np.arange(3000) * 0.2)
    write_video(tmp_path / "clip.mp4", frames, 10, sound, 16000)
    with av.open(tmp_path / "clip.mp4") as container:
        assert container.streams.audio[0].codec_context.sample_rate == 16000
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(samples) == pytest.approx(len(sound), abs=1024)  # AAC codes 1,024 samples at a time
    together = min(len(samples), len(sound))
    assert np.corrcoef(samples[:together], sound[:together])[0, 1] > 0.99


def test_gif_keeps_its_times(frames: np.ndarray, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.gif", frames, 10)
    decoded, times = _read(tmp_path / "clip.gif")
    assert times == pytest.approx(np.arange(19) / 10)
    assert _psnr(decoded, frames) > 35  # 256 colours per frame


def test_png_holds_all_frames_from_left_to_right(frames: np.ndarray, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.png", frames, 10)
    sheet = imageio.v3.imread(tmp_path / "clip.png")
    assert sheet.shape == (2 * 46, SHEET_COLUMNS * 62, 3)
    for number, frame in enumerate(frames):
        row, column = divmod(number, SHEET_COLUMNS)
        assert np.array_equal(sheet[46 * row : 46 * (row + 1), 62 * column : 62 * (column + 1)], frame)
    assert not sheet[46:, 3 * 62 :].any()


def test_npy_is_exact(frames: np.ndarray, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.npy", frames, 10)
    assert np.array_equal(np.load(tmp_path / "clip.npy", allow_pickle=False), frames)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.png", "clip.npy"])
def test_an_unfinished_file_is_removed(
    name: str, frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk is full when the file is renamed, the error says so, and no part of the file remains."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DataError, match=f"{name} cannot be written: No space left"):
        write_video(tmp_path / name, frames, 10)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_error_with_the_path(frames: np.ndarray, tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.gif", "clip.png", "clip.npy"):
        with pytest.raises(DataError, match="nowhere"):
            write_video(tmp_path / "nowhere" / name, frames, 10)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("clip.mp5", {}, "did you mean '.mp4'"),
        ("clip.mp4", {"frames": np.zeros((3, 8, 8, 3), np.float32)}, "uint8"),
        ("clip.mp4", {"frames": np.zeros((3, 8, 8), np.uint8)}, "T, H, W, 3"),
        ("clip.gif", {"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "at least one"),
        ("clip.mp4", {"frame_rate": 0}, "frame_rate"),
        ("clip.gif", {"sound": np.zeros(9, np.float32), "sample_rate": 9}, "sound must be"),
        ("clip.mp4", {"sound": np.zeros(9, np.float32)}, "sample_rate"),
    ],
)
def test_invalid_arguments_are_refused(name: str, wrong: dict[str, object], words: str, tmp_path: Path) -> None:
    arguments = {"frames": np.zeros((3, 8, 8, 3), np.uint8), "frame_rate": 10} | wrong
    with pytest.raises(DataError, match=words):
        write_video(tmp_path / name, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.png", "clip.npy"])
def test_frames_in_chunks_give_the_same_file(name: str, frames: np.ndarray, tmp_path: Path) -> None:
    for folder in ("array", "chunks"):
        (tmp_path / folder).mkdir()
    write_video(tmp_path / "array" / name, frames, 10)
    write_video(tmp_path / "chunks" / name, (frames[a:b] for a, b in ((0, 2), (2, 2), (2, 13), (13, 19))), 10)
    assert (tmp_path / "chunks" / name).read_bytes() == (tmp_path / "array" / name).read_bytes()


def test_a_streamed_npy_is_what_numpy_saves(frames: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "numpy.npy", frames)
    write_video(tmp_path / "clip.npy", np.split(frames, [3, 11]), 10)
    assert (tmp_path / "clip.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.npy"])
def test_memory_does_not_grow_with_the_length(name: str, tmp_path: Path) -> None:
    def peak(frames: int) -> int:
        tracemalloc.start()
        write_video(tmp_path / name, (np.full((16, 48, 64, 3), i, np.uint8) for i in range(frames // 16)), 10)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(16)  # one-time allocations
    assert peak(512) < peak(64) + 48 * 64 * 3  # not one frame more


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        (np.zeros((2, 8, 6, 3), np.uint8), r"one size, got \(8, 6\) after \(8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.int64), "uint8"),
    ],
)
def test_a_chunk_of_another_shape_is_refused_and_leaves_nothing(piece: np.ndarray, words: str, tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.npy"):
        with pytest.raises(DataError, match=words):
            write_video(tmp_path / name, [np.zeros((3, 8, 8, 3), np.uint8), piece], 10)
        assert not list(tmp_path.iterdir())
