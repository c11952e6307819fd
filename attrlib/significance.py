"""Tests of the means of several names at once, corrected for their number: ranges of ranks, and means above a level."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from attrlib.statistics import LEVEL, Summary, differences_of, summary


@dataclass(frozen=True)
class Place:
    """A method in a rank table: its mean, and the `first` and `last` rank (from 1) that it may hold given the data."""

    name: str
    summary: Summary
    first: int
    last: int

    @property
    def ranks(self) -> str:
        """Return the ranks that it may hold: one number, or first and last rank of a tie."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def rank_table(values: Mapping[str, np.ndarray], higher_is_better: bool = True) -> list[Place]:
    """Return the methods by their mean, best first, each with the range of ranks that it may hold.

    `first` is 1 + the number of methods that are significantly better; `last` is the number of methods that are not significantly worse,
    itself included. Two methods differ significantly if the paired t test of their mean difference, over the items where both are
    finite, rejects at 5 % after Holm's correction over all pairs. So with probability 95 % all ranges contain the true ranks at once
    (Mogstad et al., Review of Economic Studies 2024, doi 10.1093/restud/rdad006). A p value is never below 2^(1-m), the chance that m
    nonzero differences all have the same sign: a few items prove nothing, however similar their differences.

    The ranges are not bootstrapped: the correction needs p values near 1e-4, which 10,000 resamples cannot resolve, while a t test uses
    each pair's own items and is deterministic. In exchange, a pair that differs significantly by `paired_difference` may be tied here.

    Equal means keep the given order. A method without a finite value comes last and may hold any rank, so it also counts towards the
    last rank of every other method. With undefined values the means are over different items, and the order may differ from that of the
    ranges.

    Args:
        values: Values per item by name of the method, all in the same order of items; NaN where undefined.
        higher_is_better: Whether a higher mean is better.

    Raises:
        DataError: If the lengths differ.
    """
    items = [np.asarray(each, dtype=np.float64) for each in values.values()]
    wins = _wins(items, higher_is_better)
    first, last = 1 + wins.sum(0), len(items) - wins.sum(1)
    places = [Place(name, summary(items[i]), int(first[i]), int(last[i])) for i, name in enumerate(values)]
    sign = -1 if higher_is_better else 1
    return sorted(places, key=lambda place: sign * place.summary.mean if place.summary.n else math.inf)


def exceeding(values: Mapping[str, np.ndarray], level: float = 0.0) -> dict[str, bool]:
    """Return for each name whether its mean is significantly above a level.

    That is the case if the one-sided t test of its finite values rejects at 5 % after Holm's correction over the names. As in
    `rank_table`, a p value is never below 2^(-m) for m values that differ from the level.

    Args:
        values: Values by name.
        level: The level.

    Example:
        >>> exceeding({"a": np.arange(1.0, 12.0), "b": np.arange(-5.0, 6.0)})
        {'a': True, 'b': False}
    """
    p = []
    for each in values.values():
        differences = differences_of(each, np.full(np.shape(each), level))
        mean, both_sides = _paired_test(differences)
        p.append(both_sides / 2 if mean > 0 else 1 - both_sides / 2)
    return dict(zip(values, (_holm(np.array(p)) <= LEVEL).tolist(), strict=True)) if p else {}


def _wins(items: list[np.ndarray], higher_is_better: bool) -> np.ndarray:
    """Return booleans (k,k): whether method i is significantly better than method j."""
    rows, columns = np.triu_indices(len(items), 1)
    tests = [_paired_test(differences_of(items[i], items[j])) for i, j in zip(rows, columns, strict=True)]
    means, p = np.array(tests).reshape(-1, 2).T
    signs = np.where(_holm(p) <= LEVEL, np.sign(means), 0) * (1 if higher_is_better else -1)
    wins = np.zeros((len(items), len(items)), dtype=bool)
    wins[rows, columns] = signs > 0
    wins[columns, rows] = signs < 0
    return wins


def _paired_test(differences: np.ndarray) -> tuple[float, float]:
    """Return the mean difference and its two-sided p value by Student's t test, not below 2^(1-m) for m nonzero differences."""
    nonzero = np.count_nonzero(differences)
    if nonzero < 2:
        return 0.0, 1.0
    mean, n = float(differences.mean()), len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    t = abs(mean) / error if error else math.inf
    return mean, max(2 * float(stdtr(n - 1, -t)), 2.0 ** (1 - nonzero))


def _holm(p: np.ndarray) -> np.ndarray:
    """Apply Holm's step-down adjustment: multiply the i-th smallest of N p values by N - i + 1, none below its predecessor."""
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return adjusted
