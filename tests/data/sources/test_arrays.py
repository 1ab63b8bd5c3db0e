"""npy, npz, HDF5 and BAIR's TFRecords: content is read, nothing is executed, and no other file is opened."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from bair_records import record

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.numpy_files import read_foreign_tokens
from tokenreel.data.sources.open import open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError

N, T, H, W = 3, 5, 7, 11
AS_IS = Framing(H, W)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def read_all(source: VideoSource) -> np.ndarray:
    return np.stack([source.read(i, np.arange(T), AS_IS) for i in range(len(source.entries))])


class Bomb:
    """An object whose unpickling has a side effect."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


LAYOUTS = [  # axes, and whether the shape alone says so
    ("NTHWC", True), ("NTCHW", True), ("NCTHW", True), ("TNHWC", False), ("CWHTN", False),
    ("THWC", True), ("TCHW", True), ("CTHW", False), ("NTHW", False), ("TNHW", False), ("WHNT", False),
    ("THW", True), ("HWT", False),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("axes", "certain"), LAYOUTS)
def test_arrays_of_every_layout_are_read(tmp_path: Path, kind: str, channels: int, axes: str, certain: bool) -> None:
    ordered = noise(N, T, H, W, channels)  # NTHWC, of which each axis that `axes` lacks is cut to its first element
    cut = ordered[tuple(slice(None) if axis in axes else 0 for axis in "NTHWC")]
    pixels = cut.transpose(["".join(a for a in "NTHWC" if a in axes).index(axis) for axis in axes])
    path = tmp_path / f"data.{kind}"
    if kind == "npy":
        np.save(path, pixels)
    elif kind == "npz":
        np.savez_compressed(path, data=pixels, actions=np.ones((N, 2)))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=pixels, chunks=True, compression="gzip")
            file["actions"] = np.ones((N, 2))
    certain = certain and not (axes == "TCHW" and channels == 4)  # or four grey frames of T videos
    source = open_source(str(path) if certain else f"{path}?axes={axes}")
    kept = ordered[slice(None) if "N" in axes else slice(1), ..., slice(None) if "C" in axes else slice(1)]
    expected = np.broadcast_to(kept[..., :3], (len(kept), T, H, W, 3))
    assert np.array_equal(read_all(source), expected)
    assert [entry.id for entry in source.entries] == (
        [f"data/{i}" for i in range(N)] if len(expected) > 1 else ["data"]
    )
    indices = np.array([1, 3, 3])
    assert np.array_equal(source.read(0, indices, AS_IS), expected[0, indices])
    assert source.probe(0).frames == T
    with pytest.raises(DecodeFailure, match="too-short"):
        source.read(0, np.array([T]), AS_IS)


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_labels_next_to_a_stack_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data.{kind}"
    if kind == "npz":
        np.savez(path, data=noise(N, T, H, W, 3), labels=np.array(["b", "a", "b"]))
    else:
        with h5py.File(path, "w") as file:
            file["group/data"], file["labels"] = noise(N, T, H, W, 3), ["b", "a", "b"]
    source = open_source(str(path))
    assert [entry.label for entry in source.entries] == ["b", "a", "b"]
    assert source.classes == ("a", "b")


@pytest.mark.parametrize("kind", ["npz", "h5"])
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([2, 10, 2]), ["2", "10", "2"]),
        (np.array(["größe".encode(), b"a", b"b"]), ["größe", "a", "b"]),
        (np.array([b"gr\xf6\xdfe", b"a", b"b"]), "cannot be read"),
        (np.array([2.0, 10.0, 2.0]), "must be a list of integers or names, got float64"),
        (np.array([2, 10]), r"'labels' has the shape \[2\], but there are 3 videos"),
    ],
)
def test_labels_are_names(tmp_path: Path, kind: str, labels: np.ndarray, expected: list[str] | str) -> None:
    path = tmp_path / f"data.{kind}"
    if kind == "npz":
        np.savez(path, data=noise(N, T, H, W, 3), labels=labels)
    else:
        with h5py.File(path, "w") as file:
            file["data"], file["labels"] = noise(N, T, H, W, 3), labels
    if isinstance(expected, list):
        assert [entry.label for entry in open_source(str(path)).entries] == expected
        return
    with pytest.raises(DataError, match=expected):
        open_source(str(path))


def test_ids_sort_like_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", noise(12, 1, H, W, 3))
    source = open_source(str(tmp_path / "data.npy"))
    assert [entry.id for entry in source.entries] == [f"data/{i:02}" for i in range(12)]


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    objects = np.array([Bomb(touched)], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", data=noise(N, T, H, W, 3), labels=objects)
    np.savez(tmp_path / "p.npz", data=objects)
    for name in ("o.npy", "o.npz", "p.npz"):
        with pytest.raises(DataError, match="Python objects"):
            open_source(str(tmp_path / name))
    with pytest.raises(DataError, match="Python objects"):
        read_foreign_tokens(tmp_path / "o.npy")
    assert not touched.exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.tfrecords", "a.tar"])
@pytest.mark.parametrize("content", [b"", b"no array at all" * 50])
def test_files_of_another_format_than_their_suffix_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    ("shape", "readings"),
    [
        ((20, 100, 64, 64), "NTHW or TNHW"),  # Moving MNIST is TNHW
        ((100, 4, 64, 64), "TCHW or NTHW or TNHW"),
        ((7, 3, 3, 61, 61), "NTCHW or NCTHW"),
        ((64, 64, 3), "THW or HWC, which is not a video"),
        ((64, 64, 4), "THW or HWC, which is not a video"),
    ],
)
def test_axes_that_a_shape_leaves_open_are_asked_for(tmp_path: Path, shape: tuple[int, ...], readings: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=rf"may be {readings}: state which, such as \?axes={readings[:3]}"):
        open_source(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("axes", ["NHWC", "NTTHW", "THWX", "", "NTHWCC"])
def test_axes_must_name_each_axis_once(tmp_path: Path, axes: str) -> None:
    np.save(tmp_path / "a.npy", noise(N, T, H, W))
    with pytest.raises(DataError, match=rf"axes \(={axes}\) must name each axis"):
        open_source(f"{tmp_path}/a.npy?axes={axes}")


def test_axes_that_do_not_fit_the_array_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(N, T, H, W, 3))
    with pytest.raises(DataError, match=rf"axes \(=TNHW\) names 4 axes; arrays here: \[{N}, {T}, {H}, {W}, 3\]"):
        open_source(f"{tmp_path}/a.npy?axes=TNHW")
    with pytest.raises(DataError, match=f"C of axes=NTCHW would be {H}; expected 1, 3 or 4"):
        open_source(f"{tmp_path}/a.npy?axes=ntchw")


def write_demonstrations(path: Path) -> np.ndarray:
    """Two demonstrations as robomimic stores them: `next_obs` holds the frames of `obs`, one step later."""
    frames = noise(2, T + 1, H, W, 3)
    with h5py.File(path, "w") as file:
        for number, demo in enumerate(frames):
            for name, view in (("obs", demo[:-1]), ("next_obs", demo[1:])):
                file[f"data/demo_{number}/{name}/front_image"] = view
                file[f"data/demo_{number}/{name}/wrist_image"] = 255 - view
    return frames


def test_frames_that_a_file_holds_twice_are_not_divided(tmp_path: Path) -> None:
    frames = write_demonstrations(tmp_path / "a.h5")
    with pytest.raises(DataError, match=r"hold the same frames.*such as \?keys=\*/obs/\*"):
        open_source(str(tmp_path / "a.h5"))
    source = open_source(f"{tmp_path}/a.h5?keys=*/obs/front_image&fps=20")
    assert [entry.id for entry in source.entries] == [f"data/demo_{i}/obs/front_image" for i in range(2)]
    assert np.array_equal(read_all(source), frames[:, :-1])
    cameras = open_source(f"{tmp_path}/a.h5?keys=*/obs/*").entries
    assert [entry.group for entry in cameras] == [f"data/demo_{i}" for i in (0, 0, 1, 1)]
    assert len(open_source(f"{tmp_path}/a.h5?keys=*_0/obs/front*,*_1/next_obs/wrist*").entries) == 2
    for keys, message in [("*/obs/side_image", r"keys \(=\*/obs/side_image\) matches no"), ("", "keys is empty")]:
        with pytest.raises(DataError, match=message):
            open_source(f"{tmp_path}/a.h5?keys={keys}")


def test_arrays_named_as_the_next_of_others_are_not_divided_either(tmp_path: Path) -> None:
    frames = noise(T + 1, H, W, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["rgb"], file["rgb_next"] = frames[:-1], frames[1:]
    with pytest.raises(DataError, match=r"arrays 'rgb' and 'rgb_next' hold the same frames.*such as \?keys=rgb$"):
        open_source(str(tmp_path / "a.h5"))
    assert [entry.id for entry in open_source(f"{tmp_path}/a.h5?keys=rgb").entries] == ["rgb"]


def test_an_array_without_videos_or_of_another_type_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "float.npy", np.ones((N, T, H, W, 3), np.float32))
    np.save(tmp_path / "channels_second.npy", noise(N, T, 2, H, W))
    np.savez(tmp_path / "states.npz", states=np.ones((N, T, 2)))
    for name, message in [("float.npy", "must be uint8"), ("channels_second.npy", "shape"), ("states.npz", "no uint8")]:
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path / name))


