"""From values per item to claims: rank correlation, intervals of a mean, paired differences, and the ranks that methods may hold."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, ndtri, stdtr, stdtrit
from torch import Tensor

from attrlib.errors import DataError, SpecError

LEVEL = 0.05
"""Share of intervals that miss the true mean, and of rank tables with any false claim."""
FEWEST = 5
"""Differences from which on the bootstrap is used: of fewer even the whole range holds the true mean less than nine times in ten."""
CHUNK = 2**20
"""Items drawn at a time, unless one resample needs more: 16 MiB of indices and values, whatever the number of resamples."""


def ranks(values: Tensor) -> Tensor:
    """Ranks along the last dimension of (...,k), from 1, ties at their average; float64 of the same shape, on the CPU.

    With L values below a value and U not above it, the rank is (L + 1 + U) / 2. A row that holds a NaN is NaN.
    """
    # On the CPU, because not every device has float64.
    values = values.detach().cpu().contiguous()
    ordered = values.sort(dim=-1).values.contiguous()
    below = torch.searchsorted(ordered, values)
    not_above = torch.searchsorted(ordered, values, right=True)
    return ((below + 1 + not_above).double() / 2).masked_fill(values.isnan().any(-1, keepdim=True), math.nan)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of each row of (N,k) with the same row of another (N,k): float64 (N,), on the CPU.

    Pearson's correlation of the average ranks. NaN, that is undefined, where either row is constant or holds a NaN or an infinity.
    Raises `DataError` if the shapes differ.
    """
    if a.shape != b.shape:
        raise DataError(f"values of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be correlated: both must be the same (N,k)")
    finite = (torch.isfinite(a) & torch.isfinite(b)).all(-1).cpu()
    centre = (a.shape[-1] + 1) / 2
    x, y = ranks(a) - centre, ranks(b) - centre
    # A constant row is exactly 0 here, so that 0/0 says undefined.
    correlation = (x * y).sum(-1) / ((x * x).sum(-1) * (y * y).sum(-1)).sqrt()
    return correlation.masked_fill(~finite, math.nan)


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of `n` pairs with its 95 % interval; NaN where it is undefined, the interval also for n < 4."""

    value: float
    low: float
    high: float
    n: int


def rank_correlation(a: np.ndarray, b: np.ndarray) -> Correlation:
    """Spearman's correlation over the pairs where both are finite: tanh(artanh r -+ 1.96 sqrt(1.06 / (n - 3))) (Fieller et al. 1957).

    For few pairs, such as a dozen models; pairs of one item each, so nothing is bootstrapped. Raises `DataError` if the lengths differ.
    """
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (a, b))
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} values cannot be correlated: give pairs")
    both = np.isfinite(a) & np.isfinite(b)
    n = int(both.sum())
    value = float(spearman(torch.from_numpy(a[both])[None], torch.from_numpy(b[both])[None])) if n > 1 else math.nan
    if n < 4 or math.isnan(value):
        return Correlation(value, math.nan, math.nan, n)
    # At r = 1 artanh is infinite, and the interval would be a point.
    z = math.atanh(min(max(value, -1 + 1 / n**2), 1 - 1 / n**2))
    half = -float(ndtri(LEVEL / 2)) * math.sqrt(1.06 / (n - 3))
    return Correlation(value, min(math.tanh(z - half), value), max(math.tanh(z + half), value), n)


@dataclass(frozen=True)
class Summary:
    """Mean of the `n` defined values with its 95 % interval, and how many values were `undefined`."""

    mean: float
    low: float
    high: float
    n: int
    undefined: int


def summary(values: np.ndarray) -> Summary:
    """Mean and Student's t interval, mean ± t(n-1, 0.975) s / √n, of the finite values; the others are undefined and left out.

    The interval is NaN for n < 2, the mean also for n = 0.
    """
    every = np.asarray(values, dtype=np.float64).ravel()
    defined = every[np.isfinite(every)]
    n = len(defined)
    mean = float(defined.mean()) if n else math.nan
    half = float(stdtrit(n - 1, 1 - LEVEL / 2) * defined.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Summary(mean, mean - half, mean + half, n, len(every) - n)


class RunningSummary:
    """The summary of values that arrive a few at a time, without keeping them (Chan et al. 1983)."""

    def __init__(self) -> None:
        self._n = self._undefined = 0
        self._mean = self._squares = 0.0

    def add(self, values: np.ndarray) -> None:
        """Add values; those that are not finite count as undefined."""
        defined = values[np.isfinite(values)]
        self._undefined += len(values) - len(defined)
        if not len(defined):
            return
        mean, count = float(defined.mean()), self._n + len(defined)
        shift = mean - self._mean
        self._squares += float(((defined - mean) ** 2).sum()) + shift**2 * self._n * len(defined) / count
        self._mean += shift * len(defined) / count
        self._n = count

    def summary(self) -> Summary:
        """Return mean and 95 % interval as `summary` gives them, up to rounding."""
        n = self._n
        mean = self._mean if n else math.nan
        half = float(stdtrit(n - 1, 1 - LEVEL / 2) * math.sqrt(self._squares / (n - 1) / n)) if n > 1 else math.nan
        return Summary(mean, mean - half, mean + half, n, self._undefined)


def mean_correlation(means: np.ndarray) -> float:
    """Mean over all pairs of rows of (k, n) of Spearman's correlation over the columns, undefined pairs left out."""
    rows = torch.from_numpy(np.ascontiguousarray(means, dtype=np.float64))
    first, second = np.triu_indices(len(rows), 1)
    found = spearman(rows[first], rows[second])
    return float(found.nanmean())


def jackknife(statistic: Callable[[np.ndarray], float], values: np.ndarray, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Summary:
    """A statistic of (k, n) values with its jackknife interval over the n columns (Tukey 1958).

    s^2 = (n - 1) / n * sum (t_i - mean t)^2 with t_i the statistic without column i; the interval is t -+ t(n-1, 0.975) s,
    cut off at the `bounds` of the statistic, NaN for n < 4.
    """
    n = values.shape[1]
    value = statistic(values)
    if n < 4:
        return Summary(value, math.nan, math.nan, n, 0)
    without = np.array([statistic(np.delete(values, i, axis=1)) for i in range(n)])
    half = float(stdtrit(n - 1, 1 - LEVEL / 2) * math.sqrt((n - 1) * without.var()))
    return Summary(value, max(value - half, bounds[0]), min(value + half, bounds[1]), n, 0)


def proportion(count: int, n: int) -> Summary:
    """Return the share `count / n` with its 95 % interval (Wilson 1927).

    Raises:
        DataError: If `count` is not between 0 and `n`, or `n` is 0.
    """
    if not 0 <= count <= n or not n:
        raise DataError(f"{count} of {n} is no share; count at least one item")
    # Takes a second to import, and most uses of this module need no share.
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(1 - LEVEL, method="wilson")
    return Summary(count / n, float(interval.low), float(interval.high), n, 0)


@dataclass(frozen=True)
class Difference:
    """Mean of the paired differences a - b over the `n` items where both are defined, with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def tie(self) -> bool:
        """Whether the data do not tell a from b: the interval holds 0, or there is none because n < 2."""
        return self.n < 2 or self.low <= 0 <= self.high


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = 10_000) -> Difference:
    """How much larger a is than b on the same items: mean difference with its expanded percentile bootstrap interval.

    Item i of a belongs to item i of b; items where either is not finite are left out. The interval goes from the p to the 1-p quantile of
    the means of resampled differences, where p = Φ(√(n/(n-1)) t(n-1, 0.025)) in place of 0.025. For few items the plain percentile interval
    is too narrow, and so is BCa: both take the spread for known, and divide by n for n-1. The expansion takes this back at no cost
    (Hesterberg, The American Statistician 2015, arXiv 1411.5279). For n < 5 it is Student's t interval, as in `summary`.
    The same seed gives the same interval. Raises `DataError` if the lengths differ, `SpecError` if `resamples` is below 1.
    """
    if resamples < 1:
        raise SpecError(f"resamples={resamples} is not valid: at least 1, better 1000 or more")
    differences = _differences(a, b)
    n = len(differences)
    if n < FEWEST:
        few = summary(differences)
        return Difference(few.mean, few.low, few.high, n)
    p = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, LEVEL / 2)))
    low, high = np.quantile(_resampled_means(differences, seed, resamples), [p, 1 - p])
    return Difference(float(differences.mean()), float(low), float(high), n)


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A - b of the items where both are finite, in float64."""
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (a, b))
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} values cannot be paired: give one for each item, in the same order, NaN where undefined")
    both = np.isfinite(a) & np.isfinite(b)
    return a[both] - b[both]


