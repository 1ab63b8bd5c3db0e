"""Mixed precision on processors whose bf16 3D convolutions cannot be trusted.

On CPUs PyTorch leaves bf16 convolutions to oneDNN, whose weight gradient of a 3D convolution is wrong for some shapes
on some processors, without an error (torch 2.13: outputs of 2 time steps with avx512_bf16, where it reads uninitialised
memory; of 3 steps with AMX). Outputs and input gradients are right. Here the weight gradients alone are computed in
fp32: a training step of 3D networks takes 1.2 to 1.3 times as long, with whole convolutions in fp32 1.5 to 1.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SHAPES = (  # [B, C, T, H, W] on which the gradients of 3 x 3 x 3 convolutions were found to be wrong
    (1, 32, 2, 16, 16),  # avx512_bf16
    (1, 128, 3, 32, 32),  # AMX
)
TOLERANCE = 0.05  # relative; bf16 rounding gives 0.004


@contextmanager
def mixed_precision(device: torch.device, precision: str) -> Iterator[None]:
    """Autocast to bf16 where `precision` is "bf16"; on a CPU with weight gradients of 3D convolutions in fp32."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        if precision == "bf16" and device.type == "cpu":
            with _WeightGradientsInFloat32():
                yield
        else:
            yield


def bf16_conv3d_is_right() -> bool:
    """Whether this processor computes the weight gradients of the `SHAPES` right."""
    return all(weight_gradient_error(functional.conv3d, shape) < TOLERANCE for shape in SHAPES)


def weight_gradient_error(convolve: Callable[..., Tensor], shape: Sequence[int]) -> float:
    """The relative error of a bf16 weight gradient against fp32; not finite where the gradient is not."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(shape[1], shape[1], 3, 3, 3, generator=generator).requires_grad_()
    gradients: list[Tensor] = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = convolve(x, weight, padding=1)
        gradients += torch.autograd.grad(output.float().square().sum(), weight)
    exact, found = gradients
    return float((found - exact).norm() / exact.norm())


class _WeightGradientsInFloat32(TorchFunctionMode):
    """Replaces every 3D convolution that is called in it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ARGUMENTS:
            return _replaced(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Convolution(torch.autograd.Function):
    """`aten.convolution` in bf16, but for the gradients of weight and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings, ctx.bias_sizes = settings, None if bias is None else list(bias.shape)
        output: Tensor = torch.ops.aten.convolution(x, weight, bias, *settings)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        backward = torch.ops.aten.convolution_backward
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input, *_ = backward(gradient, x, weight, None, *ctx.settings, [True, False, False])
        has_bias = ctx.bias_sizes is not None
        float32 = (gradient.float(), x.float(), weight.float())
        _, of_weight, of_bias = backward(*float32, ctx.bias_sizes, *ctx.settings, [False, True, has_bias])
        return of_input, of_weight, of_bias, *(None for _ in ctx.settings)


_ARGUMENTS = {  # after input and weight, in torch's order
    torch.conv3d: ("bias", "stride", "padding", "dilation", "groups"),
    torch.conv_transpose3d: ("bias", "stride", "padding", "output_padding", "groups", "dilation"),
}
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}


def _replaced(function: Any, x: Tensor, weight: Tensor, *others: Any, **named: Any) -> Tensor:
    """What a function of `_ARGUMENTS` returns for these arguments."""
    given = {**_DEFAULTS, **dict(zip(_ARGUMENTS[function], others, strict=False)), **named}
    dilation, padding = _triple(given["dilation"]), given["padding"]
    if padding == "same":  # for odd kernels, as otherwise both sides differ
        padding = [side * (size - 1) // 2 for side, size in zip(dilation, weight.shape[2:], strict=True)]
    sizes = (_triple(given["stride"]), _triple(0 if padding == "valid" else padding), dilation)
    transposed, output_padding = function is torch.conv_transpose3d, _triple(given["output_padding"])
    return _convolve(x, weight, given["bias"], *sizes, transposed, output_padding, given["groups"])


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    if not torch.is_autocast_enabled("cpu"):  # a part of the model that wants fp32
        output: Tensor = torch.ops.aten.convolution(x, weight, bias, *settings)
        return output
    halves = [None if tensor is None else tensor.to(torch.bfloat16) for tensor in (x, weight, bias)]
    return _Convolution.apply(*halves, *settings)


def _triple(value: Any) -> list[int]:
    return [value] * 3 if isinstance(value, int) else list(value)
