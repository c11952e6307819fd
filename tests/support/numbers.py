"""Tolerances for numbers computed in a different order, and the seed of synthetic data.

A sum of n float32 terms of magnitude m has a rounding error of about sqrt(n) 6e-8 m and at most n 6e-8 m, whatever its value. Where the
error lies in between depends on the order of summation of the processor. Bounds are therefore shares of the magnitude of the terms.
"""

import os

import torch
from torch import Tensor

SEED = int(os.environ.get("ATTRLIB_TEST_SEED", "0"))
"""Added to the seeds of synthetic weights and pictures: no assertion may depend on which ones are drawn.

Assertions that a test is not trivial may, for example that a map is not zero or that two choices differ: they apply to seed 0 only.
"""


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4, scale: Tensor | float | None = None) -> bool:
    """Return whether two tensors agree up to a share of a magnitude.

    Args:
        actual: Tensor of any shape.
        expected: Tensor of the same shape.
        tolerance: Largest error, as a share of the magnitude.
        scale: Magnitude of the summed terms, needed where terms cancel: a number, or a tensor whose largest magnitude counts. Defaults to
            the largest magnitude of `expected`.
    """
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape
    # With other seeds, a rectified map may be zero everywhere.
    assert SEED or float(expected.abs().max()) > 0, "a comparison with zeros proves nothing"
    magnitude = float(torch.as_tensor(expected if scale is None else scale).detach().abs().max())
    return float((actual - expected).abs().max()) <= tolerance * magnitude


def rank_tolerance(*values: Tensor, share: float = 1e-5) -> float:
    """Return the largest change of Spearman's correlation due to rounding.

    Values closer than `share` of the largest magnitude may swap ranks. Swapping two neighbouring ranks moves the correlation by at most
    12 / (N^2 - 1); a run of m values that are this close allows m (m - 1) / 2 swaps. Equal values stay equal.

    Args:
        *values: Values whose ranks are correlated, each (N,).
        share: Largest rounding error, as a share of the largest magnitude.
    """
    bound = 0.0
    for sample in values:
        ordered = sample.detach().double().flatten().unique()
        near = (ordered.diff() <= share * ordered.abs().max()).tolist()
        run = exchanges = 0
        for together in [*near, False]:
            run = run + 1 if together else 0
            exchanges += run
        bound += 12 * exchanges / (sample.numel() ** 2 - 1)
    return bound
