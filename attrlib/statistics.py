"""Statistics of values per item: rank correlation, intervals of a mean, and paired differences."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, ndtri, stdtrit
from torch import Tensor

from attrlib.errors import DataError, SpecError

LEVEL = 0.05
"""Share of intervals that miss the true mean, and of tables of tests that make any false claim."""
FEWEST = 5
"""Fewest differences to bootstrap. With fewer, even their whole range contains the true mean less than nine times in ten."""
CHUNK = 2**20
"""Items to draw at a time, unless one resample needs more: 16 MiB of indices and values for any number of resamples."""


def ranks(values: Tensor) -> Tensor:
    """Return ranks along the last dimension of (...,k), from 1, as float64 of the same shape on the CPU.

    Equal values share their average rank: with L values below a value and U not above it, its rank is (L + 1 + U) / 2. A row that
    holds a NaN is NaN.
    """
    # On the CPU, because not every device has float64.
    values = values.detach().cpu().contiguous()
    ordered = values.sort(dim=-1).values.contiguous()
    below = torch.searchsorted(ordered, values)
    not_above = torch.searchsorted(ordered, values, right=True)
    return ((below + 1 + not_above).double() / 2).masked_fill(values.isnan().any(-1, keepdim=True), math.nan)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation of each row of `a` with the same row of `b`.

    This is Pearson's correlation of the average ranks.

    Args:
        a: Values (N,k).
        b: Values (N,k).

    Returns:
        Correlations, float64 (N,) on the CPU. NaN (undefined) where either row is constant or holds a NaN or infinity.

    Raises:
        DataError: If the shapes differ.

    Example:
        >>> import torch
        >>> spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 15.0]]))
        tensor([0.5000], dtype=torch.float64)
    """
    if a.shape != b.shape:
        raise DataError(f"values of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be correlated; both must be the same (N,k)")
    finite = (torch.isfinite(a) & torch.isfinite(b)).all(-1).cpu()
    centre = (a.shape[-1] + 1) / 2
    x, y = ranks(a) - centre, ranks(b) - centre
    # A constant row is exactly 0 here, so that 0/0 gives NaN.
    correlation = (x * y).sum(-1) / ((x * x).sum(-1) * (y * y).sum(-1)).sqrt()
    return correlation.masked_fill(~finite, math.nan)


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of `n` pairs with its 95 % CI. NaN where undefined; the interval is NaN also for n < 4."""

    value: float
    low: float
    high: float
    n: int


def rank_correlation(a: np.ndarray, b: np.ndarray) -> Correlation:
    """Return Spearman's correlation over the pairs where both values are finite, with its 95 % CI.

    The interval is tanh(artanh r -+ 1.96 sqrt(1.06 / (n - 3))) (Fieller et al. 1957). It suits few pairs, such as a dozen models,
    each of which is one item, so nothing is bootstrapped.

    Args:
        a: Values (n,).
        b: Values (n,), paired with `a` by position.

    Raises:
        DataError: If the lengths differ.
    """
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (a, b))
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} values cannot be correlated; give pairs")
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
    """Mean of the `n` defined values with its 95 % CI, and the number of `undefined` values."""

    mean: float
    low: float
    high: float
    n: int
    undefined: int


def summary(values: np.ndarray) -> Summary:
    """Return mean and Student's t interval, mean ± t(n-1, 0.975) s / √n, of the finite values.

    Other values count as undefined and are left out. The interval is NaN for n < 2, the mean also for n = 0.
    """
    every = np.asarray(values, dtype=np.float64).ravel()
    defined = every[np.isfinite(every)]
    n = len(defined)
    mean = float(defined.mean()) if n else math.nan
    half = float(stdtrit(n - 1, 1 - LEVEL / 2) * defined.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Summary(mean, mean - half, mean + half, n, len(every) - n)


class RunningSummary:
    """Summary of values that arrive a few at a time, computed without keeping them (Chan et al. 1983)."""

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
        """Return mean and 95 % CI as `summary` gives them, up to rounding."""
        n = self._n
        mean = self._mean if n else math.nan
        half = float(stdtrit(n - 1, 1 - LEVEL / 2) * math.sqrt(self._squares / (n - 1) / n)) if n > 1 else math.nan
        return Summary(mean, mean - half, mean + half, n, self._undefined)


def mean_correlation(means: np.ndarray) -> float:
    """Return the mean Spearman correlation over all pairs of rows of (k,n), leaving out undefined pairs."""
    rows = torch.from_numpy(np.ascontiguousarray(means, dtype=np.float64))
    first, second = np.triu_indices(len(rows), 1)
    return float(spearman(rows[first], rows[second]).nanmean())


def jackknife(statistic: Callable[[np.ndarray], float], values: np.ndarray, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Summary:
    """Return a statistic with its jackknife interval over columns (Tukey 1958).

    The interval is t -+ t(n-1, 0.975) s, where s^2 = (n - 1) / n * sum (t_i - mean t)^2 and t_i is the statistic without column i.
    It is NaN for n < 4.

    Args:
        statistic: Function of values (k,n).
        values: Values (k,n).
        bounds: Smallest and largest possible value of the statistic, at which the interval is clipped.
    """
    n = values.shape[1]
    value = statistic(values)
    if n < 4:
        return Summary(value, math.nan, math.nan, n, 0)
    without = np.array([statistic(np.delete(values, i, axis=1)) for i in range(n)])
    half = float(stdtrit(n - 1, 1 - LEVEL / 2) * math.sqrt((n - 1) * without.var()))
    return Summary(value, max(value - half, bounds[0]), min(value + half, bounds[1]), n, 0)


def proportion(count: int, n: int) -> Summary:
    """Return the share `count / n` with its 95 % CI (Wilson 1927).

    Raises:
        DataError: If `count` is not between 0 and `n`, or `n` is 0.
    """
    if not 0 <= count <= n or not n:
        raise DataError(f"{count} of {n} is not a valid proportion; give 0 <= count <= n and n >= 1")
    # The import takes a second, and most users of this module do not need it.
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(1 - LEVEL, method="wilson")
    return Summary(count / n, float(interval.low), float(interval.high), n, 0)


@dataclass(frozen=True)
class Difference:
    """Mean of the paired differences a - b over the `n` items where both are defined, with its 95 % CI."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def tie(self) -> bool:
        """Return whether a and b are not significantly different: the interval contains 0, or is undefined because n < 2."""
        return self.n < 2 or self.low <= 0 <= self.high


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = 10_000) -> Difference:
    """Return the mean difference a - b over the same items, with its expanded percentile bootstrap interval.

    The interval goes from the p to the 1-p quantile of the means of resampled differences, where p = Φ(√(n/(n-1)) t(n-1, 0.025)) in
    place of 0.025. For few items the plain percentile interval is too narrow, and so is BCa: both treat the spread as known, and divide
    by n instead of n-1. The expansion corrects this at no cost (Hesterberg, The American Statistician 2015, arXiv 1411.5279). For n < 5
    the interval is Student's t interval, as in `summary`.

    Args:
        a: Values, one for each item.
        b: Values of the same items in the same order. Items where either value is not finite are left out.
        seed: Seed of the bootstrap. The same seed gives the same interval.
        resamples: Number of resamples.

    Raises:
        DataError: If the lengths differ.
        SpecError: If `resamples` is below 1.
    """
    if resamples < 1:
        raise SpecError(f"resamples={resamples} is not valid; use at least 1, preferably 1000 or more")
    differences = differences_of(a, b)
    n = len(differences)
    if n < FEWEST:
        few = summary(differences)
        return Difference(few.mean, few.low, few.high, n)
    p = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, LEVEL / 2)))
    low, high = np.quantile(_resampled_means(differences, seed, resamples), [p, 1 - p])
    return Difference(float(differences.mean()), float(low), float(high), n)


def differences_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a - b of the items where both are finite, as float64."""
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (a, b))
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} values cannot be paired; give one for each item, in the same order, NaN where undefined")
    both = np.isfinite(a) & np.isfinite(b)
    return a[both] - b[both]


def _resampled_means(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Return the means of `resamples` samples, each of n values drawn with replacement from the n `values`."""
    n = len(values)
    # Drawing indices takes most of the time, and this generator is the fastest.
    generator = np.random.Generator(np.random.SFC64(seed))
    means = np.empty(resamples)
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):
        part = means[start : start + rows]
        part[:] = values[generator.integers(n, size=(len(part), n))].mean(1)
    return means