def _resampled_means(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Means of `resamples` samples, each as many values as there are, drawn with replacement."""
    n = len(values)
    # Drawing indices is most of the work, and this generator is the fastest.
    generator = np.random.Generator(np.random.SFC64(seed))
    means = np.empty(resamples)
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        part = means[start : start + rows]
        part[:] = values[generator.integers(n, size=(len(part), n))].mean(1)
    return means


@dataclass(frozen=True)
class Place:
    """A method in a rank table: its mean, and the `first` and `last` rank (from 1) that the data allow it to hold."""

    name: str
    summary: Summary
    first: int
    last: int


def rank_table(values: Mapping[str, np.ndarray], higher_is_better: bool = True) -> list[Place]:
    """The methods by their mean, best first, each with the ranks it may hold, from values per item in the same order for each.

    `first` is 1 + the number of methods that are better beyond doubt, `last` the number of methods not worse beyond doubt, itself included.
    Two methods differ beyond doubt when the paired t test of their mean difference, over the items where both are finite, rejects at 5 %
    after Holm's correction over all pairs. So with probability 95 % all ranges hold the true ranks at once (Mogstad et al., Review of
    Economic Studies 2024, doi 10.1093/restud/rdad006). A p value is never below 2^(1-m), the chance that m differences other than 0 all
    have one sign: a few items prove nothing, however alike their differences.

    No bootstrap here: the correction needs p values near 1e-4, which 10,000 resamples cannot tell apart, while a t test takes each pair on
    its own items and makes the table the same every time. The price is that a pair that `paired_difference` tells apart may be a tie here.

    Equal means keep the given order. A method without a finite value comes last and may hold any rank, so each other method's last rank
    counts it too. With undefined values the means are over different items, and the order need not be that of the ranges.
    Raises `DataError` if the lengths differ.
    """
    items = [np.asarray(each, dtype=np.float64) for each in values.values()]
    wins = _wins(items, higher_is_better)
    first, last = 1 + wins.sum(0), len(items) - wins.sum(1)
    places = [Place(name, summary(items[i]), int(first[i]), int(last[i])) for i, name in enumerate(values)]
    sign = -1 if higher_is_better else 1
    return sorted(places, key=lambda place: sign * place.summary.mean if place.summary.n else math.inf)


def _wins(items: list[np.ndarray], higher_is_better: bool) -> np.ndarray:
    """Booleans (k,k): whether method i is better than method j beyond doubt."""
    rows, columns = np.triu_indices(len(items), 1)
    tests = [_paired_test(_differences(items[i], items[j])) for i, j in zip(rows, columns, strict=True)]
    means, p = np.array(tests).reshape(-1, 2).T
    signs = np.where(_holm(p) <= LEVEL, np.sign(means), 0) * (1 if higher_is_better else -1)
    wins = np.zeros((len(items), len(items)), dtype=bool)
    wins[rows, columns] = signs > 0
    wins[columns, rows] = signs < 0
    return wins


def _paired_test(differences: np.ndarray) -> tuple[float, float]:
    """Mean of the differences and the two-sided p value that it is 0: Student's t, not below what the number of signs can say."""
    nonzero = np.count_nonzero(differences)
    if nonzero < 2:
        return 0.0, 1.0
    mean, n = float(differences.mean()), len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    t = abs(mean) / error if error else math.inf
    return mean, max(2 * float(stdtr(n - 1, -t)), 2.0 ** (1 - nonzero))


def _holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment: the i-th smallest of N p values times N - i + 1, none below its predecessor."""
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return adjusted
