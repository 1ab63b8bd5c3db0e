from __future__ import annotations

import json
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from tokenreel.data.cache.layout import ArrayLayout
from tokenreel.data.cache.shard import ShardedArray, ShardMaps, encode_shard
from tokenreel.errors import CacheError

ROWS = 29


def write_array(root: Path, dtype: str, chunk_rows: int, shard_rows: int = 8) -> tuple[ArrayLayout, np.ndarray]:
    layout = ArrayLayout("streams/video", np.dtype(dtype), ROWS, (3, 5, 7, 2), shard_rows, chunk_rows)
    values = np.random.default_rng(0).integers(0, 251, (ROWS, *layout.row_shape)).astype(dtype)
    for shard in range(layout.shards):
        path = root / layout.key(shard)
        path.parent.mkdir(parents=True)
        part = layout.rows_of(shard)
        path.write_bytes(encode_shard(layout, shard, values[part.start : part.stop]))
    (root / layout.name / "zarr.json").write_text(json.dumps(layout.zarr_json()))
    return layout, values


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("chunk_rows", [1, 4, 8])
def test_zarr_reads_what_is_encoded_and_writes_the_same_bytes(tmp_path: Path, dtype: str, chunk_rows: int) -> None:
    layout, values = write_array(tmp_path / "ours", dtype, chunk_rows)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "ours" / layout.name, mode="r")[:], values)
    sharding = ShardingCodec(chunk_shape=(chunk_rows, *layout.row_shape), codecs=[BytesCodec(), Crc32cCodec()])
    theirs = zarr.create_array(
        tmp_path / "theirs" / layout.name,
        shape=values.shape,
        dtype=dtype,
        chunks=(layout.shard_rows, *layout.row_shape),
        serializer=sharding,
        compressors=None,
        fill_value=layout.fill_value,
        config={"write_empty_chunks": True},
    )
    theirs[:] = values
    for shard in range(layout.shards):
        assert (tmp_path / "theirs" / layout.key(shard)).read_bytes() == (
            tmp_path / "ours" / layout.key(shard)
        ).read_bytes()


@pytest.mark.parametrize("chunk_rows", [1, 4])
def test_rows_are_read_in_any_order_and_number(tmp_path: Path, chunk_rows: int) -> None:
    layout, values = write_array(tmp_path, "uint16", chunk_rows)
    array = ShardedArray(ShardMaps(tmp_path, [layout], {}), layout)
    for rows in ([11], [3, 3, 1], list(range(ROWS)), [28, 0, 13, 13, 7, 21], []):
        np.testing.assert_array_equal(array.read(rows), values[rows])


def test_every_flipped_byte_is_an_error_that_names_file_and_rows(tmp_path: Path) -> None:
    """In data, stored checksums and index; also in a batch whose other chunks are intact."""
    layout, values = write_array(tmp_path, "uint8", 2)
    path = tmp_path / layout.key(1)
    intact = path.read_bytes()
    for offset in [
        *range(0, len(intact), 37),
        *range(len(intact) - len(layout.index(1)), len(intact), 5),
        len(intact) - 1,
    ]:
        path.write_bytes(intact[:offset] + bytes([intact[offset] ^ 0x10]) + intact[offset + 1 :])
        with pytest.raises(CacheError, match=r"video/c/1/0/0/0/0 \(rows 8 to 15\)"):
            ShardedArray(ShardMaps(tmp_path, [layout], {}), layout).read(range(ROWS))
    path.write_bytes(intact)
    np.testing.assert_array_equal(ShardedArray(ShardMaps(tmp_path, [layout], {}), layout).read(range(ROWS)), values)


def test_a_damaged_row_is_named_and_its_neighbours_are_read(tmp_path: Path) -> None:
    layout, values = write_array(tmp_path, "uint16", 1)
    path = tmp_path / layout.key(2)
    data = bytearray(path.read_bytes())
    data[3 * layout.chunk_bytes + 1] ^= 1
    path.write_bytes(data)
    array = ShardedArray(ShardMaps(tmp_path, [layout], {}), layout)
    np.testing.assert_array_equal(array.read([18, 20]), values[[18, 20]])
    with pytest.raises(CacheError, match="rows 19 to 19 do not match"):
        array.read([18, 19, 20])


@pytest.mark.parametrize("left", [0, 1, 400, -1])
def test_a_truncated_shard_is_an_error_and_not_fill_values(tmp_path: Path, left: int) -> None:
    layout, _ = write_array(tmp_path, "uint16", 2)
    path = tmp_path / layout.key(0)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CacheError, match=r"c/0/0/0/0/0 \(rows 0 to 7\): has \d+ bytes instead of \d+"):
        ShardedArray(ShardMaps(tmp_path, [layout], {}), layout).read([5])


def test_a_missing_shard_is_an_error_and_not_fill_values(tmp_path: Path) -> None:
    layout, values = write_array(tmp_path, "uint16", 2)
    (tmp_path / layout.key(3)).unlink()
    array = ShardedArray(ShardMaps(tmp_path, [layout], {}), layout)
    np.testing.assert_array_equal(array.read([5]), values[[5]])
    with pytest.raises(CacheError, match=r"rows 24 to 28\): is missing"):
        array.read([5, 24])


def test_swapped_chunks_pass_their_checksums(tmp_path: Path) -> None:
    """Two intact chunks that are swapped pass every checksum; hence the hashes of the manifest."""
    layout, values = write_array(tmp_path, "uint16", 1)
    path, size = tmp_path / layout.key(0), layout.chunk_bytes
    data = path.read_bytes()
    path.write_bytes(data[size : 2 * size] + data[:size] + data[2 * size :])
    np.testing.assert_array_equal(ShardedArray(ShardMaps(tmp_path, [layout], {}), layout).read([0]), values[[1]])


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    layout = ArrayLayout("x", np.dtype("uint8"), ROWS, (3,), 8, 1)
    with pytest.raises(CacheError, match="do not fit uint8"):
        encode_shard(layout, 0, np.full((8, 3), 256))
    with pytest.raises(CacheError, match=r"must be \(8, 3\)"):
        encode_shard(layout, 0, np.zeros((7, 3), np.uint8))


def test_the_checksum_is_crc32c() -> None:
    """The published check value (RFC 3720, appendix B.4: 32 bytes of zeros)."""
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA
