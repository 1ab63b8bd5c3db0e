"""Codes that another tokenizer made, as an npy file: they enter a cache without one of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tokenreel.data.sources.numpy_files import load_npy
from tokenreel.errors import DataError


def read_foreign_codes(path: Path) -> np.ndarray:
    """Codes [N, t, h, w, q] of any integer type, mapped into memory; a file with [N, t, h, w] gets q = 1.

    Raises DataError for anything else, for an empty array and for negative codes.
    """
    codes = load_npy(path)
    if codes.dtype.kind not in "iu":
        raise DataError(f"{path}: codes must be whole numbers, these are {codes.dtype}")
    if codes.ndim not in (4, 5) or 0 in codes.shape:
        raise DataError(f"{path}: expected codes [N, t, h, w, q] or [N, t, h, w], got {list(codes.shape)}")
    if codes.dtype.kind == "i" and codes.min() < 0:
        raise DataError(f"{path}: the smallest code is {codes.min()}; codes start at 0")
    return codes if codes.ndim == 5 else codes[..., None]
