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
"""Fewest shares for a line."""


def twins(results: Sequence[ModelResults]) -> list[list[ModelResults]]:
    """Group models that differ only in the share of the training data, each group sorted by it. Groups below `FEWEST` shares are dropped."""
    groups: dict[ModelTraits, dict[float, ModelResults]] = {}
    for result in results:
        if np.isfinite(result.traits.fraction) and result.traits.accuracy is not None:
            shared = replace(result.traits, name="", accuracy=None, fraction=0.0)
            groups.setdefault(shared, {})[result.traits.fraction] = result
    return [[group[share] for share in sorted(group)] for group in groups.values() if len(group) >= FEWEST]


def over_fractions(group: Sequence[ModelResults], protocols: Mapping[str, str]) -> tuple[StudyFigure, list[Row], str]:
    """Return figure, table rows and a sentence on how accuracy and each method's scores change with the share.

    Args:
        group: Models that differ only in the share of the training data, from `twins`.
        protocols: Protocols in text form, by title.
    """
    shares = np.array([result.traits.fraction for result in group])
    accuracies = [result.traits.accuracy for result in group if result.traits.accuracy]
    line = tuple(point(100 * share, accuracy) for share, accuracy in zip(shares, accuracies, strict=True))
    panels = [Panel("lines", "accuracy", "% of the training data", "top-1 accuracy", (Series("accuracy", line),), log_x=True)]
    rows: list[Row] = []
    words = []
    for title, protocol in protocols.items():
        by_model = [result.by_method(protocol) for result in group]
        common = [name for name in by_model[0] if all(name in scores for scores in by_model)]
        series = []
        for name in common:
            summaries = [scores[name].summary for scores in by_model]
            plain = name.partition(":")[0]
            series.append(Series(plain, tuple(point(100 * share, one) for share, one in zip(shares, summaries, strict=True))))
            rows += [
                {"kind": f"{title} over shares", "first": plain, "second": result.traits.name, "fraction": result.traits.fraction}
                | numbers(one)
                for result, one in zip(group, summaries, strict=True)
            ]
            trend = rank_correlation(shares, np.array([one.mean for one in summaries]))
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
        f"From {100 * shares[0]:g} to {100 * shares[-1]:g} % of the training data, the accuracy of {len(group)} otherwise equal models goes from "
        f"{100 * first:.0f} to {100 * last:.0f} %. The rank correlation with the share is: {'; '.join(words)}."
    )
    return StudyFigure("Accuracy, infidelity and sensitivity against the share of the training data.", tuple(panels)), rows, sentence
