"""Whether all processes still hold the same model: what nothing else would notice until the samples are bad."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


def require_equal_replicas(tensors: Mapping[str, Tensor], accelerator: Accelerator) -> None:
    """Raises RuntimeError in every process unless all hold the same bytes, so that their hashes agree."""
    if accelerator.num_processes == 1:
        return
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    number = int.from_bytes(digest.digest()[:6], "big")
    largest = accelerator.reduce(torch.tensor([number, -number], device=accelerator.device), reduction="max")
    if largest[0] != -largest[1]:
        raise RuntimeError(
            "the processes hold different weights or buffers: some network updates itself from its own batch alone; "
            "reduce what it counts across processes"
        )
