"""Do other readers of Zarr v3 read a sealed cache? Each compares all of its arrays with those of TokenCache.

    pip install tensorstore dask xarray
    python -m tokenreel.benchmarks.zarr_readers

Prints "read" for each reader, or "not installed".
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tokenreel.data.cache.layout import COLUMNS
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec

ROWS = 1_009
STREAMS = (StreamSpec("top", (3, 2, 5), 17), StreamSpec("video", (3, 5, 7), 70_001, codebooks=2))

Arrays = Mapping[str, np.ndarray]  # by path below the root


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.filterwarnings("ignore", "Object at .* is not recognized")  # zarr, of plan.json and others
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache"
        expected = write_cache(path)
        results = {name: check(reader, path, expected) for name, reader in READERS.items()}
    print(json.dumps(results, indent=2))  # noqa: T201


def write_cache(path: Path) -> Arrays:
    """Writes a sealed cache of several shards; returns its arrays."""
    random = np.random.default_rng(0)
    tokens = {s.name: random.integers(0, s.codebook_size, (ROWS, *s.shape)) for s in STREAMS}
    sources = [{"id": str(row), "label": row % 3, "split": "train"} for row in range(ROWS)]
    write_token_file(path, TokenSpec(STREAMS, 3, Framing(11, 13)), tokens, "benchmark", sources)
    cache = TokenCache.open(path)
    columns = {name: cache.column(name) for name in COLUMNS}
    return {**columns, **{f"streams/{name}": codes for name, codes in cache.read(np.arange(ROWS)).items()}}


def check(reader: Callable[[Path, Arrays], Arrays], path: Path, expected: Arrays) -> str:
    """Whether `reader` finds all arrays and reads them as they are. Raises AssertionError if it reads anything else."""
    if find_spec(reader.__name__.removeprefix("by_")) is None:
        return "not installed"
    found = reader(path, expected)
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    return "read"


def by_zarr(path: Path, expected: Arrays) -> Arrays:
    import zarr

    members = zarr.open_group(path, mode="r").members(max_depth=None)
    return {name: np.asarray(node[:]) for name, node in members if isinstance(node, zarr.Array)}


def by_tensorstore(path: Path, expected: Arrays) -> Arrays:
    import tensorstore

    def read(name: str) -> np.ndarray:
        store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path / name}/"}}
        return np.asarray(tensorstore.open(store, read=True).result().read().result())

    return {name: read(name) for name in expected}


def by_dask(path: Path, expected: Arrays) -> Arrays:
    import dask.array

    return {name: dask.array.from_zarr(str(path / name)).compute() for name in expected}


def by_xarray(path: Path, expected: Arrays) -> Arrays:
    import xarray

    tree = xarray.open_datatree(path, engine="zarr", consolidated=False)
    return {
        "/".join([*([] if node.path == "/" else [node.path[1:]]), str(name)]): array.values
        for node in tree.subtree
        for name, array in node.data_vars.items()
    }


READERS = {"zarr-python": by_zarr, "tensorstore": by_tensorstore, "dask": by_dask, "xarray": by_xarray}

if __name__ == "__main__":
    main()
