"""Odd but honest files: names, texts and records that other programs write."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from bair_records import masked_crc, record
from numbered_videos import write_numbered

from tokenreel.data.sources.base import VideoEntry
from tokenreel.data.sources.open import open_source
from tokenreel.data.video.probe import DecodeFailure
from tokenreel.errors import DataError

CAPTIONS = "a line\u2028separator, and\u2029more\x85", 'a "quoted"\nline\x0b\x1c'


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_caption_may_hold_any_character(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"caption": caption, "file_name": f"{i}.mp4", "label": "jump"} for i, caption in enumerate((*CAPTIONS, "plain"))
    ]
    with (tmp_path / f"metadata.{suffix}").open("w", encoding="utf-8", newline="") as file:
        if suffix == "csv":
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for row in rows:
        write_numbered(tmp_path / row["file_name"], 3)
    assert open_source(str(tmp_path)).entries == tuple(VideoEntry(f"{i}.mp4", "jump") for i in range(3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "line 1: not JSON"),
        ('{"a":' * 100_000, "line 1: not JSON"),
        ('{"file_name": "a.mp4", "label": ' + "9" * 5000 + "}", "line 1: not JSON"),
        ('["a.mp4"]', "line 1: expected an object with file_name, got list"),
        ('\n\n"a.mp4"', "line 3: expected an object with file_name, got str"),
        (r'{"file_name": "a.mp4", "label": "\ud800"}', r"'\\ud800' is not text in UTF-8"),
        (r'{"file_name": "a.mp4", "split": "\udfff"}', r"'\\udfff' is not text in UTF-8"),
    ],
)
def test_metadata_that_are_no_rows_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write_numbered(tmp_path / "a.mp4", 3)
    (tmp_path / "metadata.jsonl").write_text(text + "\n")
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path))


def named(folder: Path, name: bytes) -> None:
    """Writes a video under any bytes as its name. Skips the test where the file system refuses them."""
    write_numbered(folder / "a.mp4", 3)
    try:
        os.replace(os.fsencode(folder / "a.mp4"), os.fsencode(folder) + b"/" + name)  # noqa: PTH105 - a Path is text
    except OSError:
        pytest.skip("file names are text here")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    named(tmp_path, b"caf\xe9.mp4")
    with pytest.raises(DataError, match=r"'caf\\udce9\.mp4' is not text in UTF-8; rename it"):
        open_source(str(tmp_path))


def test_a_name_in_a_locale_that_cannot_read_it_is_refused(tmp_path: Path) -> None:
    named(tmp_path, "café.mp4".encode())
    assert [entry.id for entry in open_source(str(tmp_path)).entries] == ["café.mp4"]
    code = "import sys; from tokenreel.data.sources.open import open_source; open_source(sys.argv[1])"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, check=False
    )
    assert b"tokenreel.errors.DataError" in result.stderr
    assert b"set the environment variable PYTHONUTF8=1" in result.stderr


def test_names_in_a_shard_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    for name, format in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{name}.tar", "w", format=format, encoding="utf-8") as tar:
            tar.addfile(tarfile.TarInfo("größe/ä.mp4"))
    code = (
        "import sys; from tokenreel.data.sources.open import open_source; s = open_source(sys.argv[1]);"
        "print(s.digest, ascii(s.entries[0].id))"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, stdout=-1, check=True)
    expected = open_source(str(tmp_path))
    assert result.stdout.decode().split() == [expected.digest, ascii("gnu/größe/ä")]


def test_records_of_other_data_are_named(tmp_path: Path) -> None:
    data = record(np.zeros((3, 64, 64, 3), np.uint8), camera="aux2")
    (tmp_path / "a.tfrecords").write_bytes(data)
    with pytest.raises(DecodeFailure, match=r"unreadable: .* no 0/image_aux1/encoded.*\(0/image_aux2/encoded"):
        open_source(str(tmp_path)).probe(0)
    (tmp_path / "a.tfrecords").write_bytes(gzip.compress(data))
    with pytest.raises(DataError, match=r"a\.tfrecords: it is compressed with gzip; decompress it"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("example", [b"", b"\x0a\x02\x0a\x00", b"\x0a\x04\x0a\x02\x0a\x00", b"\xff" * 20, b"\x0a\x7f"])
def test_a_record_that_is_no_example_is_a_failure(tmp_path: Path, example: bytes) -> None:
    length = len(example).to_bytes(8, "little")
    (tmp_path / "a.tfrecords").write_bytes(length + masked_crc(length) + example + masked_crc(example))
    with pytest.raises(DecodeFailure, match="unreadable"):
        open_source(str(tmp_path)).probe(0)
