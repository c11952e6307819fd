"""The result of a retraining: accuracy curves, their areas with intervals, differences to random maps, and a ranking with ties."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from attrlib.figures.numbers import json_value, number
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure
from attrlib.figures.tables import csv_table
from attrlib.methods import resolve
from attrlib.registry import Paper
from attrlib.significance import Place
from attrlib.specs import MethodSpec, RoarSpec
from attrlib.statistics import LEVEL, Difference, Summary

PAPER = Paper("Hooker et al. 2019", "A Benchmark for Interpretability Methods in Deep Neural Networks", "https://arxiv.org/abs/1806.10758")
TITLES = {False: "ROAR", True: "KAR"}
READINGS = {
    False: "most relevant pixels replaced; lower is better: the method finds what the class can be learnt from",
    True: "least relevant pixels replaced; higher is better: what the method keeps suffices to learn the class",
}
RANDOM = MethodSpec("Random")
"""The method whose maps are chance; it is always among those that are judged."""


@dataclass(frozen=True, eq=False)
class RoarCurve:
    """The accuracies of networks that were trained without some of the pixels, as a method ranks them.

    Attributes:
        method: The method, as asked for.
        keep: Whether the least relevant pixels are replaced (KAR), rather than the most relevant ones (ROAR).
        shares: Shares of the pixels that are replaced, from 0.
        accuracies: Accuracy on the test images at each share, by seed, (shares, seeds).
        tests: Number of test images.
    """

    method: MethodSpec
    keep: bool
    shares: tuple[float, ...]
    accuracies: np.ndarray
    tests: int

    @property
    def points(self) -> tuple[Summary, ...]:
        """Return the accuracy at each share with its 95 % CI over the seeds."""
        return tuple(_within_0_and_1(mean_over_seeds(row, self.tests)) for row in self.accuracies)

    @property
    def areas(self) -> np.ndarray:
        """Return the area under the curve of each seed by the trapezoidal rule, over its length: the mean accuracy along the curve."""
        return np.trapezoid(self.accuracies, self.shares, axis=0) / self.shares[-1]

    @property
    def area(self) -> Summary:
        """Return the area under the curve with its 95 % CI over the seeds."""
        return _within_0_and_1(mean_over_seeds(self.areas, self.tests))


@dataclass(frozen=True, eq=False)
class RoarResult:
    """The result of a retraining.

    The intervals are over the seeds: they tell how far another training from other random weights may lead on the same images.

    Attributes:
        spec: The retraining.
        curves: The curve of every method, for ROAR and, if asked for, for KAR.
        tests: Number of test images.
        trains: Number of training images.
        largest: Share of the largest class among the test images: the accuracy without any pixel.
        refused: The methods that are not defined, with the reason.
        notes: What was left out, and why.
        computed: Number of networks that were trained.
        cached: Number of results that were in the store.
        seconds: Duration.
    """

    spec: RoarSpec
    curves: tuple[RoarCurve, ...]
    tests: int
    trains: int
    largest: float
    refused: Sequence[tuple[MethodSpec, str]] = ()
    notes: tuple[str, ...] = ()
    computed: int = 0
    cached: int = 0
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Return the approximate size in bytes."""
        return 1024 + sum(curve.accuracies.nbytes + 256 for curve in self.curves)

    def curve(self, method: str | MethodSpec, keep: bool = False) -> RoarCurve:
        """Return the curve of a method. Raises `KeyError` if there is none.

        Args:
            method: The method as asked for, or its text form.
            keep: Whether to return that of KAR.
        """
        return {(str(each.method), each.keep): each for each in self.curves}[str(method), keep]

    def of_order(self, keep: bool) -> tuple[RoarCurve, ...]:
        """Return the curves of ROAR, or those of KAR."""
        return tuple(each for each in self.curves if each.keep == keep)

    def random(self, keep: bool = False) -> RoarCurve:
        """Return the curve of random maps of the images' size: chance."""
        return next(each for each in self.of_order(keep) if resolve(each.method) == resolve(RANDOM))

    def to_random(self, curve: RoarCurve) -> Difference:
        """Return how much larger the area of a curve is than that of random maps, paired by seed, with its 95 % CI."""
        random = self.random(curve.keep)
        if curve is random:
            return Difference(0.0, 0.0, 0.0, len(curve.areas))
        mean = mean_over_seeds(curve.areas - random.areas, self.tests)
        return Difference(mean.mean, mean.low, mean.high, mean.n)

    def ranking(self, keep: bool = False) -> list[Place]:
        """Return the methods of an order by their area, best first, each with the range of ranks that it may hold.

        Two methods are tied unless the interval of their difference, paired by seed, excludes 0. The intervals of all pairs hold at
        once with probability 95 % (Bonferroni). An area is a mean over many test images and several trainings, to which Student's t applies even
        with few seeds.

        Args:
            keep: Whether to rank by KAR.
        """
        curves = self.of_order(keep)
        places = []
        for curve in curves:
            better = sum(self._beats(other, curve) for other in curves)
            worse = sum(self._beats(curve, other) for other in curves)
            places.append(Place(str(curve.method), curve.area, 1 + better, len(curves) - worse))
        sign = 1 if keep else -1
        return sorted(places, key=lambda place: -sign * place.summary.mean)

    def _beats(self, a: RoarCurve, b: RoarCurve) -> bool:
        """Return whether a curve is significantly better than another of its order, corrected for all pairs."""
        pairs = max(1, math.comb(len(self.of_order(a.keep)), 2))
        return mean_over_seeds((a.areas - b.areas) * (1 if a.keep else -1), self.tests, pairs).low > 0

    def table(self) -> list[dict[str, object]]:
        """Return one plain row for each curve, best first: area, difference to random maps, ranks, and accuracy at each share."""
        return [
            self._row(self.curve(place.name, keep), place)
            for keep in dict.fromkeys(c.keep for c in self.curves)
            for place in self.ranking(keep)
        ]

    def _row(self, curve: RoarCurve, place: Place) -> dict[str, object]:
        area, difference = curve.area, self.to_random(curve)
        row: dict[str, object] = {
            "order": TITLES[curve.keep],
            "method": str(curve.method),
            "rank_first": place.first,
            "rank_last": place.last,
        }
        row |= {"area": area.mean, "low": area.low, "high": area.high, "seeds": area.n}
        row |= {"to_random": difference.mean, "to_random_low": difference.low, "to_random_high": difference.high}
        for share, point in zip(curve.shares, curve.points, strict=True):
            row |= {f"accuracy_{share:g}": point.mean, f"low_{share:g}": point.low, f"high_{share:g}": point.high}
        return row

    @property
    def finding(self) -> str:
        """Return in a sentence for each order which methods are significantly better or worse than random maps, as in `ranking`."""
        return " ".join(self._finding(keep) for keep in dict.fromkeys(curve.keep for curve in self.curves))

    def _finding(self, keep: bool) -> str:
        random = self.random(keep)
        others = [curve for curve in self.of_order(keep) if curve is not random]
        better = [str(curve.method) for curve in others if self._beats(curve, random)]
        worse = [str(curve.method) for curve in others if self._beats(random, curve)]
        tied = [name for name in map(str, (curve.method for curve in others)) if name not in (*better, *worse)]
        said = [
            f"{', '.join(names)} {words}" if names else ""
            for names, words in (
                (better, "better than random maps"),
                (tied, "not significantly different from random maps"),
                (worse, "worse than random maps"),
            )
        ]
        return f"{TITLES[keep]}: {'; '.join(filter(None, said)) or 'only random maps'}."

    @property
    def warnings(self) -> list[str]:
        """Return where networks are significantly better without pixels than with all of them, which a loss of information cannot explain.

        The interval of the paired difference, corrected for the shares of the curve, is then above 0.
        """
        found = []
        for curve in self.curves:
            whole, *others = curve.accuracies
            for share, accuracies in zip(curve.shares[1:], others, strict=True):
                if mean_over_seeds(accuracies - whole, self.tests, len(others)).low > 0:
                    found.append(
                        f"{TITLES[curve.keep]} of {curve.method} at {share:g}: networks are right more often ({accuracies.mean():.3f}) than on the images as "
                        f"they are ({whole.mean():.3f}): which pixels are replaced may give the class away; compare with baseline=linear"
                    )
        return found

    def figure(self) -> StudyFigure:
        """Return the curves with their intervals, a panel for each order."""
        panels = []
        for keep in dict.fromkeys(curve.keep for curve in self.curves):
            series = [
                Series(str(c.method), tuple(Point(s, p.mean, p.low, p.high) for s, p in zip(c.shares, c.points, strict=True)))
                for c in self.of_order(keep)
            ]
            title = f"{TITLES[keep]} {'↑' if keep else '↓'}"
            panels.append(Panel("lines", title, "share of pixels replaced", "accuracy", tuple(series), level=self.largest))
        return StudyFigure(
            f"Accuracy on {self.tests} test images of networks trained without a share of the pixels, with 95 % CIs over {self.spec.seeds} "
            "trainings. Dashed: the share of the largest class.",
            tuple(panels),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values. Numbers that are not finite become None."""
        fields: dict[str, Any] = {"cli": self.spec.cli(), "finding": self.finding, "rows": self.table()}
        fields["accuracies"] = [
            {"order": TITLES[c.keep], "method": str(c.method), "shares": list(c.shares), "by_seed": c.accuracies.T.tolist()}
            for c in self.curves
        ]
        fields["refused"] = [{"method": str(method), "reason": reason} for method, reason in self.refused]
        fields |= {name: getattr(self, name) for name in ("tests", "trains", "largest", "computed", "cached", "seconds")}
        return json_value(fields | {"notes": [*self.notes, *self.warnings]})


def files_of(result: RoarResult) -> Mapping[str, Callable[[], bytes]]:
    """Return functions that make the files of a retraining, by file name: table (CSV), all values (JSON), figure (SVG)."""

    def figure() -> bytes:
        # Matplotlib is an optional dependency.
        from attrlib.figures.study_files import render

        return render(result.figure(), "svg")

    return {
        "roar.csv": lambda: csv_table(result.table()),
        "roar.json": lambda: json.dumps(result.as_json(), indent=1).encode(),
        "roar.svg": figure,
    }


def mean_over_seeds(values: np.ndarray, tests: int, comparisons: int = 1) -> Summary:
    """Return the mean of accuracies or their differences over the seeds with Student's t interval, mean -+ t(n-1, 1 - 0.025 / k) s / √n.

    Accuracies are multiples of one over the number of test images, so that a few of them may be equal by chance: s is at least the
    standard deviation of their rounding, 1 / (tests √12).

    Args:
        values: A value for each seed, (n,).
        tests: Number of test images.
        comparisons: Number k of intervals that are to hold at once with probability 95 %.
    """
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Summary(mean, math.nan, math.nan, n, 0)
    spread = max(float(values.std(ddof=1)), 1 / (tests * math.sqrt(12)))
    half = float(stdtrit(n - 1, 1 - LEVEL / 2 / comparisons)) * spread / math.sqrt(n)
    return Summary(mean, mean - half, mean + half, n, 0)


def _within_0_and_1(value: Summary) -> Summary:
    """Return a summary of accuracies whose interval is clipped to the values that an accuracy can have."""
    return replace(value, low=max(value.low, 0.0), high=min(value.high, 1.0)) if value.n > 1 else value


def interval(value: Summary | Difference, decimals: int = 3) -> str:
    """Return a mean with its interval as text."""
    mean, low, high = (number(each, decimals) for each in (value.mean, value.low, value.high))
    return mean if value.n < 2 else f"{mean} [{low}, {high}]"
