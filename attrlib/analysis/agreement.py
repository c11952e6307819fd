"""Measure how far protocols agree: rank correlation of two protocols over methods, and over the items that both score."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
import torch

from attrlib.engine.results import RunResult, Score
from attrlib.specs import ProtocolSpec
from attrlib.statistics import Correlation, ranks, spearman

RESAMPLES = 1000
FEWEST_METHODS, FEWEST_ITEMS = 3, 5
"""Minimum numbers for a rank correlation, which with two methods is always 1 or -1."""
_WEIGHTS = 2**22
"""Number of bootstrap weights in memory at a time: 32 MiB."""

UNDEFINED = Correlation(math.nan, math.nan, math.nan, 0)
P = TypeVar("P")
Pair = tuple[ProtocolSpec, ProtocolSpec]
Scores = Mapping[str, Score]
"""The scores of one protocol by method."""
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Correlation (R,) of two protocols for R resamples, given the weights (R,n) and (R,m) of their items."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of two protocols.

    Attributes:
        over_methods: Rank correlation of the methods' means: do both protocols rank the methods alike?
        over_items: Rank correlation of the items' values, mean over the methods: do both find the same maps good?
    """

    over_methods: Correlation
    over_items: Correlation


def agreements(result: RunResult) -> Iterator[tuple[Pair, Agreement]]:
    """Yield each pair of protocols of a run with their agreement."""
    return pairwise({protocol: {str(m): score for m, score in result.of_protocol(protocol).items()} for protocol in result.protocols})


def pairwise(by_protocol: Mapping[P, Scores]) -> Iterator[tuple[tuple[P, P], Agreement]]:
    """Yield each pair of protocols with their agreement.

    Args:
        by_protocol: The scores of each protocol by method.

    Yields:
        Each pair once, in the order of `by_protocol`.
    """
    for a, b in combinations(by_protocol, 2):
        yield (a, b), Agreement(over_methods(by_protocol[a], by_protocol[b]), over_items(by_protocol[a], by_protocol[b]))


def over_methods(a: Scores, b: Scores, seed: int = 0, resamples: int = RESAMPLES) -> Correlation:
    """Return Spearman's correlation of the methods' means under two protocols, over the methods that both score.

    Means are negated where lower is better. The 95 % CI is the percentile bootstrap over the items, which are resampled jointly if
    both protocols score the same ones. It covers the choice of items, not the choice of methods.

    Args:
        a: The scores of one protocol.
        b: The scores of the other protocol.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.

    Returns:
        The correlation; undefined for fewer than three methods.
    """
    methods = [name for name in a if name in b and a[name].summary.n and b[name].summary.n]
    if len(methods) < FEWEST_METHODS:
        return UNDEFINED
    items_a, items_b = _items(a, methods), _items(b, methods)
    x, y = (np.stack([_oriented(scores[m], items) for m in methods]) for scores, items in ((a, items_a), (b, items_b)))

    def correlation(weights: np.ndarray, others: np.ndarray) -> np.ndarray:
        return spearman(torch.from_numpy(_means(x, weights)), torch.from_numpy(_means(y, others))).numpy()

    return _bootstrapped(correlation, (len(items_a), len(items_b)), items_a == items_b, len(methods), seed, resamples)


def over_items(a: Scores, b: Scores, seed: int = 0, resamples: int = RESAMPLES) -> Correlation:
    """Return Spearman's correlation of the items' values under two protocols, mean over the methods that both score.

    Values are negated where lower is better. Only items that both protocols score, and on which both are defined, count. The 95 % CI
    is the percentile bootstrap over the items, whose ranks are not recomputed.

    Args:
        a: The scores of one protocol.
        b: The scores of the other protocol.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.

    Returns:
        The correlation; undefined if the protocols share fewer than five items, as images and grids share none.
    """
    methods = [name for name in a if name in b]
    items_b = set(_items(b, methods))
    items = [item for item in _items(a, methods) if item in items_b]
    if len(items) < FEWEST_ITEMS:
        return UNDEFINED
    pairs = [np.stack([_oriented(scores[name], items) for scores in (a, b)]) for name in methods]
    defined = np.stack([np.isfinite(pair).all(0) for pair in pairs])
    x, y = (np.stack([_centred_ranks(pair[side], mask) for pair, mask in zip(pairs, defined, strict=True)]) for side in (0, 1))

    def correlation(weights: np.ndarray, _: np.ndarray) -> np.ndarray:
        return _mean_correlation(x, y, defined, weights)

    return _bootstrapped(correlation, (len(items), len(items)), True, len(items), seed, resamples)


