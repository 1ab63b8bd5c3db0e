"""Faults of caches: files in the wrong place, many shards, documents that claim or name what is not there."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

import numpy as np
import pytest
import zarr

from tokenreel.config import sha256_json
from tokenreel.data.cache.documents import metadata_documents, root_json
from tokenreel.data.cache.files import file_sha256, readable_json
from tokenreel.data.cache.layout import MAX_ROWS, CacheHeader
from tokenreel.data.cache.manifest import Commit, InvalidRow, Manifest, StoredFile, build_manifest
from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.cache.repair import repair_documents
from tokenreel.data.cache.shard import encode_shard
from tokenreel.data.cache.token_file import write_token_file
from tokenreel.data.cache.verify import find_damage, verify_cache
from tokenreel.data.cache.writer import CacheWriter
from tokenreel.data.plan_config import plan_sha256
from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import CacheError
from tokenreel.pipelines.commands import inspect, repair
from tokenreel.pipelines.requests.artifacts import InspectRequest
from tokenreel.pipelines.requests.tokenizing import RepairRequest

K = 251
not_of_zarr = pytest.mark.filterwarnings("ignore:Object at .* is not recognized as a component")  # plan, commits, ...
SPEC = TokenSpec((StreamSpec("video", (1, 2, 3), K),), frames=1, framing=Framing(5, 7))


def content(rows: int, shard_rows: int) -> tuple[CacheHeader, dict[str, list[dict[str, str]]], dict[str, np.ndarray]]:
    """Header, plan and arrays of a cache; no two shards of an array are alike, except those of `valid`."""
    plan = {"videos": [{"id": str(row), "split": "train"} for row in range(rows)]}
    header = CacheHeader("samples", SPEC, 1, rows, shard_rows, "fingerprint", plan_sha256(plan))
    arrays: dict[str, np.ndarray] = {
        "video": np.random.default_rng(0).integers(0, K, (rows, 1, 2, 3, 1), dtype=np.uint8),
        "valid": np.ones(rows, np.uint8),
        "label": np.arange(rows, dtype=np.int32),
        "source": np.arange(rows, dtype=np.int32),
        "first_frame": np.arange(rows, dtype=np.int64),
    }
    return header, plan, arrays


def write(path: Path, shards: int, shard_rows: int, seal: bool = True) -> np.ndarray:
    """A cache of `shards` shards; returns its tokens [rows, 1, 2, 3, 1]."""
    header, plan, arrays = content(shards * shard_rows, shard_rows)
    writer = CacheWriter.create(path, header, plan, {})
    for shard in range(shards):
        part = slice(shard * shard_rows, (shard + 1) * shard_rows)
        writer.put(shard, {name: values[part] for name, values in arrays.items()})
    if seal:
        assert writer.seal()
    return arrays["video"]


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a child process that does `work`: 0 if it raises nothing."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mapped(path: Path) -> int:
    """The number of files below `path` that this process has mapped."""
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def exchange(first: Path, second: Path) -> None:
    kept = first.with_name("kept")
    first.rename(kept)
    second.rename(first)
    kept.rename(second)


@pytest.mark.parametrize("key", ["streams/video/c/{}/0/0/0/0", "label/c/{}", "source/c/{}", "first_frame/c/{}"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_shard_in_the_wrong_place_is_found_before_a_value_of_it_is_used(
    tmp_path: Path, key: str, sealed: bool
) -> None:
    write(tmp_path / "cache", shards=3, shard_rows=4, seal=sealed)
    first, second = (tmp_path / "cache" / key.format(shard) for shard in (0, 1))
    exchange(first, second)
    cache = TokenCache.open(tmp_path / "cache", allow_partial=not sealed)
    with pytest.raises(CacheError, match=rf"{first} \(rows 0 to 3\): .*another file than .*tokenreel repair"):
        cache.read([1]), cache.rows()
    with pytest.raises(CacheError, match=r"rows 0 to 3.*: is intact but differs from what was committed"):
        verify_cache(tmp_path / "cache")


def test_a_shard_exchanged_while_a_process_reads_is_found_when_it_is_mapped_again(tmp_path: Path) -> None:
    """That a file was hashed before counts for that file alone, not for its name."""
    tokens = write(tmp_path, shards=3, shard_rows=4)
    np.testing.assert_array_equal(TokenCache.open(tmp_path).read([1, 5])["video"], tokens[[1, 5]])
    exchange(tmp_path / "streams/video/c/0/0/0/0/0", tmp_path / "streams/video/c/1/0/0/0/0")
    with pytest.raises(CacheError, match="another file"):
        TokenCache.open(tmp_path).read([1])


def test_a_process_hashes_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = write(tmp_path, shards=5, shard_rows=4)
    hashed: list[str] = []
    monkeypatch.setattr("tokenreel.data.cache.shard.file_sha256", lambda file: _hash_and_note(file, hashed))
    for _ in range(3):
        cache = TokenCache.open(tmp_path)
        np.testing.assert_array_equal(cache.read(cache.rows())["video"], tokens)
    assert len(hashed) == len(set(hashed)) == 5 * 5


def _hash_and_note(file: BufferedReader, noted: list[str]) -> str:
    noted.append(file.name)
    return file_sha256(file)


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A sealed cache of 2,000 shards in 10,000 files, and its tokens; written without flushing any of them."""
    path = tmp_path_factory.mktemp("many") / "cache"
    header, plan, arrays = content(2000, 1)
    CacheWriter.create(path, header, plan, {})
    commits = []
    for shard in range(2000):
        files = []
        for name, layout in {**header.streams, **header.columns}.items():
            data, file = encode_shard(layout, shard, arrays[name][shard : shard + 1]), path / layout.key(shard)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            files.append(StoredFile.of(layout.key(shard), data))
        commits.append(Commit("", shard, tuple(files)))
    manifest = build_manifest(header, commits)
    (path / "manifest.json").write_bytes(readable_json(manifest))
    (path / "zarr.json").write_bytes(readable_json(root_json(header, manifest["cache_id"])))
    return path, arrays["video"]


