"""Decoding in worker processes: the same frames in the same order, even if workers crash."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from numbered_videos import HEIGHT, WIDTH, numbers_of, write_numbered
from warning_source import open_warning

from tokenreel.data.decoding import worker, worker_warnings
from tokenreel.data.decoding.pool import DecodePool, DecodeWorkerLost
from tokenreel.data.sources.base import ReadRequest
from tokenreel.data.sources.open import SOURCES, open_source
from tokenreel.data.spec import Framing
from tokenreel.data.video.probe import REASONS, DecodeFailure, VideoProbe
from tokenreel.errors import DataError

AS_IS = Framing(HEIGHT, WIDTH)
COUNT = 31


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos; the second one is truncated."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_numbered(folder / name, COUNT)
    (folder / "b.mp4").write_bytes((folder / "b.mp4").read_bytes()[:-500])
    return folder


def requests() -> list[ReadRequest]:
    return [ReadRequest(video, first + np.arange(5), AS_IS) for video in (0, 2) for first in range(0, 25, 5)]


def damaged_copy(data: bytes, generator: np.random.Generator) -> bytes:
    """A copy that is truncated, or has bytes changed anywhere, in the header, or in one block."""
    copy = bytearray(data)
    where = generator.integers((len(copy), len(copy), min(len(copy), 1200)), size=(6, 3))
    kind = generator.integers(4)
    if kind == 0:
        return bytes(copy[: where[0, 0]])
    if kind == 3:
        start = where[0, 0]
        copy[start : start + 50] = generator.bytes(len(copy[start : start + 50]))
        return bytes(copy)
    for offset in where[:, kind]:
        copy[offset] = generator.integers(256)
    return bytes(copy)


def children() -> list[int]:
    """Process ids of the decode workers of this process."""
    ids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status, command = (entry / "status").read_text(), (entry / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if f"PPid:\t{os.getpid()}\n" in status and b"decoding.worker" in command:
                ids.append(int(entry.name))
    return ids


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_frames_come_in_order_and_failures_as_results(folder: Path, workers: int) -> None:
    asked = [*requests(), ReadRequest(1, np.arange(2), AS_IS), *requests()]
    with DecodePool(str(folder), workers) as pool:
        probes = list(pool.probe(range(3)))
        results = list(pool.read(iter(asked), ahead=3))
    assert [isinstance(probe, VideoProbe) for probe in probes] == [True, False, True]
    assert isinstance(probes[1], DecodeFailure)
    assert probes[1].reason == "truncated"
    assert np.array_equal(probes[0].frame_times, probes[2].frame_times)
    assert np.allclose(probes[0].frame_times, np.arange(COUNT) / 24)
    for request, result in zip(asked, results, strict=True):
        assert result.request is request
        if request.video == 1:
            assert result.frames is None
            assert result.failure is not None
            assert result.failure.reason == "truncated"
        else:
            assert result.frames is not None
            assert numbers_of(result.frames) == request.indices.tolist()
    assert children() == []


def test_any_damaged_file_gives_frames_or_a_reason(tmp_path: Path) -> None:
    """With damage of many kinds in many containers a decoder may crash, but not this process or the other workers."""
    generator = np.random.default_rng(0)
    codecs = {"a.mp4": "libx264", "a.mkv": "libx264", "a.ts": "libx264", "a.avi": "mpeg4", "b.avi": "libx264"}
    for name, codec in codecs.items():
        write_numbered(tmp_path / name, 7, codec=codec)
        data = (tmp_path / name).read_bytes()
        for number in range(30):
            (tmp_path / f"{number:02d}{name}").write_bytes(damaged_copy(data, generator))
    with DecodePool(str(tmp_path), 1) as pool:
        reasons = []
        for video, probe in enumerate(pool.probe(range(len(pool.source.entries)))):
            if isinstance(probe, VideoProbe):
                (result,) = pool.read([ReadRequest(video, np.arange(min(7, probe.frames)), AS_IS)], ahead=1)
                probe = result.failure
            reasons.append(None if probe is None else probe.reason)
    assert set(reasons) <= {None, *REASONS}
    assert len(set(reasons)) >= 5  # there are many kinds of damage
    assert [reasons[i] for i, entry in enumerate(pool.source.entries) if entry.id in codecs] == [None] * len(codecs)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_replaced(folder: Path, sign: signal.Signals) -> None:
    with DecodePool(str(folder), 1, timeout_s=2.0) as pool:
        results = pool.read(iter(requests()), ahead=1)
        read = [next(results) for _ in range(3)]
        (child,) = children()
        os.kill(child, sign)
        read += results
        assert child not in children()
    assert [numbers_of(r.frames) for r in read if r.frames is not None] == [r.indices.tolist() for r in requests()]


def test_a_video_that_kills_its_worker_is_named(folder: Path) -> None:
    with (
        DecodePool(str(folder), 1, timeout_s=1e-3) as pool,
        pytest.raises(DecodeWorkerLost, match=r"c\.mp4: each of 3 .* timed out"),
    ):
        list(pool.probe([2]))


SLOW_WORKER = """#!{python}
import time
from tokenreel.data.decoding.messages import receive, send
receive(0)
send(1, {{"kind": "ready", "digest": "{digest}"}})
receive(0)
for _ in range(5):
    time.sleep(0.6)
    send(1, {{"kind": "progress"}})
