"""samples.json: what the videos in a folder of a generator's samples are, in the words of a token file's plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenreel.config import from_mapping, to_mapping
from tokenreel.data.cache.files import durable_put, read_json, readable_json
from tokenreel.data.generator_spec import GeneratorSpec
from tokenreel.errors import ConfigError, DataError

SAMPLES_FILE = "samples.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class SampledVideo:
    """One sample. What it has from a clip of a data set is None, or -1, where it was made without one."""

    file: str  # its name in the folder
    id: str  # sample-000000
    seed: int
    sample: int  # its number, which with the seed determines its noise
    label: int = -1  # index into the list's classes
    row: int | None = None  # of the plan
    video: str | None = None  # id in the data set
    first_frame: int | None = None  # tick of the video's resampled timeline at which the clip begins


@dataclass(frozen=True)
class SampleList:
    """All samples of a folder, in the order of their numbers."""

    spec: GeneratorSpec
    provenance: Mapping[str, Any]  # generator, weights_fingerprint, truncation, ...; data, split, plan_sha256 of clips
    classes: tuple[str, ...]
    samples: tuple[SampledVideo, ...]

    def write(self, folder: Path) -> None:
        """Raises CacheError where the folder cannot be written."""
        durable_put(folder / SAMPLES_FILE, readable_json({"format_version": FORMAT_VERSION, **to_mapping(self)}))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises DataError if the folder has no samples.json, or one that is damaged or of a newer version; CacheError
        if the file is not JSON.
        """
        path = folder / SAMPLES_FILE
        if not path.is_file():
            raise DataError(f"{folder} has no {SAMPLES_FILE}: give a folder that `sample --generator` wrote")
        document = read_json(path)
        version = document.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise DataError(f"{path}: format_version {version!r} is not {FORMAT_VERSION}: upgrade tokenreel")
        try:
            found: Self = from_mapping(cls, document, SAMPLES_FILE)
        except ConfigError as error:
            raise DataError(f"{path} is damaged: {error}") from error
        found._check(path)
        return found

    def _check(self, path: Path) -> None:
        """Raises DataError unless these can be the samples of the folder of `path`."""
        if not self.samples:
            raise DataError(f"{path} is damaged: it lists no samples")
        for sample in self.samples:
            if not -1 <= sample.label < len(self.classes) or min(sample.sample, sample.seed) < 0:
                raise DataError(
                    f"{path} is damaged: {sample.file!r} has label {sample.label} of {len(self.classes)} classes, "
                    f"sample {sample.sample} and seed {sample.seed}"
                )
            if Path(sample.file).name != sample.file or not (path.parent / sample.file).is_file():
                raise DataError(f"{path}: {sample.file!r} is not a file of this folder")
        if len({sample.file for sample in self.samples}) < len(self.samples):
            raise DataError(f"{path} is damaged: two samples have one file")