def test_two_thousand_shards_are_read_with_few_files_open(many_shards: tuple[Path, np.ndarray]) -> None:
    path, tokens = many_shards

    def work() -> None:
        before = open_descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        cache = TokenCache.open(path)
        rows = np.random.default_rng(1).permutation(2000)
        np.testing.assert_array_equal(cache.read(rows)["video"], tokens[rows])
        np.testing.assert_array_equal(cache.rows(), np.arange(2000))
        np.testing.assert_array_equal(cache.labels(rows), rows)
        np.testing.assert_array_equal(cache.read(rows)["video"], tokens[rows])
        assert open_descriptors() == before
        assert 2000 <= mapped(path) <= 4096
        gc.collect()
        gc.disable()  # so that only counting references can unmap
        del cache
        assert mapped(path) == 0

    assert in_child(work) == 0


def test_few_maps_are_kept_and_long_reads_are_divided(
    many_shards: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tokens = many_shards
    monkeypatch.setattr("tokenreel.data.cache.shard.MAX_MAPS", 13)
    monkeypatch.setattr("tokenreel.data.cache.shard.MAX_CHUNKS", 7)
    cache = TokenCache.open(path)
    for rows in (np.arange(0, 2000, 11), np.random.default_rng(2).permutation(2000)[:100]):
        np.testing.assert_array_equal(cache.read(rows)["video"], tokens[rows])
        assert mapped(path) <= 13


def test_too_many_open_files_is_not_called_damage(tmp_path: Path) -> None:
    write(tmp_path, shards=3, shard_rows=4)
    cache = TokenCache.open(tmp_path)

    def work() -> None:
        descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors[-1] + 1, 4096))
        for act in (lambda: cache.read([1]), lambda: find_damage(tmp_path, cache.header, cache.shards)):
            with pytest.raises(CacheError, match=r"cannot be read: Too many open files; raise the limit") as caught:
                act()
            assert "repair" not in str(caught.value)

    assert in_child(work) == 0


