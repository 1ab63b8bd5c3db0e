"""Shards as webdataset reads them: the independent reference for our index and export."""

from __future__ import annotations

from pathlib import Path

from webdataset.tariterators import group_by_keys, tar_file_expander


def read_samples(shard: Path) -> list[tuple[str, dict[str, bytes]]]:
    """The key of each sample, and its members as raw bytes by suffix."""
    with shard.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}])))
    return [(sample["__key__"], {k: v for k, v in sample.items() if k[:2] != "__"}) for sample in samples]