send(1, {{"kind": "failure", "reason": "corrupt", "detail": "at last"}})
receive(0)
"""


def test_a_request_may_take_longer_than_the_limit_while_there_is_progress(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DecodePool(str(folder), 1, timeout_s=2.0) as pool:
        script = tmp_path / "worker"
        script.write_text(SLOW_WORKER.format(python=sys.executable, digest=pool.source.digest))
        script.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(script))
        (failure,) = pool.probe([0])
    assert isinstance(failure, DecodeFailure)
    assert failure.detail == "at last"


@pytest.mark.parametrize(("pause", "least", "most"), [(0.0, COUNT // 2, COUNT + 1), (1e6, 0, 0)])
def test_a_worker_reports_progress_while_it_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pause: float, least: int, most: int
) -> None:
    """With the packets of a video, at most once in each pause."""
    monkeypatch.setattr(worker, "PROGRESS_S", pause)
    reader, writer = os.pipe()
    source = open_source(str(folder))
    source.on_progress = worker.Progress(writer)
    source.probe(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert least <= pipe.read().count(b"progress") <= most


def test_a_worker_that_opens_a_large_source_reports_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PROGRESS_S", 0.01)
    reader, writer = os.pipe()
    with worker.Heartbeat(writer):
        time.sleep(0.3)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read().count(b"progress") >= 3


@pytest.mark.parametrize(("ahead", "processes"), [(2, 1), (13, 3)])
def test_workers_join_for_one_video_only_if_they_would_wait(folder: Path, ahead: int, processes: int) -> None:
    """Else a long video would be decoded by one process, whatever the number of workers."""
    asked = [ReadRequest(0, np.array([number]), AS_IS) for number in np.random.default_rng(0).permutation(COUNT)]
    with DecodePool(str(folder), 3) as pool:
        results = list(pool.read(iter(asked), ahead))
        assert len(children()) == processes
    assert [numbers_of(r.frames) for r in results if r.frames is not None] == [r.indices.tolist() for r in asked]


def test_workers_have_a_memory_limit(folder: Path) -> None:
    with DecodePool(str(folder), 1, memory_gb=1.5) as pool:
        list(pool.probe([0]))
        limits = Path(f"/proc/{children()[0]}/limits").read_text()
    assert any(line.split()[3] == str(3 * 2**29) for line in limits.splitlines() if "address space" in line)


def test_workers_do_with_less_memory_where_this_process_has_less(folder: Path) -> None:
    """As after `ulimit -v`: a process cannot raise its limit again."""
    script = (
        "import resource, sys\n"
        "from tokenreel.data.decoding.pool import DecodePool\n"
        "resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\n"
        "with DecodePool(sys.argv[1], 1) as pool:\n"
        "    print(next(pool.probe([0])).frames)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
    assert done.stdout == f"{COUNT}\n", done.stderr


def test_the_message_says_the_limit(folder: Path) -> None:
    with (
        DecodePool(str(folder), 1, memory_gb=0.05) as pool,
        pytest.raises(DecodeWorkerLost, match=r"died .*0\.05 GiB"),
    ):
        list(pool.probe([0]))


def test_warnings_of_workers_are_logged_once_in_one_visible_line(caplog: pytest.LogCaptureFixture) -> None:
    with patch.object(SOURCES, "_added", []):
        SOURCES.register("warning", open_warning, "warn:")
        asked = [ReadRequest(video, np.arange(5), Framing(16, 16)) for video in (0, 1, 2) * 2]
        for _ in range(2):
            with DecodePool("warn:?videos=3&frames=5&size=16", 2) as pool:
                assert all(result.frames is not None for result in pool.read(asked, ahead=4))
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("tokenreel.data.decoding")]
    assert sorted(logged) == [
        r"decode worker: RuntimeWarning: \x1b[31mred of a file",
        *(f"decode worker: video {video}" for video in range(3)),
        f"decode worker: {'x' * 200}...",
    ]


def test_workers_that_warn_without_end_are_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    kept, log = worker_warnings.KeptWarnings(), worker_warnings.WarningLog()
    for number in range(2 * worker_warnings.MAX_WARNINGS):
        kept.handle(logging.makeLogRecord({"msg": f"warning {number}", "levelno": logging.WARNING}))
    log.add(kept.take())
    log.add([f"another {number}" for number in range(5)])
    log.add("nothing that a worker of ours sends")
    assert len(caplog.records) == worker_warnings.MAX_WARNINGS + 1
    assert "further ones are not shown" in caplog.records[-1].getMessage()
    assert kept.take() == []


def test_workers_ignore_ctrl_c(folder: Path) -> None:
    """A terminal sends SIGINT to the whole process group; training then finishes its step and still needs frames."""
    with DecodePool(str(folder), 1) as pool:
        list(pool.probe([0]))
        (child,) = children()
        os.kill(child, signal.SIGINT)
        assert isinstance(next(pool.probe([0])), VideoProbe)
        assert children() == [child]


def test_a_worker_ends_with_its_parent_process(folder: Path) -> None:
    """Also if the parent is killed."""
    script = (
        "import os, signal, sys\n"
        "from tokenreel.data.decoding.pool import DecodePool\n"
        "pool = DecodePool(sys.argv[1], 1)\n"
        "list(pool.probe([0]))\n"
        "print(pool._workers[0]._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, check=False)
    command = Path(f"/proc/{int(run.stdout)}/cmdline")
    deadline = time.monotonic() + 10
    while command.exists() and b"decoding.worker" in command.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert time.monotonic() < deadline


def test_a_source_that_changes_during_decoding_is_an_error(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mp4", 3)
    with DecodePool(str(tmp_path), 1) as pool:
        write_numbered(tmp_path / "b.mp4", 3)
        with pytest.raises(DataError, match="changed"):
            list(pool.probe([0]))


def test_a_worker_does_not_import_torch() -> None:
    """It would make every start, and every restart, slow."""
    code = "import sys, tokenreel.data.decoding.worker; sys.exit('torch' in sys.modules or 'h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