def _bootstrapped(statistic: Statistic, sizes: tuple[int, int], joint: bool, n: int, seed: int, resamples: int) -> Correlation:
    """Return a correlation with its percentile bootstrap interval over the items.

    Args:
        statistic: Correlation given the weights of the items of both protocols.
        sizes: Number of items of each protocol.
        joint: Whether both protocols score the same items, which are then resampled jointly.
        n: What the correlation counts as `n`.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap resamples.
    """
    value = float(statistic(*(np.ones((1, size)) for size in sizes))[0])
    generator = np.random.Generator(np.random.SFC64(seed))
    resampled = []
    for rows in _chunks(resamples, max(sizes)):
        weights = _draw(generator, rows, sizes[0])
        resampled.append(statistic(weights, weights if joint else _draw(generator, rows, sizes[1])))
    values = np.concatenate(resampled)
    finite = values[np.isfinite(values)]
    if math.isnan(value) or not len(finite):
        return Correlation(value, math.nan, math.nan, n)
    low, high = (float(end) for end in np.quantile(finite, [0.025, 0.975]))
    return Correlation(value, min(low, value), max(high, value), n)


def _items(scores: Scores, methods: list[str]) -> list[str]:
    """Return the items that the scores of all methods share, in the order of the first."""
    shared = set.intersection(*(set(scores[name].keys) for name in methods)) if methods else set()
    return [item for item in scores[methods[0]].keys if item in shared] if methods else []


def _oriented(score: Score, items: list[str]) -> np.ndarray:
    """Return the values of some items as they count in the mean, negated if lower is better."""
    by_item = dict(zip(score.keys, score.counted, strict=True))
    return score.sign * np.array([by_item[item] for item in items])


def _chunks(resamples: int, items: int) -> Iterator[int]:
    step = max(1, _WEIGHTS // max(1, items))
    yield from (min(step, resamples - first) for first in range(0, resamples, step))


def _draw(generator: np.random.Generator, rows: int, items: int) -> np.ndarray:
    """Return how often each item is in each resample, (rows, items)."""
    return generator.multinomial(items, np.full(items, 1 / items), size=rows).astype(np.float64)


def _means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the means (R,k) of k methods over their defined values (k,n), with weights (R,n)."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return weights @ np.where(defined, values, 0.0).T / (weights @ defined.T)


def _centred_ranks(values: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Return the ranks less their mean, 0 where undefined."""
    centred = np.zeros(len(values))
    centred[defined] = ranks(torch.from_numpy(values[defined])[None]).numpy()[0] - (defined.sum() + 1) / 2
    return centred


def _mean_correlation(x: np.ndarray, y: np.ndarray, defined: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of ranks (k,n) with weights (R,n), mean (R) over the methods where it is defined."""
    count = weights @ defined.T
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = weights @ x.T / count, weights @ y.T / count
        covariance = weights @ (x * y).T / count - mean_x * mean_y
        spread = (weights @ (x * x).T / count - mean_x**2) * (weights @ (y * y).T / count - mean_y**2)
        correlations = np.where(spread > 1e-9, covariance / np.sqrt(spread), math.nan)
    some = np.isfinite(correlations)
    return np.where(some.any(1), np.where(some, correlations, 0.0).sum(1) / np.maximum(some.sum(1), 1), math.nan)
