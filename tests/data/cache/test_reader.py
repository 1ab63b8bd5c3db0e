from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 - our own bytes, as a data loader sends them
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.token_file import write_foreign_tokens, write_token_file
from tokenreel.data.cache.verify import Damage, find_damage
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import CacheError, ConfigError, UserError

ROWS, K = 37, 509
SPEC = TokenSpec(
    (StreamSpec("top", (3, 2, 5), codebook_size=17), StreamSpec("video", (3, 5, 7), codebook_size=K, codebooks=2)),
    frames=3,
    framing=Framing(11, 13),
)


def make_tokens(rows: int = ROWS) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {stream.name: random.integers(0, stream.codebook_size, (rows, *stream.shape)) for stream in SPEC.streams}


def sources(rows: int = ROWS) -> list[dict[str, object]]:
    splits = ["train", "validation"]
    return [{"id": f"s{i}", "seed": i, "split": splits[i % 5 == 0], "label": i % 3} for i in range(rows)]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "tokens"
    write_token_file(path, SPEC, make_tokens(), "fingerprint", sources(), plan={"classes": ["a", "b", "c"]})
    return path


@pytest.fixture
def cache_copy(sealed: Path, tmp_path: Path) -> Path:
    shutil.copytree(sealed, tmp_path / "tokens")
    return tmp_path / "tokens"


def damage_of(path: Path) -> list[Damage]:
    cache = TokenCache.open(path)
    return find_damage(path, cache.header, cache.shards)


def test_tokens_are_read_as_written(sealed: Path) -> None:
    cache, tokens = TokenCache.open(sealed), make_tokens()
    assert (cache.spec, cache.code_fingerprint, cache.classes) == (SPEC, "fingerprint", ("a", "b", "c"))
    rows = np.random.default_rng(1).permutation(ROWS)
    for name, codes in cache.read(rows).items():
        np.testing.assert_array_equal(codes, tokens[name][rows])
    assert list(cache.read(rows, streams=["top"])) == ["top"]
    np.testing.assert_array_equal(cache.labels(rows), rows % 3)
    assert cache.source_ids(np.array([36, 2])) == ["s36", "s2"]
    np.testing.assert_array_equal(cache.rows("validation"), np.arange(0, ROWS, 5))
    np.testing.assert_array_equal(np.sort([*cache.rows("train"), *cache.rows("validation")]), cache.rows())


def test_zarr_opens_the_cache_and_agrees_row_by_row(sealed: Path) -> None:
    cache, group = TokenCache.open(sealed), zarr.open_group(sealed, mode="r")
    for row in range(ROWS):
        for name, codes in cache.read(np.array([row])).items():
            np.testing.assert_array_equal(group[f"streams/{name}"][row], codes[0])
    for name in ("valid", "label", "source", "first_frame"):
        np.testing.assert_array_equal(group[name][:], cache.column(name))
    assert group.attrs["tokenreel"]["cache_id"] == cache.cache_id


def test_the_identity_depends_on_bytes_and_header_only(sealed: Path, tmp_path: Path) -> None:
    def written(name: str, tokens: dict[str, np.ndarray], fingerprint: str = "fingerprint") -> str:
        return write_token_file(
            tmp_path / name, SPEC, tokens, fingerprint, sources(), plan={"classes": ["a", "b", "c"]}
        )

    identity = TokenCache.open(sealed).cache_id
    changed = make_tokens()
    changed["top"][ROWS - 1, 2, 1, 4, 0] ^= 1
    assert written("same", make_tokens()) == identity
    assert len({identity, written("code", changed), written("tokenizer", make_tokens(), "other")}) == 3