def test_an_array_without_pixels_is_a_failure(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", none=noise(0, H, W, 3), flat=noise(T, 0, W, 3))
    source = open_source(str(tmp_path / "a.npz"))
    for index, size in enumerate([f"{T} frames of {W}x0", f"0 frames of {W}x{H}"]):
        with pytest.raises(DecodeFailure, match=f"no pixels: {size}"):
            source.probe(index)
        with pytest.raises(DecodeFailure, match="no pixels"):
            source.read(index, np.array([0]), AS_IS)


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"data": noise(N, T, H, W, 3), "data/1": noise(T, H, W, 3)})
    with pytest.raises(DataError, match="two arrays contain a video named 'data/1'"):
        open_source(str(tmp_path / "a.npz"))


def test_ids_of_an_npz_cannot_leave_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"../../data": noise(T, H, W, 3)})
    with pytest.raises(DataError, match=r"'\.\./\.\./data' must be a relative path without"):
        open_source(str(tmp_path / "a.npz"))


def test_a_damaged_npz_array_fails_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, data=noise(N, T, 67, 71, 3))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DecodeFailure, match="corrupt"):
        open_source(str(path)).read(0, np.arange(T), AS_IS)


@pytest.mark.parametrize("link", ["external", "soft", "raw", "virtual", "cycle"])
def test_links_of_hdf5_to_other_files_are_refused(tmp_path: Path, link: str) -> None:
    """A downloaded file could otherwise read any file that the user may read."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["data"] = noise(N, T, H, W, 3)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        if link == "external":
            file["data"] = h5py.ExternalLink("secret.h5", "/data")
        elif link == "soft":
            file["real"], file["data"] = noise(N, T, H, W, 3), h5py.SoftLink("/real")
        elif link == "raw":
            file.create_dataset("data", (T, H, W), "u1", external=[(str(secret), 0, T * H * W)])
        elif link == "virtual":
            layout = h5py.VirtualLayout((T, H, W), "u1")
            layout[:] = h5py.VirtualSource(str(secret), "data", (N, T, H, W, 3))[0, ..., 0]
            file.create_virtual_dataset("data", layout)
        else:
            file.create_group("a")["again"] = file["/"]
    with pytest.raises(DataError, match=r"a\.h5"):
        open_source(str(path))


def test_a_damaged_hdf5_chunk_fails_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", data=noise(N, T, H, W, 3), chunks=(1, T, H, W, 3), fletcher32=True)
        offset = data.id.get_chunk_info(1).byte_offset
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)
    source = open_source(str(path))
    assert np.array_equal(source.read(0, np.arange(T), AS_IS), noise(N, T, H, W, 3)[0])
    with pytest.raises(DecodeFailure, match="corrupt"):
        source.read(1, np.arange(T), AS_IS)


def test_bair_records_are_read(tmp_path: Path) -> None:
    videos = noise(4, T, 64, 64, 3)
    for name, records in (("train/traj_0_to_2.tfrecords", videos[:3]), ("test/traj_0_to_0.tfrecords", videos[3:])):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"".join(map(record, records)))
    source = open_source(str(tmp_path))
    assert [(entry.id, entry.split) for entry in source.entries] == [
        ("test/traj_0_to_0/0000", "test"),
        *((f"train/traj_0_to_2/{i:04d}", "train") for i in range(3)),
    ]
    assert source.probe(1).frames == T
    for index, video in enumerate(videos[[3, 0, 1, 2]]):
        assert np.array_equal(source.read(index, np.arange(T), Framing(64, 64)), video)


def test_bair_records_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecords"
    data = bytearray(record(noise(T, 64, 64, 3)))
    path.write_bytes(data[:-5])
    with pytest.raises(DataError, match="incomplete or damaged TFRecord at byte 0"):
        open_source(str(path))
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DecodeFailure, match=r"corrupt.*checksum"):
        open_source(str(path)).probe(0)


def test_imported_tokens_are_checked(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 1000, (N, 2, 5, 7), dtype=np.int32)
    np.save(tmp_path / "codes.npy", codes)
    assert np.array_equal(read_foreign_tokens(tmp_path / "codes.npy"), codes[..., None])
    np.save(tmp_path / "codes.npy", codes[..., None])
    assert np.array_equal(read_foreign_tokens(tmp_path / "codes.npy"), codes[..., None])
    for wrong, message in [(codes - 1000, "start at 0"), (codes.astype(float), "integers"), (codes[0, 0], "expected")]:
        np.save(tmp_path / "codes.npy", wrong)
        with pytest.raises(DataError, match=message):
            read_foreign_tokens(tmp_path / "codes.npy")
