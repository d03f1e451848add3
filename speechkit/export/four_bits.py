"""Weights of four bits, two to a byte: the first in the lower half."""

import numpy as np


def fits_four_bits(weight: np.ndarray) -> bool:
    """Whether all of int8 `weight` lie in [-8, 7]."""
    return bool(weight.min() >= -8 and weight.max() <= 7)


def pack_rows(rows: np.ndarray) -> np.ndarray:
    """int8 (R, N) in [-8, 7] -> uint8 (R, N / 2, rounded up); each row begins a byte, and a last half is 0."""
    nibbles = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).view(np.uint8) & 15
    return nibbles[:, 0::2] | nibbles[:, 1::2] << 4
