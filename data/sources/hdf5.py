"""Videos in the uint8 datasets of an HDF5 file. No link out of the file is followed, no filter plugin loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokenreel.data.sources.base import VideoSource
from tokenreel.data.sources.location import Location
from tokenreel.data.sources.stacks import (
    LABELS,
    MAX_ARRAY_BYTES,
    ArrayOptions,
    StackSource,
    label_names,
    require_labels,
)
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError

# Built into HDF5, and h5py's own LZF; others would be loaded from plugin folders.
_FILTERS = frozenset((1, 2, 3, 4, 5, 6, 32000))
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py raises for damaged files
_DEPTH = 16  # of nested groups


class Hdf5Source(StackSource):
    """Videos in an HDF5 file: each uint8 dataset with three axes or more. Others, such as actions, are skipped."""

    def __init__(self, location: str, path: Path, options: ArrayOptions) -> None:
        self._path = path
        try:
            self._file = _open(path)
            datasets = dict(_datasets(path, self._file, set()))
            shapes = {name: d.shape for name, d in datasets.items() if d.dtype == np.uint8 and d.ndim >= 3}
            self._label_dataset = datasets.get(LABELS)
            super().__init__(location, shapes, options, datasets.keys() - shapes.keys() - {LABELS})
            for name in self._shapes:
                _require_plain(path, datasets[name])
        except DataError:
            raise
        except _DAMAGE as error:
            raise DataError(f"{path} is not a readable HDF5 file: {error}") from error

    def _array(self, name: str) -> Any:
        return _Sliced(self._file, name)

    def _labels(self, count: int) -> list[str] | None:
        dataset = self._label_dataset
        if dataset is None:
            return None
        require_labels(str(self._path), dataset.shape, dataset.dtype, count)
        try:
            _require_plain(self._path, dataset)
            return label_names(dataset[:])
        except DataError:
            raise
        except _DAMAGE as error:
            raise DataError(f"{self._path}: dataset {LABELS!r} cannot be read: {error}") from error


def open_hdf5(location: Location) -> VideoSource | None:
    """One .h5 or .hdf5 file."""
    file = location.file(".h5", ".hdf5")
    return None if file is None else Hdf5Source(location.text, file, ArrayOptions.of(location))


class _Sliced:
    """A dataset that raises DecodeFailure where it is damaged."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name

    def __getitem__(self, key: Any) -> np.ndarray:
        try:
            return np.asarray(self._file[self._name][key])
        except _DAMAGE as error:
            raise DecodeFailure("corrupt", f"dataset {self._name!r} cannot be read ({error})") from error


def _open(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path}: reading HDF5 requires h5py; pip install 'tokenreel[hdf5]'") from error
    return h5py.File(path, "r", locking=False)


def _datasets(path: Path, group: Any, seen: set[Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(path in the file, dataset) below `group`, in order of names. `seen`: the objects met so far.

    Raises DataError for soft and external links, and for an object under two names: links of links of a few groups
    make billions of paths, and a video with two names would be trained on and held out.
    """
    import h5py

    if depth > _DEPTH:  # a group may contain itself
        raise DataError(f"{path}: group {group.name} is nested deeper than {_DEPTH} groups; move its data up")
    for key in sorted(group):
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise DataError(f"{path}: {group.name}/{key} is a soft or external link; copy the data into the file")
        item = group[key]
        if item.id in seen:
            raise DataError(f"{path}: {group.name}/{key} is another name of an object met before; remove that link")
        seen.add(item.id)
        if isinstance(item, h5py.Group):
            yield from _datasets(path, item, seen, depth + 1)
        elif isinstance(item, h5py.Dataset):
            yield item.name.strip("/"), item


def _require_plain(path: Path, dataset: Any) -> None:
    """Raises DataError if the dataset's bytes are in other files, were never written, or use a filter not built in."""
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: dataset {dataset.name} keeps its data in other files; copy the data into the file")
    properties = dataset.id.get_create_plist()
    filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    if filters - _FILTERS:
        raise DataError(f"{path}: dataset {dataset.name} uses HDF5 filter {min(filters - _FILTERS)}; use gzip or lzf")
    missing = _missing_chunks(dataset)
    if missing:
        raise DataError(f"{path}: {missing} of dataset {dataset.name} were never written, so they would be black")
    if dataset.chunks is not None and math.prod(dataset.chunks) * dataset.dtype.itemsize > MAX_ARRAY_BYTES:
        raise DataError(
            f"{path}: dataset {dataset.name} has chunks {list(dataset.chunks)}, which are read as a whole; use "
            "chunks of one clip"
        )


def _missing_chunks(dataset: Any) -> str | None:
    """What of the dataset the file does not hold; HDF5 would return the fill value there, for any shape it claims."""
    if dataset.chunks is None:
        return "all values" if dataset.id.get_storage_size() < dataset.size * dataset.dtype.itemsize else None
    total = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    stored = dataset.id.get_num_chunks()
    return f"{total - stored} of {total} chunks" if stored < total else None
