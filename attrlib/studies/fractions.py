"""Effect of more training data on accuracy and scores, over models that differ only in their share of the training data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from attrlib.figures.study_figure import Panel, Series, StudyFigure
from attrlib.statistics import rank_correlation
from attrlib.studies.base import ModelResults, Row
from attrlib.studies.traits import ModelTraits
from attrlib.studies.words import interval, numbers, point

FEWEST = 3
"""Fewest shares that make a line."""


def twins(found: Sequence[ModelResults]) -> list[list[ModelResults]]:
    """Group models that differ only in the share of the training data, each group sorted by it. Groups below `FEWEST` shares are dropped."""
    groups: dict[ModelTraits, dict[float, ModelResults]] = {}
    for own in found:
        if np.isfinite(own.traits.fraction) and own.traits.accuracy is not None:
            alike = replace(own.traits, name="", accuracy=None, fraction=0.0)
            groups.setdefault(alike, {})[own.traits.fraction] = own
    return [[group[share] for share in sorted(group)] for group in groups.values() if len(group) >= FEWEST]


def over_fractions(group: Sequence[ModelResults], protocols: Mapping[str, str]) -> tuple[StudyFigure, list[Row], str]:
    """Return figure, table rows and a sentence on how accuracy and each method's scores change with the share.

    Args:
        group: Models that differ only in the share of the training data, from `twins`.
        protocols: Protocols in text form, by title.
    """
    shares = np.array([own.traits.fraction for own in group])
    accuracies = [own.traits.accuracy for own in group if own.traits.accuracy]
    line = tuple(point(100 * share, found) for share, found in zip(shares, accuracies, strict=True))
    panels = [Panel("lines", "accuracy", "% of the training data", "top-1 accuracy", (Series("accuracy", line),), log_x=True)]
    rows: list[Row] = []
    words = []
    for title, protocol in protocols.items():
        scores = [own.by_method(protocol) for own in group]
        common = [name for name in scores[0] if all(name in own for own in scores)]
        series = []
        for name in common:
            found = [own[name].summary for own in scores]
            plain = name.partition(":")[0]
            series.append(Series(plain, tuple(point(100 * share, one) for share, one in zip(shares, found, strict=True))))
            rows += [
                {"kind": f"{title} over shares", "first": plain, "second": own.traits.name, "fraction": own.traits.fraction} | numbers(one)
                for own, one in zip(group, found, strict=True)
            ]
            trend = rank_correlation(shares, np.array([one.mean for one in found]))
            words.append(f"{title} of {plain} {interval(trend)}")
        panels.append(
            Panel(
                "lines",
                title,
                "% of the training data",
                f"{title} (lower is better)",
                tuple(series),
                log_x=True,
                log_y=title == "infidelity",
            )
        )
    first, last = accuracies[0].mean, accuracies[-1].mean
    sentence = (
        f"From {100 * shares[0]:g} to {100 * shares[-1]:g} % of the training data the accuracy of {len(group)} twins goes from {100 * first:.0f} to "
        f"{100 * last:.0f} %; with the share correlate {'; '.join(words)}."
    )
    return StudyFigure("Accuracy, infidelity and sensitivity over the share of the training data.", tuple(panels)), rows, sentence