def test_writing_again_changes_nothing_and_other_tokens_are_refused(cache_copy: Path) -> None:
    before = {path: path.read_bytes() for path in cache_copy.rglob("*") if path.is_file()}
    write_token_file(cache_copy, SPEC, make_tokens(), "fingerprint", sources(), plan={"classes": ["a", "b", "c"]})
    assert {path: path.read_bytes() for path in cache_copy.rglob("*") if path.is_file()} == before
    with pytest.raises(CacheError, match="holds another token cache: its code_fingerprint is"):
        write_token_file(cache_copy, SPEC, make_tokens(), "x", sources(), plan={"classes": ["a", "b", "c"]})


def test_every_byte_of_an_array_is_verified(cache_copy: Path) -> None:
    """If a byte is flipped anywhere in an array, reading and verifying name the file and rows."""
    files = [path for path in sorted(cache_copy.rglob("*")) if path.is_file() and "/c/" in str(path)]
    assert len(files) == 2 * 6
    for path in files:
        intact = path.read_bytes()
        for place in (0, len(intact) // 3, len(intact) - 17, len(intact) - 1):
            path.write_bytes(intact[:place] + bytes([intact[place] ^ 4]) + intact[place + 1 :])
            cache = TokenCache.open(cache_copy)
            assert str(path.relative_to(cache_copy)) in {damage.file for damage in damage_of(cache_copy)}
            with pytest.raises(CacheError, match=rf"{path} \(rows (0 to 31|32 to 36)\)"):
                cache.read(np.arange(ROWS)), cache.rows()
        path.write_bytes(intact)
    assert damage_of(cache_copy) == []


@pytest.mark.parametrize("harm", ["delete", "truncate", "empty", "extend"])
def test_an_incomplete_shard_is_refused_at_once(cache_copy: Path, harm: str) -> None:
    path = cache_copy / "streams/video/c/1/0/0/0/0"
    data = path.read_bytes()
    changed = {"truncate": data[: len(data) // 2], "empty": b"", "extend": data + b"\0"}
    path.unlink() if harm == "delete" else path.write_bytes(changed[harm])
    with pytest.raises(CacheError, match=rf"{path} \(rows 32 to 36\): (is missing|has \d+ bytes)"):
        TokenCache.open(cache_copy)


@pytest.mark.parametrize("name", ["zarr.json", "manifest.json", "plan.json", "sources.jsonl", "streams/top/zarr.json"])
@pytest.mark.parametrize("harm", ["delete", "truncate", "flip"])
def test_a_damaged_document_is_refused_by_name(cache_copy: Path, name: str, harm: str) -> None:
    path = cache_copy / name
    data = path.read_bytes()
    place = max(data.rindex(quote) for quote in (b'"', b"1") if quote in data) - 1
    flipped = data[:place] + bytes([data[place] ^ 2]) + data[place + 1 :]
    path.unlink() if harm == "delete" else path.write_bytes({"truncate": data[: len(data) // 2], "flip": flipped}[harm])
    with pytest.raises(CacheError, match=path.name):
        TokenCache.open(cache_copy)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("zarr_format",), 2),
        (("shape", 0), 1 << 40),
        (("data_type",), "object"),
        (("fill_value",), 0),
        (("codecs", 0, "configuration", "codecs"), [{"name": "numcodecs.pickle"}]),
        (("storage_transformers",), [{"name": "x"}]),
    ],
)
def test_metadata_of_another_layout_are_refused(cache_copy: Path, place: tuple, value: object) -> None:  # type: ignore[type-arg]
    """Bombs, other codecs and pickles: only the layout's own metadata are accepted."""
    path = cache_copy / "streams/video/zarr.json"
    document = json.loads(path.read_text())
    target = document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(CacheError, match="does not match the header of the cache"):
        TokenCache.open(cache_copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", "zip"), ("version", 99), ("rows", 1 << 60), ("kind", "pickles"), ("row_frames", 0), ("extra", 1)],
)
def test_headers_with_other_content_are_refused(cache_copy: Path, key: str, value: object) -> None:
    path = cache_copy / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["tokenreel"]["header"][key] = value
    path.write_text(json.dumps(document))
    with pytest.raises(CacheError):
        TokenCache.open(cache_copy)


def test_stream_names_cannot_leave_the_cache(tmp_path: Path) -> None:
    spec = TokenSpec((StreamSpec("../up", (3, 2, 2), 5),), 3, Framing(4, 4))
    with pytest.raises(UserError, match="must consist of letters"):
        write_token_file(tmp_path / "x", spec, {"../up": np.zeros((2, 3, 2, 2, 1), int)}, "f", sources(2))


def test_a_stream_cannot_have_the_name_of_a_column(tmp_path: Path) -> None:
    spec = TokenSpec((StreamSpec("label", (3, 2, 2), 5),), 3, Framing(4, 4))
    with pytest.raises(ConfigError, match="stream 'label': a cache has a column of that name"):
        write_token_file(tmp_path / "x", spec, {"label": np.zeros((2, 3, 2, 2, 1), int)}, "f", sources(2))


def test_rows_out_of_range_and_unknown_names_are_refused(sealed: Path) -> None:
    cache = TokenCache.open(sealed)
    for rows in ([-1], [ROWS]):
        with pytest.raises(CacheError, match=f"must be from 0 to {ROWS - 1}"):
            cache.read(np.array(rows))
    with pytest.raises(CacheError, match="did you mean 'video'"):
        cache.read(np.array([0]), streams=["vdieo"])
    with pytest.raises(CacheError, match="did you mean 'train'"):
        cache.rows("trian")


def test_tokens_beyond_the_codebook_are_never_written(tmp_path: Path) -> None:
    tokens = make_tokens()
    tokens["video"][5, 0, 0, 0, 0] = K
    with pytest.raises(CacheError, match="tokens from 0 to 509, expected 0 to 508"):
        write_token_file(tmp_path / "x", SPEC, tokens, "f", sources())


def test_longer_samples_keep_their_length(tmp_path: Path) -> None:
    """A sliding window generates samples longer than the clips that the tokenizer was trained on."""
    codes = np.random.default_rng(2).integers(0, K, (5, 19, 5, 7, 2))
    write_token_file(tmp_path / "x", SPEC, {"video": codes}, "f", sources(5))
    cache = TokenCache.open(tmp_path / "x")
    assert cache.spec.frames == 19
    np.testing.assert_array_equal(cache.read(cache.rows())["video"], codes)


def test_imported_tokens_become_a_cache(tmp_path: Path) -> None:
    codes = np.random.default_rng(3).integers(0, 300, (23, 3, 2, 5), dtype=np.int32)
    write_foreign_tokens(tmp_path / "x", codes, Framing(8, 20), stride=2)
    cache = TokenCache.open(tmp_path / "x")
    np.testing.assert_array_equal(cache.read(np.arange(23))["video"][..., 0], codes)
    assert cache.spec.frames == 6
    assert 0 < len(cache.rows("validation")) < len(cache.rows("train"))
    with pytest.raises(UserError, match="integers"):
        write_foreign_tokens(tmp_path / "y", codes.astype(float), Framing(8, 20))


def test_a_reader_works_in_other_processes(sealed: Path) -> None:
    """After a fork with its memory maps, and as a pickled copy, which maps the files again."""
    cache = TokenCache.open(sealed)
    expected = cache.read(np.array([3, 33]))["video"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cache)).read(np.array([3, 33]))["video"], expected)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(cache.read(np.array([3, 33]))["video"], expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("name", ["zarr.json", "plan.json", "sources.jsonl", "origin.json", "manifest.json"])
@pytest.mark.parametrize("text", ["[1, 2]", "null", "7"])
def test_json_that_is_not_an_object_is_named(cache_copy: Path, name: str, text: str) -> None:
    (cache_copy / name).write_text(text)
    with pytest.raises(CacheError, match=name):
        damage_of(cache_copy)  # which reads the manifest too


def test_a_missing_folder_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="nowhere does not exist"):
        TokenCache.open(tmp_path / "nowhere")
