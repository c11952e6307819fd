"""Measure how far protocols agree: rank correlation of two protocols over methods, and over the items that both score."""

import math
from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import torch

from attrlib.engine.results import RunResult, Score
from attrlib.specs import ProtocolSpec
from attrlib.statistics import Correlation, ranks, spearman

RESAMPLES = 1000
FEWEST_METHODS, FEWEST_ITEMS = 3, 5
"""Minimum numbers for a rank correlation, which with two methods is always 1 or -1."""
_CELLS = 2**22
"""Number of bootstrap weights in memory at a time: 32 MiB."""


UNDEFINED = Correlation(math.nan, math.nan, math.nan, 0)
Pair = tuple[ProtocolSpec, ProtocolSpec]
Scores = Mapping[str, Score]
"""The scores of one protocol by method."""


def agreements(result: RunResult) -> Iterator[tuple[Pair, Correlation, Correlation]]:
    """Yield for each pair of protocols of a run their rank correlation over methods, and over items."""
    by_protocol: dict[ProtocolSpec, dict[str, Score]] = {}
    for (protocol, method), score in result.scores.items():
        by_protocol.setdefault(protocol, {})[str(method)] = score
    for a, b in combinations(by_protocol, 2):
        yield (a, b), over_methods(by_protocol[a], by_protocol[b]), over_items(by_protocol[a], by_protocol[b])


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
    first, second = (np.stack([_oriented(scores[name], _items(scores, methods)) for name in methods]) for scores in (a, b))
    same = _items(a, methods) == _items(b, methods)
    generator = np.random.Generator(np.random.SFC64(seed))
    found = []
    for rows in _chunks(resamples, max(first.shape[1], second.shape[1])):
        weights = _draw(generator, rows, first.shape[1])
        others = weights if same else _draw(generator, rows, second.shape[1])
        found.append(_spearman(_means(first, weights), _means(second, others)))
    value = _spearman(_means(first), _means(second))[0]
    return _interval(float(value), np.concatenate(found), len(methods))


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
    known = set(_items(b, methods))
    items = [item for item in _items(a, methods) if item in known]
    if len(items) < FEWEST_ITEMS:
        return UNDEFINED
    pairs = [np.stack([_oriented(scores[name], items) for scores in (a, b)]) for name in methods]
    defined = np.stack([np.isfinite(pair).all(0) for pair in pairs])
    x, y = (np.stack([_centred_ranks(pair[side], own) for pair, own in zip(pairs, defined, strict=True)]) for side in (0, 1))
    generator = np.random.Generator(np.random.SFC64(seed))
    found = [_mean_correlation(x, y, defined, _draw(generator, rows, len(items))) for rows in _chunks(resamples, len(items))]
    value = _mean_correlation(x, y, defined, np.ones((1, len(items))))[0]
    return _interval(float(value), np.concatenate(found), len(items))


def _items(scores: Scores, methods: list[str]) -> list[str]:
    """Return the items that the scores of all methods share, in the order of the first."""
    shared = set.intersection(*(set(scores[name].ids) for name in methods)) if methods else set()
    return [item for item in scores[methods[0]].ids if item in shared] if methods else []


def _oriented(score: Score, items: list[str]) -> np.ndarray:
    """Return the values of some items as they count in the mean, negated if lower is better."""
    by_item = dict(zip(score.ids, score.counted, strict=True))
    return (1 if score.protocol.higher_is_better else -1) * np.array([by_item[item] for item in items])


def _chunks(resamples: int, items: int) -> Iterator[int]:
    step = max(1, _CELLS // max(1, items))
    yield from (min(step, resamples - first) for first in range(0, resamples, step))


def _draw(generator: np.random.Generator, rows: int, items: int) -> np.ndarray:
    """Return how often each item is in each resample, (rows, items)."""
    return generator.multinomial(items, np.full(items, 1 / items), size=rows).astype(np.float64)


def _means(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the means (R,k) of k methods over their defined values (k,n), with weights (R,n)."""
    weights = np.ones((1, values.shape[1])) if weights is None else weights
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return weights @ np.where(defined, values, 0.0).T / (weights @ defined.T)


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return spearman(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def _centred_ranks(values: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Return the ranks less their mean, 0 where undefined."""
    found = np.zeros(len(values))
    found[defined] = ranks(torch.from_numpy(values[defined])[None]).numpy()[0] - (defined.sum() + 1) / 2
    return found


def _mean_correlation(x: np.ndarray, y: np.ndarray, defined: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of ranks (k,n) with weights (R,n), mean (R) over the methods where it is defined."""
    count = weights @ defined.T
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = weights @ x.T / count, weights @ y.T / count
        covariance = weights @ (x * y).T / count - mean_x * mean_y
        spread = (weights @ (x * x).T / count - mean_x**2) * (weights @ (y * y).T / count - mean_y**2)
        found = np.where(spread > 1e-9, covariance / np.sqrt(spread), math.nan)
    some = np.isfinite(found)
    return np.where(some.any(1), np.where(some, found, 0.0).sum(1) / np.maximum(some.sum(1), 1), math.nan)


def _interval(value: float, resampled: np.ndarray, n: int) -> Correlation:
    finite = resampled[np.isfinite(resampled)]
    if math.isnan(value) or not len(finite):
        return Correlation(value, math.nan, math.nan, n)
    low, high = (float(end) for end in np.quantile(finite, [0.025, 0.975]))
    return Correlation(value, min(low, value), max(high, value), n)
