"""Dimensions of FunnyBirds: the means over the images, with the threshold of each method that the paper would choose."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from attrlib.engine.results import RunResult, Score
from attrlib.protocols.funnybirds import DIMENSIONS, FunnyBirds
from attrlib.specs import MethodSpec, ProtocolSpec
from attrlib.statistics import Summary, jackknife, summary

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "Mean": "mean of Com, Cor and Con",
        "Com": "completeness",
        "Cor": "correctness",
        "Con": "contrastivity",
        "CSDC": "controlled synthetic data check",
        "PC": "preservation check",
        "DC": "deletion check",
        "D": "distractibility",
        "SD": "single deletion",
        "TS": "target sensitivity",
        "A": "accuracy",
        "BI": "background independence",
    }
)
"""Names of the dimensions by their short names in the paper: the mean, what it is made of, and two of the model alone."""
CORNERS = ("A", "BI", "Com", "Cor", "Con")
"""The corners of the paper's star plot, around the mean."""
LEGEND = ", ".join(f"{short} {name}" for short, name in NAMES.items())
"""Short and long names as text."""


@dataclass(frozen=True)
class Dimensions:
    """The dimensions of a method.

    Attributes:
        values: Mean of each dimension with its 95 % CI, by its short name, see `NAMES`. The intervals take the threshold as given.
        threshold: The threshold, which maximises (CSDC + PC + DC) / 3 + D; NaN if these are undefined.
    """

    values: Mapping[str, Summary]
    threshold: float

    @property
    def means(self) -> dict[str, float]:
        """Return the mean of each dimension by its short name."""
        return {name: value.mean for name, value in self.values.items()}


def dimensions(score: Score) -> Dimensions | None:
    """Return the dimensions of a score, None if its protocol is not `funnybirds`.

    Each is a mean over the images where it is defined, so their numbers of images differ. Background independence is the share of all
    objects of all images. Completeness, correctness and contrastivity are made of these means as in the paper. As in the paper, the
    threshold is chosen by the same images on which it is then reported, which flatters each method a little.

    Args:
        score: The score.
    """
    if not isinstance(score.protocol, FunnyBirds):
        return None
    records = [details for details in score.details if details]
    # One row for each image.
    single = {name: np.array([record[name] for record in records], dtype=float).reshape(-1) for name in ("accuracy", "sd", "ts")}
    relevant, objects = (np.array([record[name] for record in records], dtype=float).reshape(-1) for name in ("relevant", "objects"))
    thresholds = score.protocol.thresholds
    curves = {name: np.array([record[name] for record in records], dtype=float).reshape(-1, len(thresholds)) for name in DIMENSIONS}
    chosen = _best(*(np.array([_mean(column) for column in curve.T]) for curve in curves.values()))
    csdc, pc, dc, d = (curve[:, chosen or 0] for curve in curves.values())
    rows = np.stack([csdc, pc, dc, d, single["sd"], single["ts"]])
    together = {
        "Com": lambda values: _completeness(*map(_mean, values[:4])),
        "Cor": lambda values: _mean(values[4]),
        "Con": lambda values: _mean(values[5]),
        "Mean": lambda values: (_completeness(*map(_mean, values[:4])) + _mean(values[4]) + _mean(values[5])) / 3,
    }
    parts = {"CSDC": csdc, "PC": pc, "DC": dc, "D": d, "SD": single["sd"], "TS": single["ts"]}
    values = {
        "A": summary(single["accuracy"]),
        "BI": jackknife(lambda counts: 1 - _ratio(*counts.sum(1).tolist()), np.stack([relevant, objects]), (0.0, 1.0)),
        **{name: summary(column) for name, column in parts.items()},
        **{name: jackknife(statistic, rows, (0.0, 1.0)) for name, statistic in together.items()},
    }
    return Dimensions({name: values[name] for name in NAMES}, math.nan if chosen is None else thresholds[chosen])


def dimensions_of(result: RunResult) -> dict[ProtocolSpec, dict[MethodSpec, Dimensions]]:
    """Return the dimensions of every method, best first, under each protocol of a run that has them.

    Args:
        result: The run.
    """
    found: dict[ProtocolSpec, dict[MethodSpec, Dimensions]] = {}
    for (protocol, method), score in result.scores.items():
        own = dimensions(score)
        if own is not None:
            found.setdefault(protocol, {})[method] = own
    return {
        protocol: dict(sorted(methods.items(), key=lambda pair: -np.nan_to_num(pair[1].values["Mean"].mean, nan=-1)))
        for protocol, methods in found.items()
    }


def _completeness(csdc: float, pc: float, dc: float, d: float) -> float:
    return ((csdc + pc + dc) / 3 + d) / 2


def _best(csdc: np.ndarray, pc: np.ndarray, dc: np.ndarray, d: np.ndarray) -> int | None:
    """Return the index of the first threshold with the highest completeness, None if it is nowhere defined."""
    totals = np.array([_completeness(*values) for values in zip(csdc, pc, dc, d, strict=True)])
    return int(np.nanargmax(totals)) if np.isfinite(totals).any() else None


def _mean(values: np.ndarray) -> float:
    """Return the mean of the finite values, NaN if there are none."""
    defined: Sequence[float] = values[np.isfinite(values)]
    return float(np.mean(defined)) if len(defined) else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