def claim_rows(path: Path, rows: int) -> None:
    """Makes a sealed cache claim `rows` rows, in shards of one, consistently in all metadata."""
    root = json.loads((path / "zarr.json").read_text())["attributes"]["tokenreel"]
    header = CacheHeader.from_json({**root["header"], "rows": rows, "shard_rows": 1})
    for key, document in metadata_documents(header).items():
        (path / key).write_bytes(readable_json(document))
    manifest = {key: json.loads((path / "manifest.json").read_text())[key] for key in ("files", "invalid")}
    manifest["header"] = header.to_json()
    cache_id = sha256_json(manifest)
    (path / "manifest.json").write_bytes(readable_json({**manifest, "cache_id": cache_id}))
    (path / "zarr.json").write_bytes(readable_json(root_json(header, cache_id)))


def test_a_claim_of_two_thousand_million_rows_is_compared_with_the_files_first(tmp_path: Path) -> None:
    write(tmp_path, shards=1, shard_rows=4)
    claim_rows(tmp_path, MAX_ROWS)

    def work() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (30, 60))
        for act in (lambda: TokenCache.open(tmp_path), lambda: verify_cache(tmp_path)):
            with pytest.raises(CacheError, match=r"claims 2147483647 rows, but sources\.jsonl describes 4"):
                act()
        with pytest.raises(CacheError, match=r"manifest\.json does not list the files of its header"):
            Manifest.load(tmp_path)

    assert in_child(work) == 0


def test_an_unsealed_cache_costs_what_is_written_of_it_whatever_it_claims(tmp_path: Path) -> None:
    """A few files of 2,147,483,647 rows in as many shards, the first and the last among them."""
    small, plan, arrays = content(4, 1)
    header = dataclasses.replace(small, kind="clips", rows=MAX_ROWS)
    writer = CacheWriter.create(tmp_path, header, plan, {})
    written = {0: 0, 1: 1, MAX_ROWS // 2: 2, MAX_ROWS - 1: 3}  # row -> of `arrays`
    for row, part in written.items():
        writer.put(row, {name: values[part : part + 1] for name, values in arrays.items()})

    def work() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (30, 60))
        cache = TokenCache.open(tmp_path, allow_partial=True)
        assert cache.rows("train").tolist() == cache.valid_rows().tolist() == list(written)
        assert cache.source_ids(np.array([MAX_ROWS - 1, 1])) == ["3", "1"]
        assert cache.labels(cache.rows()).tolist() == list(range(4))
        np.testing.assert_array_equal(cache.read(cache.rows())["video"], arrays["video"])
        assert verify_cache(tmp_path)["missing_shards"] == MAX_ROWS - 4
        assert inspect.run(InspectRequest(path=tmp_path))["valid_rows"] == 4
        assert repair.run(RepairRequest(path=tmp_path))["cache_id"] is None
        with pytest.raises(CacheError, match="is not finished: 4 of 2147483647 shards"):
            TokenCache.open(tmp_path)

    assert in_child(work) == 0


def test_windows_end_at_shards_that_are_not_written(tmp_path: Path) -> None:
    """No window of an unsealed cache of whole videos spans a shard that is missing."""
    spec = dataclasses.replace(SPEC, streams=(StreamSpec("video", (2, 2, 3), K),), frames=2)
    plan = {"videos": [{"id": "a", "split": "train"}]}
    header = CacheHeader("videos", spec, 1, 7, 1, "fingerprint", plan_sha256(plan))
    writer = CacheWriter.create(tmp_path, header, plan, {})
    for row in (0, 1, 3, 4, 5):
        tokens = np.full((1, 1, 2, 3, 1), row, np.uint8)
        numbers = {name: np.array([row if name == "first_frame" else 0], np.int64) for name in header.columns}
        writer.put(row, {"video": tokens, **numbers, "valid": np.ones(1, np.uint8)})
    cache = TokenCache.open(tmp_path, allow_partial=True)
    assert cache.rows(stride=1).tolist() == [0, 3, 4]
    assert cache.valid_rows().tolist() == [0, 1, 3, 4, 5]
    assert cache.read([4])["video"].reshape(2, 6)[:, 0].tolist() == [4, 5]


