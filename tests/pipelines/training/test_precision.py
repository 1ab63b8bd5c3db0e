"""Weight gradients of bf16 3D convolutions against fp32; outputs and input gradients are those of autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenreel.pipelines.training.precision import SHAPES, TOLERANCE, mixed_precision, weight_gradient_error

CPU = torch.device("cpu")
CASES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "padded": lambda x, w, b: functional.conv3d(x, w, b, padding=1),
    "same": lambda x, w, b: functional.conv3d(x, w, b, padding="same", dilation=(1, 2, 1)),
    "strided": lambda x, w, b: functional.conv3d(x, w, b, (1, 2, 2), (1, 0, 1)),
    "grouped": lambda x, w, b: functional.conv3d(x, w[:, :1], b, groups=6, padding=1),
    "without bias": lambda x, w, _: functional.conv3d(x, w),
    "transposed": lambda x, w, b: functional.conv_transpose3d(x, w, b, 2, padding=1, output_padding=(0, 1, 0)),
    "by position": lambda x, w, b: functional.conv3d(x, w, b, (1, 2, 1), 1, (1, 1, 2), 1),
    "transposed by position": lambda x, w, b: functional.conv_transpose3d(x, w, b, 2, 1, (0, 1, 0), 1, (1, 2, 1)),
}


def gradients(convolve: Callable[[Tensor, Tensor, Tensor], Tensor], steps: int, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients of x, weight and bias, of the same numbers, rounded to bf16."""
    generator = torch.Generator().manual_seed(steps)
    shapes = ((2, 6, steps, 7, 5), (6, 6, 3, 3, 3), (6,))
    inputs = [torch.randn(shape, generator=generator).bfloat16().to(dtype).requires_grad_() for shape in shapes]
    output = convolve(*inputs)
    found = torch.autograd.grad(output.double().square().sum(), inputs, allow_unused=True)
    return [output, *(gradient for gradient in found if gradient is not None)]


@pytest.mark.parametrize("steps", [3, 4, 5])
@pytest.mark.parametrize("case", CASES)
def test_a_convolution_is_that_of_float64(case: str, steps: int) -> None:
    expected = gradients(CASES[case], steps, torch.float64)
    with mixed_precision(CPU, "bf16"):
        found = gradients(CASES[case], steps, torch.float32)
    assert found[0].dtype == torch.bfloat16
    for tensor, exact in zip(found, expected, strict=True):
        assert (tensor.double() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_autocast(case: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(CASES[case], 4, torch.float32)[0]
    with mixed_precision(CPU, "bf16"):
        assert torch.equal(gradients(CASES[case], 4, torch.float32)[0], expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weight_gradients_are_right_where_a_processor_has_them_wrong(shape: tuple[int, ...]) -> None:
    with mixed_precision(CPU, "bf16"):
        assert weight_gradient_error(functional.conv3d, shape) < TOLERANCE


def test_what_wants_float32_gets_it() -> None:
    convolution, x = nn.Conv3d(3, 5, 3), torch.randn(2, 3, 3, 5, 7)
    with mixed_precision(CPU, "bf16"), torch.autocast("cpu", enabled=False):
        assert torch.equal(convolution(x), functional.conv3d(x, convolution.weight, convolution.bias))
        assert convolution(x).dtype == torch.float32
    with mixed_precision(CPU, "fp32"):
        assert convolution(x).dtype == torch.float32


def test_a_second_derivative_is_had() -> None:
    """As a penalty of gradients needs."""
    convolution, x = nn.Conv3d(2, 3, 3, padding=1), torch.randn(2, 2, 3, 5, 7, requires_grad=True)
    with mixed_precision(CPU, "bf16"):
        (first,) = torch.autograd.grad(convolution(x).float().square().sum(), x, create_graph=True)
        first.square().sum().backward()
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.isfinite().all()
