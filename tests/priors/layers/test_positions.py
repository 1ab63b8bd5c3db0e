"""Sinusoidal embeddings: the properties that make them encode positions."""

from __future__ import annotations

import itertools

import torch

from tokenreel.priors.layers.positions import sinusoids

SHAPE = (7, 3, 5)
WIDTH = 31  # 5 waves per axis, and one channel left over


def test_every_location_has_its_own_vector() -> None:
    signal = sinusoids(SHAPE, WIDTH)
    assert signal.shape == (105, WIDTH)
    distances = torch.cdist(signal, signal) + torch.eye(105) * 9
    assert distances.min() > 0.5


def test_a_shift_is_the_same_rotation_everywhere() -> None:
    """So attention can learn a distance: a shift of `by` rotates sine and cosine by `by` times the frequency."""
    sine, cosine = _waves()
    frequencies = 1e4 ** (-torch.arange(5) / 5)
    for axis, by in itertools.product(range(3), (1, 2)):
        angle = by * frequencies
        length = SHAPE[axis] - by
        sin, cos = (x[..., axis, :].narrow(axis, 0, length) for x in (sine, cosine))
        shifted = [x[..., axis, :].narrow(axis, by, length) for x in (sine, cosine)]
        torch.testing.assert_close(shifted[0], sin * angle.cos() + cos * angle.sin())
        torch.testing.assert_close(shifted[1], cos * angle.cos() - sin * angle.sin())


def test_each_axis_has_its_own_channels() -> None:
    sine, cosine = _waves()
    for waves in (sine, cosine):
        t, h, w = waves.unbind(3)
        assert torch.equal(t, t[:, :1, :1].expand_as(t))
        assert torch.equal(h, h[:1, :, :1].expand_as(h))
        assert torch.equal(w, w[:1, :1].expand_as(w))


def test_the_default_device_does_not_matter() -> None:
    with torch.device("meta"):
        signal = sinusoids(SHAPE, WIDTH)
    assert torch.equal(signal, sinusoids(SHAPE, WIDTH))


def _waves() -> tuple[torch.Tensor, torch.Tensor]:
    """Sines and cosines [t, h, w, axis, wave]; checks that the channel left over is zero."""
    signal = sinusoids(SHAPE, WIDTH)
    assert not signal[:, 30:].any()
    sine, cosine = signal[:, :30].view(*SHAPE, 3, 2, 5).unbind(-2)
    return sine, cosine
