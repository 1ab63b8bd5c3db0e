"""Accelerate set up for a run: devices, processes, trackers; what the loop cannot do is refused here.

Several processes: `accelerate launch --multi_gpu --num_processes N -m tokenreel ...`, on a machine without GPUs too.
The trap: with `--cpu`, Accelerate 1.15 starts a single process whatever number is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType

from tokenreel.errors import ConfigError
from tokenreel.pipelines.common.device import choose_device

DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def make_accelerator(device: str | None, log_with: tuple[str, ...], out: Path) -> Accelerator:
    """`device` as torch spells it; None takes GPUs if there are any; launched processes get one each.

    Raises ConfigError for a device or tracker that is not here, and where a launcher asks for sharded training.
    """
    chosen = choose_device(device)
    if chosen.index is not None:
        torch.cuda.set_device(chosen)
    trackers = {str(tracker) for tracker in get_available_trackers()}
    for name in log_with:
        if name not in trackers:  # Accelerate would leave it out without a word
            raise ConfigError(
                f"log_with {name!r} is not installed; installed: {', '.join(sorted(trackers)) or 'none'}. "
                "metrics.jsonl is written in any case"
            )
    accelerator = Accelerator(
        cpu=chosen.type == "cpu", mixed_precision="no", log_with=list(log_with) or None, project_dir=out / "trackers"
    )
    if accelerator.distributed_type not in DATA_PARALLEL:
        raise ConfigError(
            f"{accelerator.distributed_type}: training runs data parallel only, every process with the whole model; "
            "choose that with `accelerate config`"
        )
    return accelerator


def start_trackers(accelerator: Accelerator, sections: Mapping[str, Any]) -> None:
    """Begins the trackers of `log_with`, with the configuration as they take it: names and plain values."""
    accelerator.init_trackers("tokenreel", config={key: str(value) for key, value in sections.items()})
