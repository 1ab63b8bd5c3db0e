"""Counter-based random numbers: one for each (seed, sample, token of the video), or (seed, sample, draw of training).

A number is a hash of its counter, so there is no state: a sample's numbers depend neither on the batch, nor on the
number of devices, nor on the window in which a token is sampled. The hash is the finalizer of SplitMix64 (Steele, Lea
and Flood 2014, "Fast splittable pseudorandom number generators", section 4), once for each part of the counter. In
numpy, so that the numbers are the same on every device.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: the increment of SplitMix64
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def uniforms(seed: int, samples: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[B, n], strictly between 0 and 1, for the ids of samples [B] and of tokens [n], not negative."""
    bits = _hash(seed, samples, tokens)
    # 52 bits and a half: with 53 the largest number would round to 1
    return np.asarray((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def seeds(seed: int, samples: npt.NDArray[np.int64], draws: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[B, n], 63 bits each, for the numbers of samples [B] and of their draws [n], not negative."""
    return (_hash(seed, samples, draws) >> np.uint64(1)).astype(np.int64)


def _hash(seed: int, samples: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64]) -> UInt64s:
    state = _mix(_mix(_counter(seed) ^ _GOLDEN) + samples.astype(np.uint64))
    return _mix(_mix(state[:, None] + tokens.astype(np.uint64)))


def _counter(seed: int) -> UInt64s:
    return np.array([seed % 2**64], dtype=np.uint64)  # an array, as numpy warns of overflow in scalars


def _mix(counter: UInt64s) -> UInt64s:
    """An increment and the finalizer, which `data/order.py` has without the increment."""
    mixed = counter + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MULTIPLIERS[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MULTIPLIERS[1]
    return mixed ^ (mixed >> np.uint64(31))
