"""Study 6: whether protocols agree with each other, and with accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attrlib.analysis.agreement import pairwise
from attrlib.engine.results import Score
from attrlib.errors import DataError
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure
from attrlib.models import Classifier
from attrlib.protocols import PROTOCOLS
from attrlib.protocols.faithfulness import INFIDELITY_PAPER
from attrlib.protocols.stability import ROBUSTNESS_PAPER
from attrlib.registry import param
from attrlib.specs import RunSpec, StudySpec
from attrlib.statistics import Correlation, jackknife, mean_correlation, rank_correlation
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study, deletion
from attrlib.studies.choose import cheap, every, some
from attrlib.studies.fractions import over_fractions, twins
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, numbers, point

DEFAULT_METHODS = ("Gradient", "IxG", "IG", "Guided Backprop")
"""Methods for infidelity and sensitivity that are defined on every network."""
NOISES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
INFIDELITY, NORMALISED, SENSITIVITY = "infidelity:samples=4", "infidelity:normalize=true:samples=4", "sensitivity:samples=2"
CHEAPER = {"sensitivity": SENSITIVITY, "infidelity": INFIDELITY}
"""Protocols that are made cheaper than `cheap` makes them."""


@STUDIES.register
@dataclass(frozen=True)
class Agreement(Study):
    """Rank correlation of all protocols over methods and over images; infidelity and sensitivity against accuracy; infidelity and its noise."""

    name, number = "agreement", 6
    title = "Do metrics agree?"
    question = "Do protocols rank the methods alike, and do infidelity and sensitivity predict how accurate a model is?"
    see = (
        "Each square is the rank correlation of two protocols, both oriented so that higher is better: left over methods (do they rank them "
        "alike?), right over images (do they prefer the same maps?). Below: infidelity and sensitivity against accuracy, and infidelity "
        "against the scale of its noise, as it is and with each map scaled to fit. If three or more models differ only in their share of the "
        "training data, also accuracy and both scores against that share."
    )
    saw = (
        "The study of 75 fine-tuned models (ResNet18, EfficientNet-B0, DenseNet121 on 20 to 100 % of the training data) asked whether infidelity "
        "and sensitivity agree with each other or with accuracy, and found no metric that decides it. To first order, infidelity is the "
        "variance of the noise times the squared distance of the map to the gradient: it measures scale."
    )
    papers = (ROBUSTNESS_PAPER, INFIDELITY_PAPER)
    minutes = 3.0
    wants_accuracy = True
    limit: int = param(16, "Images for each model", low=3, high=100_000)
    passes: int = param(8, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)
    grids: int = param(4, "Grids for each protocol on grids", low=2, high=100_000)

    def models(self) -> list[str]:
        first = [traits for traits in centres(family(tuned=True)) if traits.depth][:1]
        return list(dict.fromkeys(traits.name for traits in (*first, *family())))

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        few_methods = spec.methods or some(DEFAULT_METHODS, model, self.passes)
        runs = [self.run_of(spec, traits, model, [INFIDELITY, SENSITIVITY], few_methods)]
        if main:
            methods = spec.methods or every(model, self.passes)
            images, grids = self._protocols(traits)
            runs += [self.run_of(spec, traits, model, [name], methods) for name in images]
            on_grids = replace(self, limit=self.grids)
            runs += [on_grids.run_of(spec, traits, model, [name], methods) for name in grids]
            noisy = [f"{protocol}:noise={noise:g}" for noise in NOISES for protocol in (INFIDELITY, NORMALISED)]
            runs.append(self.run_of(spec, traits, model, noisy, few_methods))
        return runs

    def _protocols(self, traits: ModelTraits) -> tuple[list[str], list[str]]:
        """Return all protocols on images and on grids that judge maps, with the variant of single deletion that fits the model."""
        left_out = {"idsds", "sds"} - {deletion(traits)}
        names = [name for name, cls in PROTOCOLS.items() if name not in left_out and cls.quick and cls().cost.inputs]
        images, grids = ([CHEAPER.get(n) or cheap(n) for n in names if PROTOCOLS[n].items == kind] for kind in ("images", "grids"))
        return images, grids

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        sentences: list[str] = []
        figures: list[StudyFigure] = []
        rows: list[Row] = []
        compared = _compared(results[0])
        agreements = dict(pairwise(compared))
        over_methods = {pair: agreement.over_methods for pair, agreement in agreements.items()}
        over_images = {pair: agreement.over_items for pair, agreement in agreements.items()}
        if over_methods:
            rows += [
                {"kind": kind, "first": a, "second": b} | numbers(value)
                for kind, values in (("over methods", over_methods), ("over images", over_images))
                for (a, b), value in values.items()
            ]
            figures.append(_matrices(results[0].traits, list(compared), over_methods, over_images))
            sentences += _agreement_words(results[0].traits, compared, over_methods, over_images)
        for part, part_sentences in (_against_accuracy(results), _against_noise(results[0])):
            if part is not None:
                figures.append(part[0])
                rows += part[1]
                sentences += part_sentences
        for group in twins(results):
            figure, group_rows, sentence = over_fractions(group, {"infidelity": INFIDELITY, "sensitivity": SENSITIVITY})
            figures.append(figure)
            rows += group_rows
            sentences.append(sentence)
        if not sentences:
            raise DataError("no two protocols are defined on these models and data; choose other models or data")
        return Analysis(sentences[0], sentences[1:], rows, figures)


Scores = dict[str, Score]


def _compared(result: ModelResults) -> dict[str, Scores]:
    """Return scores by protocol and method, for protocols with scores of at least three methods."""
    by_protocol: dict[str, Scores] = {}
    for protocol, method, score in result.scores():
        if "noise" not in protocol.values:
            by_protocol.setdefault(protocol.name, {})[str(method)] = score
    return {name: scores for name, scores in by_protocol.items() if len(scores) > 2}


Pairs = dict[tuple[str, str], Correlation]


def _matrices(traits: ModelTraits, names: Sequence[str], methods: Pairs, images: Pairs) -> StudyFigure:
    def series(values: dict[tuple[str, str], float]) -> tuple[Series, ...]:
        both = values | {(b, a): v for (a, b), v in values.items()} | {(n, n): 1.0 for n in names}
        return tuple(Series(a, tuple(Point(b, both[a, b]) for b in names)) for a in names)

    panels = (
        Panel("matrix", "over methods", "", "", series({pair: c.value for pair, c in methods.items()})),
        Panel("matrix", "over images", "", "", series({pair: c.value for pair, c in images.items()})),
    )
    return StudyFigure(f"Rank correlation of protocols on {traits.name}. An empty square is a pair without common items.", panels)


def _agreement_words(traits: ModelTraits, compared: dict[str, Scores], methods: Pairs, images: Pairs) -> list[str]:
    defined = {pair: c for pair, c in methods.items() if np.isfinite(c.value)}
    if not defined:
        return []
    most, least = max(defined, key=lambda p: defined[p].value), min(defined, key=lambda p: defined[p].value)
    common = [name for name in next(iter(compared.values())) if all(name in scores for scores in compared.values())]
    means = np.array([[scores[name].mean * scores[name].sign for name in common] for scores in compared.values()])
    mean = jackknife(mean_correlation, means, (-1.0, 1.0))
    positive = sum(c.low > 0 for c in defined.values())
    negative = sum(c.high < 0 for c in defined.values())
    by_image = [c.value for c in images.values() if np.isfinite(c.value)]
    single = f" Over the images of one method, the mean correlation of two protocols is {np.mean(by_image):.2f}." if by_image else ""
    return [
        f"On {traits.name}, the rankings of the methods by {len(compared)} protocols have a mean pairwise correlation of {interval(mean)}. "
        f"Of {len(defined)} pairs, {positive} correlate positively and {negative} negatively at 95 % confidence.{single}",
        f"The most similar pair is {_both(most)} ({interval(defined[most])}), the least similar {_both(least)} ({interval(defined[least])}).",
    ]


def _both(pair: tuple[str, str]) -> str:
    return " and ".join(PROTOCOLS[name].title for name in pair)


Part = tuple[tuple[StudyFigure, list[Row]] | None, list[str]]


def _against_accuracy(results: Sequence[ModelResults]) -> Part:
    """Compare infidelity and sensitivity of each method with the model's accuracy and its share of the training data."""
    measured = [result for result in results if result.traits.accuracy is not None]
    if len(measured) < 2:
        return None, []
    panels: list[Panel] = []
    rows: list[Row] = []
    words: list[str] = []
    for protocol, title in ((INFIDELITY, "infidelity"), (SENSITIVITY, "sensitivity")):
        points: dict[str, list[tuple[ModelResults, Score]]] = {}
        for result in measured:
            for method, score in result.by_method(protocol).items():
                points.setdefault(method.partition(":")[0], []).append((result, score))
        series = []
        for method, pairs in points.items():
            if len(pairs) < 2:
                continue
            series.append(Series(method, tuple(point(_accuracy(result), score.summary, result.traits.name) for result, score in pairs)))
            rows += [
                {"kind": title, "first": method, "second": result.traits.name, "accuracy": _accuracy(result), "fraction": result.traits.fraction} | numbers(score.summary)
                for result, score in pairs
            ]  # fmt: skip
            trend = rank_correlation(np.array([_accuracy(result) for result, _ in pairs]), np.array([score.mean for _, score in pairs]))
            if trend.n > 3:
                words.append(f"{title} of {method} {interval(trend)}")
        panels.append(
            Panel(
                "points",
                f"{title} against accuracy",
                "top-1 accuracy",
                f"{title} (lower is better)",
                tuple(series),
                log_y=title == "infidelity",
                named=False,
            )
        )
    shares = sorted({result.traits.fraction for result in measured if np.isfinite(result.traits.fraction)})
    note = (
        f" Models were trained on {' to '.join(f'{100 * s:g}' for s in (shares[0], shares[-1]))} % of the data." if len(shares) > 1 else ""
    )
    sentence = f"Over {len(measured)} models, the rank correlation with accuracy is: {'; '.join(words)}.{note}" if words else ""
    return (StudyFigure("Infidelity and sensitivity of each model and method against accuracy.", tuple(panels)), rows), [
        sentence
    ] if sentence else []


