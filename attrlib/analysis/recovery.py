"""How well a protocol recovers the order of maps that are right to a known degree."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtri

from attrlib.statistics import LEVEL, spearman

POWER = 0.8
"""Probability with which the counted number of images tells two degrees apart."""


@dataclass(frozen=True, eq=False)
class Recovery:
    """How well a protocol recovers the known order of maps.

    Attributes:
        values: For each image, Spearman's correlation of a map's rightness with its score, averaged over the kinds of damage, (n,). 1 is
            the known order, 0 what a score without information has on average. A kind whose scores are all equal counts as 0; an image
            with an undefined score is NaN.
        kinds: Its mean over images for each kind of damage.
        errors: Share of pairs of degrees of damage that the score orders wrongly on a single image; a tie counts as half an error.
        images: Number of images that tell two neighbouring degrees of damage apart, the median over all neighbours; infinite where the
            worse map scores as high or higher.
        reactions: By the name of a change that should not matter, how far it moves the mean score, as a share of the distance from the
            truth to the worst map.
    """

    values: np.ndarray
    kinds: tuple[float, ...]
    errors: float
    images: float
    reactions: Mapping[str, float]


def recovery(damaged: Sequence[np.ndarray], changed: Mapping[str, np.ndarray], sign: int) -> Recovery:
    """Compare the scores of maps that are right to a known degree with their order.

    Args:
        damaged: For each kind of damage the scores (d,n) of d maps of n images, the truth first, the most damaged map last.
        changed: The scores (n) of the truth after changes that should not matter, by name.
        sign: 1 if a higher score is better, -1 if a lower one is.

    Example:
        >>> import numpy as np
        >>> found = recovery([np.array([[3.0, 5.0], [2.0, 4.0], [1.0, 4.5]])], {}, sign=1)
        >>> found.values, round(found.errors, 3)
        (array([1. , 0.5]), 0.167)
    """
    scores = np.stack(damaged).astype(np.float64) * sign
    kinds, degrees, n = scores.shape
    rightness = torch.arange(degrees, 0, -1, dtype=torch.float64).expand(kinds * n, degrees)
    by_image = scores.transpose(0, 2, 1)
    correlations = spearman(rightness, torch.from_numpy(np.ascontiguousarray(by_image.reshape(-1, degrees)))).numpy().reshape(kinds, n)
    constant = (by_image == by_image[..., :1]).all(2)
    by_kind = np.where(constant, 0.0, correlations)
    defined = np.isfinite(scores).all((0, 1))
    values = np.where(defined, by_kind.mean(0), math.nan)
    kept = scores[:, :, defined]
    of_kinds = tuple(by_kind[:, defined].mean(1).tolist()) if defined.any() else (math.nan,) * kinds
    reactions = {name: _reaction(kept, change[defined] * sign) for name, change in changed.items()}
    return Recovery(values, of_kinds, _errors(kept), _images(kept), reactions)


def _errors(scores: np.ndarray) -> float:
    """Return the share of pairs of degrees in the wrong order, given scores (kinds,degrees,n)."""
    better, worse = np.triu_indices(scores.shape[1], 1)
    gaps = scores[:, better] - scores[:, worse]
    return float(np.where(gaps < 0, 1.0, np.where(gaps == 0, 0.5, 0.0)).mean()) if gaps.size else math.nan


def _images(scores: np.ndarray) -> float:
    """Return the median over neighbours of n = ((z(1 - a/2) + z(power)) s / m)^2, with m and s of the paired differences, at least 2."""
    if scores.shape[2] < 2:
        return math.nan
    gaps = scores[:, :-1] - scores[:, 1:]
    means, spreads = gaps.mean(2).ravel(), gaps.std(2, ddof=1).ravel()
    quantile = -float(ndtri(LEVEL / 2)) + float(ndtri(POWER))
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.where(means > 0, np.maximum(np.ceil((quantile * spreads / means) ** 2), 2), np.inf)
    # The median of an even number of values lies between two, of which one may be infinite.
    return float(np.sort(needed)[len(needed) // 2])


def _reaction(scores: np.ndarray, changed: np.ndarray) -> float:
    if not scores.size:
        return math.nan
    truth, worst = scores[:, 0].mean(), scores[:, -1].mean()
    distance = abs(truth - worst)
    return float(abs(changed.mean() - truth) / distance) if distance else math.nan
