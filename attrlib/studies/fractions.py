"""What more training data do to accuracy and to scores: lines over the share of the data that each of several twins was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from attrlib.figures.plates import Panel, Plate, Series
from attrlib.statistics import rank_correlation
from attrlib.studies.base import Found, Row
from attrlib.studies.facts import Facts
from attrlib.studies.words import interval, numbers, point

FEWEST = 3
"""Shares that make a line."""


def twins(found: Sequence[Found]) -> list[list[Found]]:
    """Groups of models that differ in the share of the training data alone, each sorted by it; only groups of `FEWEST` shares or more."""
    groups: dict[Facts, dict[float, Found]] = {}
    for own in found:
        if np.isfinite(own.facts.fraction) and own.facts.accuracy is not None:
            alike = replace(own.facts, name="", accuracy=None, fraction=0.0)
            groups.setdefault(alike, {})[own.facts.fraction] = own
    return [[group[share] for share in sorted(group)] for group in groups.values() if len(group) >= FEWEST]


def over_fractions(group: Sequence[Found], protocols: Mapping[str, str]) -> tuple[Plate, list[Row], str]:
    """Accuracy and each method's scores against the share, by protocols of these titles; and in words how both go with it."""
    shares = np.array([own.facts.fraction for own in group])
    accuracies = [own.facts.accuracy for own in group if own.facts.accuracy]
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
                {"kind": f"{title} over shares", "first": plain, "second": own.facts.name, "fraction": own.facts.fraction} | numbers(one)
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
    return Plate("Accuracy, infidelity and sensitivity over the share of the training data.", tuple(panels)), rows, sentence
