"""How closely numbers must agree that were computed in another order, and the seed of made-up data.

A sum of n float32 terms of magnitude m has a rounding error of about sqrt(n) 6e-8 m, up to n 6e-8 m, whatever its value: which of
the two depends on the processor's order of summation. Bounds are therefore shares of the magnitude of what was summed.
"""

import os

import torch
from torch import Tensor

SEED = int(os.environ.get("ATTRLIB_TEST_SEED", "0"))
"""Added to the seeds of made-up weights and pictures: no claim may depend on which ones are drawn.

What makes a test sharp may: that a map is not zero, or that two choices differ, is asserted of the pictures of seed 0 alone.
"""


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4, scale: Tensor | float | None = None) -> bool:
    """Return whether two tensors agree up to a share of a magnitude.

    Args:
        actual: Tensor of any shape.
        expected: Tensor of the same shape.
        tolerance: The largest error, as a share of the magnitude.
        scale: The magnitude of the terms whose sums are compared (a number, or a tensor whose largest magnitude counts), where terms
            cancel; by default the largest magnitude of `expected`.
    """
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape
    # With other seeds a rectified map may well be zero everywhere.
    assert SEED or float(expected.abs().max()) > 0, "a comparison with zeros proves nothing"
    magnitude = float(torch.as_tensor(expected if scale is None else scale).detach().abs().max())
    return float((actual - expected).abs().max()) <= tolerance * magnitude


def rank_tolerance(*values: Tensor, share: float = 1e-5) -> float:
    """Return by how much rounding may change Spearman's correlation of these values, each (N,).

    Values closer than `share` of the largest magnitude may change places. Exchanging two neighbours in rank moves the correlation by
    at most 12 / (N^2 - 1); in a run of m values that close to each other there are m (m - 1) / 2 such exchanges. Equal values stay
    equal.
    """
    bound = 0.0
    for own in values:
        ordered = own.detach().double().flatten().unique()
        near = (ordered.diff() <= share * ordered.abs().max()).tolist()
        run = exchanges = 0
        for together in [*near, False]:
            run = run + 1 if together else 0
            exchanges += run
        bound += 12 * exchanges / (own.numel() ** 2 - 1)
    return bound