def _accuracy(result: ModelResults) -> float:
    return result.traits.accuracy.mean if result.traits.accuracy else float("nan")


def _against_noise(result: ModelResults) -> Part:
    """Compare infidelity with the scale of its noise, with and without scaling each map."""
    panels: list[Panel] = []
    rows: list[Row] = []
    tops: dict[str, list[str]] = {}
    for base, title in ((INFIDELITY, "as it is"), (NORMALISED, "each map scaled to fit")):
        by_method: dict[str, dict[float, Score]] = {}
        for noise in NOISES:
            for method, score in result.by_method(f"{base}:noise={noise:g}").items():
                by_method.setdefault(method, {})[noise] = score
        if not by_method:
            continue
        series = tuple(Series(m.partition(":")[0], tuple(Point(n, s.mean) for n, s in scores.items())) for m, scores in by_method.items())
        panels.append(
            Panel(
                "lines",
                f"infidelity, {title}",
                "noise, in normalised units",
                "infidelity (lower is better)",
                series,
                log_x=True,
                log_y=True,
            )
        )
        rows += [
            {"kind": f"noise, {title}", "first": m, "second": f"{n:g}"} | numbers(s.summary)
            for m, scores in by_method.items()
            for n, s in scores.items()
        ]
        tops[title] = [_lowest(by_method, noise) for noise in NOISES if any(noise in scores for scores in by_method.values())]
    if not panels:
        return None, []
    parts = [f"{title}, {_changes(names)}" for title, names in tops.items()]
    name = result.traits.name
    words = f"On {name}, the methods with the lowest infidelity at noise from {NOISES[0]:g} to {NOISES[-1]:g} are: {'; '.join(parts)}."
    return (StudyFigure(f"Infidelity on {name} against the standard deviation of its noise.", tuple(panels)), rows), [words]


def _changes(names: Sequence[str]) -> str:
    """Name the best methods, from the least noise to the most."""
    changes = [name for k, name in enumerate(names) if k == 0 or names[k - 1] != name]
    return " then ".join(changes)


def _lowest(by_method: dict[str, dict[float, Score]], noise: float) -> str:
    """Return the method with the lowest infidelity at a noise level."""
    means = {method: scores[noise].mean for method, scores in by_method.items() if noise in scores and np.isfinite(scores[noise].mean)}
    return min(means, key=means.__getitem__).partition(":")[0] if means else "none"
