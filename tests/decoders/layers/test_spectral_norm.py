"""Spectral normalisation against singular value decompositions, and when its power iteration runs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tokenreel.decoders.layers import spectral_norm


def _network() -> nn.Sequential:
    """Two normalised layers of random weights, which are not orthogonal."""
    network = nn.Sequential(nn.Conv2d(5, 7, 3), nn.Flatten(), nn.Linear(28, 3)).double()
    spectral_norm.initialise(network)
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.parametrizations.weight.original.normal_()
    return network


def _largest_singular_value(weight: Tensor) -> float:
    return torch.linalg.svdvals(weight.detach().flatten(1))[0].item()


def test_the_largest_singular_value_becomes_one() -> None:
    network = _network()
    spectral_norm.advance(network, 500)
    for layer in (network[0], network[2]):
        original = layer.parametrizations.weight.original
        torch.testing.assert_close(layer.weight, original / _largest_singular_value(original))


def test_reading_a_weight_does_not_advance_and_one_iteration_is_that_of_the_paper() -> None:
    layer = _network().train()[0]
    norm, matrix = layer.parametrizations.weight[0], layer.parametrizations.weight.original.detach().flatten(1)
    assert torch.equal(layer.weight, layer.weight)
    u = matrix @ norm.v
    u = u / u.norm()
    v = matrix.T @ u
    v = v / v.norm()
    spectral_norm.advance(layer)
    torch.testing.assert_close(norm.u, u)
    torch.testing.assert_close(norm.v, v)
    torch.testing.assert_close(layer.weight.flatten(1), matrix / (u @ matrix @ v))


def test_the_scale_of_a_weight_has_no_gradient() -> None:
    """W / sigma is the same for any multiple of W, with the vectors held as in the paper."""
    layer = _network()[2]
    original = layer.parametrizations.weight.original
    (layer.weight * torch.randn(3, 28, dtype=torch.float64)).sum().backward()
    assert original.grad.norm() > 0.01
    assert abs((original.grad * original).sum().item()) < 1e-12


def test_vectors_may_advance_between_a_forward_and_a_backward_pass() -> None:
    network, x = _network(), torch.randn(2, 5, 4, 4, dtype=torch.float64)
    expected = torch.autograd.grad(network(x).sum(), list(network.parameters()))
    output = network(x)
    spectral_norm.advance(network)
    for gradient, same in zip(torch.autograd.grad(output.sum(), list(network.parameters())), expected, strict=True):
        torch.testing.assert_close(gradient, same)


def test_baked_layers_are_plain_and_leave_the_network_that_was_copied_intact() -> None:
    network, x = _network(), torch.randn(2, 5, 4, 4, dtype=torch.float64)
    before = network(x)
    baked = copy.deepcopy(network)
    spectral_norm.bake(baked)
    assert [type(layer) for layer in baked] == [nn.Conv2d, nn.Flatten, nn.Linear]
    assert set(baked.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert not spectral_norm.is_normalised(baked)
    assert spectral_norm.is_normalised(network)
    for layer in (baked[0], baked[2]):
        assert abs(_largest_singular_value(layer.weight) - 1) < 0.01  # after 50 iterations
        assert layer.weight.requires_grad
    torch.testing.assert_close(network(x), before)


def test_initial_weights_are_orthogonal_and_biases_zero() -> None:
    network = nn.ModuleList([nn.Conv3d(2, 7, 3), nn.Linear(5, 3), nn.Linear(3, 5, bias=False)]).double()
    spectral_norm.initialise(network, unnormalised=(network[2],))
    assert not spectral_norm.is_normalised(network[2])
    for layer in network:
        rows = layer.weight.detach().flatten(1)
        product = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
        torch.testing.assert_close(product, torch.eye(len(product), dtype=torch.float64))
    assert not any(layer.bias.any() for layer in network[:2])


def test_singular_values_are_of_fp32_under_autocast() -> None:
    network = _network().float()
    copied = copy.deepcopy(network)
    spectral_norm.advance(network)
    expected = network[0].weight
    with torch.autocast("cpu", torch.bfloat16):
        spectral_norm.advance(copied)
        assert torch.equal(copied[0].weight, expected)
