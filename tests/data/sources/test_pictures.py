"""Pictures as viewers show them: turned by EXIF, 16 bits, palettes; and animations, each a video with its own times."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from tokenreel.data.sources.open import open_source
from tokenreel.data.sources.pictures import read_picture
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError

H, W = 7, 11
SIDES = {  # where the 0th row and the 0th column of what is stored are shown (Exif 2.3, tag 274)
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def stored_as(shown: np.ndarray, orientation: int) -> np.ndarray:
    """The picture that is shown as `shown` under an EXIF orientation, pixel by pixel."""
    place = {"top": lambda i: i, "bottom": lambda i: H - 1 - i, "left": lambda i: i, "right": lambda i: W - 1 - i}
    row_side, column_side = SIDES[orientation]
    upright = row_side in ("top", "bottom")
    stored = np.empty((H, W, 3) if upright else (W, H, 3), np.uint8)
    for row, column in np.ndindex(*stored.shape[:2]):
        first, second = place[row_side](row), place[column_side](column)
        stored[row, column] = shown[first, second] if upright else shown[second, first]
    return stored


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.parametrize("orientation", SIDES)
def test_pictures_are_turned_by_their_exif(tmp_path: Path, orientation: int, suffix: str) -> None:
    shown = np.repeat(np.repeat(noise(H, W, 1), 3, axis=2), 1, axis=0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0}
    (tmp_path / "clip").mkdir()
    Image.fromarray(stored_as(shown, orientation)).save(tmp_path / "clip" / f"a.{suffix}", exif=exif, **options)
    source = open_source(str(tmp_path / "clip"))
    assert (source.probe(0).height, source.probe(0).width) == (H, W)
    found = source.read(0, np.array([0]), Framing(H, W))[0]
    assert np.abs(found.astype(int) - shown).max() <= (4 if suffix == "jpg" else 0)


@pytest.mark.parametrize(
    "exif", [b"", b"no exif", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_an_exif_block_that_cannot_be_read_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    shown = noise(H, W, 3)
    Image.fromarray(shown).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png"), shown)


def as_ffmpeg_shows(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "LA", "P", "PA", "RGB", "RGBA"])
def test_pictures_of_every_depth_are_shown_in_8_bits(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 65535, 67 * 71).astype(np.uint16).reshape(67, 71)).save(path)
    elif mode in ("P", "PA"):
        picture = Image.fromarray(noise(67, 71, 3)).quantize(13)
        picture.save(path, **({"transparency": bytes(range(13))} if mode == "PA" else {}))
    else:
        channels = {"L": (), "1": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
        picture = Image.fromarray(noise(67, 71, *channels))
        (picture.convert("1") if mode == "1" else picture).save(path)
    assert np.abs(read_picture(path).astype(int) - as_ffmpeg_shows(path)).max() <= 1


def test_colours_of_16_bits_are_shown_in_8(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (67, 71, 3), dtype=np.uint16)
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as file:
        stream = file.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 67, 71, "rgb48be"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb48be")))
        file.mux(stream.encode(None))
    assert np.array_equal(read_picture(tmp_path / "a.png"), pixels >> 8)


def animate(path: Path, frames: np.ndarray, seconds: list[float], default_image: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = map(Image.fromarray, frames)
    options = {"lossless": True} if path.suffix == ".webp" else {"default_image": default_image}
    first.save(path, save_all=True, append_images=others, duration=[round(1000 * s) for s in seconds], **options)


SECONDS = [0.1, 0.2, 0.05, 0.0, 0.3]  # none is shown for 0.1, as by browsers
TIMES = [0.0, 0.1, 0.3, 0.35, 0.45]


@pytest.mark.parametrize("suffix", ["webp", "png", "apng"])
def test_an_animation_is_a_video_with_times(tmp_path: Path, suffix: str) -> None:
    videos = {name: noise(5, H, W + i, 3) for i, name in enumerate((f"clip.{suffix}", f"clip2.{suffix}"))}
    for name, frames in videos.items():
        frames[2, :3] = frames[1, :3]  # so that only a part of the canvas is stored
        animate(tmp_path / "run" / name, frames, SECONDS)
    source = open_source(str(tmp_path))
    assert [(entry.id, entry.label) for entry in source.entries] == [(f"run/{name}", "run") for name in videos]
    for index, frames in enumerate(videos.values()):
        assert np.allclose(source.probe(index).frame_times, TIMES)
        for numbers in ([0, 3, 4], [1], [0, 2]):
            read = source.read(index, np.array(numbers), Framing(*frames.shape[1:3]))
            assert np.array_equal(read, frames[numbers])
    (entry,) = open_source(str(tmp_path / "run" / f"clip.{suffix}")).entries
    assert entry.id == f"clip.{suffix}"
    for location in (tmp_path, tmp_path / "run" / f"clip.{suffix}"):
        with pytest.raises(DataError, match="videos of this kind have no options"):
            open_source(f"{location}?fps=5")


def test_the_picture_for_viewers_without_animation_is_not_shown(tmp_path: Path) -> None:
    frames = noise(3, H, W, 3)
    animate(tmp_path / "a.png", frames, [0.1, 0.1], default_image=True)
    source = open_source(str(tmp_path))
    assert np.allclose(source.probe(0).frame_times, [0.0, 0.1])
    assert np.array_equal(source.read(0, np.arange(2), Framing(H, W)), frames[1:])


def test_an_animation_among_single_pictures_is_a_failure(tmp_path: Path) -> None:
    frames = noise(3, H, W, 3)
    Image.fromarray(frames[0]).save(tmp_path / "0.webp", lossless=True)
    animate(tmp_path / "1.webp", frames, [0.1] * 3)
    source = open_source(str(tmp_path))
    assert np.array_equal(source.read(0, np.array([0]), Framing(H, W)), frames[:1])
    with pytest.raises(DecodeFailure, match=r"unreadable: 1\.webp is an animation among single pictures"):
        source.read(0, np.array([1]), Framing(H, W))


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_a_damaged_animation_is_a_failure(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    animate(path, noise(5, 67, 71, 3), SECONDS)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 12, 997):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError):
            open_source(str(path)).probe(0)