@pytest.mark.parametrize("key", ["streams/video/c/7/0/0/0/0", "../../secret", "valid/c/0", "nothing"])
def test_a_commit_that_names_another_file_is_an_error_and_repaired(tmp_path: Path, key: str) -> None:
    write(tmp_path, shards=3, shard_rows=4, seal=False)
    commit = tmp_path / "commits/00000001.json"
    document = json.loads(commit.read_text())
    document["files"][0]["key"] = key
    commit.write_text(json.dumps(document))
    with pytest.raises(CacheError, match=rf"{commit} is damaged: it lists other files than .*`tokenreel repair"):
        verify_cache(tmp_path)
    assert repair_documents(tmp_path) == ["commits/00000001.json"]
    assert sorted(TokenCache.open(tmp_path, allow_partial=True).shards) == [0, 2]


@pytest.mark.parametrize("change", [{"reason": "corrupt"}, {"row": 1}, {"detail": ""}])
def test_an_invalid_row_that_a_commit_states_otherwise_is_an_error_and_repaired(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """Nothing else states it until the cache is sealed, and its identity depends on it."""
    write(tmp_path, shards=3, shard_rows=4, seal=False)
    header = TokenCache.open(tmp_path, allow_partial=True).header
    path, commit = tmp_path / "commits/00000000.json", Commit.load(tmp_path, 0, header)
    invalid = InvalidRow(2, "truncated", "cut off")
    path.write_bytes(readable_json(dataclasses.replace(commit, invalid=(invalid,)).to_json()))
    assert CacheWriter(tmp_path, header).invalid_rows() == [invalid]
    document = json.loads(path.read_text())
    document["invalid"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(CacheError, match=rf"{path} is damaged: its hash is not its sha256.*`tokenreel repair"):
        verify_cache(tmp_path)
    assert repair_documents(tmp_path) == ["commits/00000000.json"]


def test_a_sealed_cache_without_commits_gets_them_back_and_keeps_its_shards(tmp_path: Path) -> None:
    """As one from the Hub, where commits are not."""
    write(tmp_path, shards=3, shard_rows=4, seal=False)
    header = TokenCache.open(tmp_path, allow_partial=True).header
    second, path = Commit.load(tmp_path, 1, header), tmp_path / "commits/00000001.json"
    path.write_bytes(readable_json(dataclasses.replace(second, invalid=(InvalidRow(6, "truncated"),)).to_json()))
    cache_id = CacheWriter(tmp_path, header).seal()
    before = {file.name: file.read_bytes() for file in (tmp_path / "commits").iterdir()}
    path.write_text("{}")
    (tmp_path / "commits/00000002.json").unlink()
    assert sorted(repair_documents(tmp_path)) == ["commits/00000001.json", "commits/00000002.json"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "commits").iterdir()} == before
    shutil.rmtree(tmp_path / "commits")
    summary = repair.run(RepairRequest(path=tmp_path))
    assert (summary["repaired_shards"], summary["cache_id"]) == ([], cache_id)
    assert {file.name: file.read_bytes() for file in (tmp_path / "commits").iterdir()} == before


def test_a_manifest_that_names_another_file_is_an_error_and_repaired(tmp_path: Path) -> None:
    write(tmp_path, shards=3, shard_rows=4)
    path = tmp_path / "manifest.json"
    intact = path.read_bytes()
    document = json.loads(intact)
    del document["cache_id"]
    document["files"][0]["key"] = "../../secret"
    path.write_text(json.dumps({**document, "cache_id": sha256_json(document)}))
    with pytest.raises(CacheError, match="does not list the files of its header"):
        verify_cache(tmp_path)
    assert repair_documents(tmp_path) == ["manifest.json"]
    assert path.read_bytes() == intact


def test_commits_are_the_same_bytes_whoever_writes_them(tmp_path: Path) -> None:
    write(tmp_path / "here", shards=2, shard_rows=3)
    assert in_child(lambda: np.testing.assert_equal(len(write(tmp_path / "there", shards=2, shard_rows=3)), 6)) == 0
    files = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file())
    for file in files:
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()


