"""What webdataset itself reads from a shard: the independent reference for what we index and write."""

from __future__ import annotations

from pathlib import Path

from webdataset.tariterators import group_by_keys, tar_file_expander


def read_samples(shard: Path) -> list[tuple[str, dict[str, bytes]]]:
    """Key and members, by suffix, of each sample: raw bytes, nothing is decoded."""
    with shard.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": str(shard), "stream": stream}])))
    return [(sample["__key__"], {k: v for k, v in sample.items() if k[:2] != "__"}) for sample in samples]
