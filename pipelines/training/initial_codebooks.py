"""Codebooks that are initialised from data, from the whole batch of the first step."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tokenreel.tokenizers.quantizers.base import Quantizer


def initialise_codebooks(model: nn.Module, forward: Callable[[], None]) -> None:
    """Initialises the quantizers of `model` that need data. `forward` runs the training pass over all micro-batches.

    It is run once for each of them, in the order in which a pass uses them: what a quantizer is given may depend on the
    codebooks before it. In these passes no codebook moves.
    """
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    waiting = [quantizer for quantizer in quantizers if quantizer.needs_data]
    for quantizer in quantizers:
        quantizer.eval()
    while waiting and (found := _first_used(waiting, forward)):
        quantizer, latents = found
        quantizer.initialise(latents)
        waiting.remove(quantizer)
    for quantizer in quantizers:
        quantizer.train()


def _first_used(quantizers: list[Quantizer], forward: Callable[[], None]) -> tuple[Quantizer, list[Tensor]] | None:
    """The first of the quantizers that `forward` uses, and the latents that it is given; None if it uses none."""
    latents = dict[Quantizer, list[Tensor]]()

    def record(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Quantizer)
        if not latents or module in latents:
            latents.setdefault(module, []).append(arguments[0].detach())

    hooks = [quantizer.register_forward_pre_hook(record) for quantizer in quantizers]
    forward()
    for hook in hooks:
        hook.remove()
    return next(iter(latents.items()), None)