@not_of_zarr
def test_zarr_lists_and_opens_all_arrays_of_a_cache(tmp_path: Path) -> None:
    """As its users do: the tree, the members, a group by its name."""
    tokens = write(tmp_path, shards=3, shard_rows=4)
    root = zarr.open_group(tmp_path, mode="r")
    arrays = {"streams/video", "valid", "label", "source", "first_frame"}
    assert {name for name, _ in root.members(max_depth=None)} == {"streams", *arrays}
    assert all(name.rpartition("/")[-1] in str(root.tree()) for name in arrays)
    streams = root["streams"]
    assert isinstance(streams, zarr.Group)
    assert list(streams.array_keys()) == ["video"]
    np.testing.assert_array_equal(streams["video"][:], tokens)


@not_of_zarr
def test_dimensions_of_one_name_have_one_size(tmp_path: Path) -> None:
    """As xarray requires it of a data set, whose grids differ from stream to stream."""
    streams = (StreamSpec("top", (1, 2, 3), K), StreamSpec("video", (1, 5, 7), K, codebooks=2))
    spec = TokenSpec(streams, 1, SPEC.framing)
    tokens = {stream.name: np.zeros((4, *stream.shape), np.uint8) for stream in streams}
    write_token_file(tmp_path, spec, tokens, "fingerprint", [{"id": str(row)} for row in range(4)])
    sizes: dict[str, set[int]] = {}
    for _, array in zarr.open_group(tmp_path, mode="r").members(max_depth=None):
        if isinstance(array, zarr.Array):
            assert array.metadata.dimension_names is not None
            for name, size in zip(array.metadata.dimension_names, array.shape, strict=True):
                sizes.setdefault(name, set()).add(size)
    assert sizes["row"] == {4}
    assert sizes["video_h"] == {5}
    assert all(len(found) == 1 for found in sizes.values())


@not_of_zarr
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("seal", [True, False])
def test_consolidated_metadata_are_refused_with_the_word_of_repair(tmp_path: Path, seal: bool) -> None:
    tokens = write(tmp_path, shards=3, shard_rows=4, seal=seal)
    before = (tmp_path / "zarr.json").read_bytes()
    zarr.consolidate_metadata(tmp_path)
    with pytest.raises(CacheError, match=r"after zarr\.consolidate_metadata\. `tokenreel repair .*` restores it"):
        TokenCache.open(tmp_path, allow_partial=not seal)
    assert "zarr.json" in repair_documents(tmp_path)
    assert (tmp_path / "zarr.json").read_bytes() == before
    np.testing.assert_array_equal(TokenCache.open(tmp_path, allow_partial=not seal).read([3])["video"], tokens[[3]])


def test_a_complete_cache_that_is_not_sealed_says_so(tmp_path: Path) -> None:
    write(tmp_path, shards=3, shard_rows=4, seal=False)
    with pytest.raises(CacheError, match=r"holds all of its 3 shards but is not sealed.*--allow-collapsed") as caught:
        TokenCache.open(tmp_path)
    assert "3 of 3" not in str(caught.value)


def test_what_killed_processes_left_beside_a_cache_is_removed(tmp_path: Path) -> None:
    """A folder of documents, killed before its rename; those of other caches and of the living stay."""
    path = tmp_path / "c[1]~x"
    assert in_child(lambda: kill_while_creating(path)) == -signal.SIGKILL
    assert in_child(lambda: kill_while_creating(tmp_path / "other")) == -signal.SIGKILL
    [dead, _] = sorted(tmp_path.iterdir())
    living = tmp_path / dead.name.replace(dead.name.split("~")[-2], str(os.getpid()))
    living.mkdir()
    write(path, shards=2, shard_rows=3)
    assert path.is_dir()
    assert living.is_dir()
    assert not dead.exists()
    assert len(list(tmp_path.iterdir())) == 3


def kill_while_creating(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", lambda source, target: os.kill(os.getpid(), signal.SIGKILL))
        write(path, shards=2, shard_rows=3)
