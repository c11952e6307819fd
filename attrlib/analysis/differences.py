"""Paired differences between scores, over the items that both share."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from attrlib.engine.results import Score
from attrlib.statistics import Difference, paired_difference


def aligned(a: Score, b: Score) -> tuple[np.ndarray, np.ndarray]:
    """Return the counted values of the items that both scores share, in the same order.

    Args:
        a: A score.
        b: Another score, whose items may be others or in another order.

    Returns:
        The values of both, (n,) each, in the order of `a`.
    """
    values = dict(zip(b.keys, b.counted, strict=True))
    pairs = [(value, values[item]) for item, value in zip(a.keys, a.counted, strict=True) if item in values]
    return np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])


def paired(a: Score, b: Score) -> Difference:
    """Return how much higher `a` is than `b` on the items that both scores share, with the bootstrap interval."""
    return paired_difference(*aligned(a, b))


def between_methods(scores: Mapping[str, Score]) -> dict[tuple[str, str], Difference]:
    """Return for each pair of methods how much higher the first scores than the second.

    Args:
        scores: The scores of one protocol by method.
    """
    return {(a, b): paired(scores[a], scores[b]) for a, b in combinations(scores, 2)}


def from_best(scores: Mapping[str, Score], ranking: Sequence[str]) -> Iterator[tuple[str, Difference]]:
    """Yield each method but the best with how much higher it scores than the best.

    Args:
        scores: The scores of one protocol by method.
        ranking: The methods, best first.
    """
    best, *others = ranking
    for name in others:
        yield name, paired(scores[name], scores[best])
