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
from attrlib.registry import param, params_of
from attrlib.specs import ProtocolSpec, RunSpec, StudySpec
from attrlib.statistics import Correlation, jackknife, mean_correlation, rank_correlation
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study, deletion
from attrlib.studies.choose import COUNTS, every, some
from attrlib.studies.fractions import over_fractions, twins
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, numbers, point

ASKED = ("Gradient", "IxG", "IG", "Guided Backprop")
"""Methods of the infidelity study that are defined on every network."""
NOISES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
INFIDELITY, NORMALISED, SENSITIVITY = "infidelity:samples=4", "infidelity:normalize=true:samples=4", "sensitivity:samples=2"
CHEAP = 6
"""Most samples, steps and other repetitions of a protocol."""


@STUDIES.register
@dataclass(frozen=True)
class Agreement(Study):
    """Rank correlation of all protocols over methods and over images; infidelity and sensitivity against accuracy; infidelity and its noise."""

    name, number = "agreement", 6
    title = "Do metrics agree?"
    question = "Would another protocol have ranked the methods alike, and do infidelity and sensitivity tell how good a model is?"
    see = (
        "Each cell is a rank correlation of two protocols, both turned so that higher is better: left over methods (do they rank them alike?), "
        "right over images (do they find the same maps good?). Below, infidelity and sensitivity against accuracy, and infidelity "
        "against the scale of its noise, as it is and with each map scaled to fit. Where three or more models differ in the share of their "
        "training data alone, lines over that share."
    )
    saw = (
        "The study of 75 fine-tuned models (ResNet18, EfficientNet-B0, DenseNet121 on 20 to 100 % of the training data) asked whether infidelity "
        "and sensitivity agree with each other or with accuracy, and found no metric that lets one decide. To first order infidelity is "
        "the noise's variance times the squared distance to the gradient: it measures scale."
    )
    papers = (ROBUSTNESS_PAPER, INFIDELITY_PAPER)
    minutes = 3.0
    wants_accuracy = True
    limit: int = param(16, "Images for each model", low=3, high=100_000)
    passes: int = param(8, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)
    grids: int = param(4, "Grids, for protocols on grids", low=2, high=100_000)

    def models(self) -> list[str]:
        every = family()
        first = [own for own in centres(family(tuned=True)) if own.depth][:1]
        return list(dict.fromkeys(own.name for own in (*first, *every)))

    def runs(self, given: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        asked = given.methods or some(ASKED, model, self.passes)
        runs = [self.run_of(given, traits, model, [INFIDELITY, SENSITIVITY], asked)]
        if main:
            methods = given.methods or every(model, self.passes)
            images, grids = self._protocols(traits)
            runs += [self.run_of(given, traits, model, [name], methods) for name in images]
            few = replace(self, limit=self.grids)
            runs += [few.run_of(given, traits, model, [name], methods) for name in grids]
            noisy = [f"{own}:noise={noise:g}" for noise in NOISES for own in (INFIDELITY, NORMALISED)]
            runs.append(self.run_of(given, traits, model, noisy, asked))
        return runs

    def _protocols(self, traits: ModelTraits) -> tuple[list[str], list[str]]:
        """Return all protocols, on images and on grids, with the variant of single deletion that fits the model."""
        left_out = {"idsds", "sds"} - {deletion(traits)}
        names = [name for name in PROTOCOLS if name not in left_out]
        images, grids = ([_cheap(n) for n in names if PROTOCOLS[n].items == kind] for kind in ("images", "grids"))
        return images, grids

    def analyse(self, found: Sequence[ModelResults]) -> Analysis:
        sentences: list[str] = []
        figures: list[StudyFigure] = []
        rows: list[Row] = []
        compared = _compared(found[0])
        agreements = dict(pairwise(compared))
        over_methods = {pair: agreement.over_methods for pair, agreement in agreements.items()}
        over_images = {pair: agreement.over_items for pair, agreement in agreements.items()}
        if over_methods:
            rows += [
                {"kind": kind, "first": a, "second": b} | numbers(value)
                for kind, values in (("over methods", over_methods), ("over images", over_images))
                for (a, b), value in values.items()
            ]
            figures.append(_matrices(found[0].traits, list(compared), over_methods, over_images))
            sentences += _agreement_words(found[0].traits, compared, over_methods, over_images)
        for own, more in (_against_accuracy(found), _against_noise(found[0])):
            if own is not None:
                figures.append(own[0])
                rows += own[1]
                sentences += more
        for group in twins(found):
            figure, more_rows, sentence = over_fractions(group, {"infidelity": INFIDELITY, "sensitivity": SENSITIVITY})
            figures.append(figure)
            rows += more_rows
            sentences.append(sentence)
        if not sentences:
            raise DataError("no two protocols are defined on these models and data; use others")
        return Analysis(sentences[0], sentences[1:], rows, figures)


def _cheap(name: str) -> str:
    """Return a protocol with fewer samples, steps or stages, and a confidence that small models reach."""
    values = []
    for own in params_of(PROTOCOLS[name]):
        if own.name in (*COUNTS, "stages") and own.kind is int and int(own.default or 0) > CHEAP:
            values.append((own.name, max(CHEAP, int(own.low or 0))))
        elif own.name == "stages":
            values.append((own.name, 2))
    special = {"sensitivity": SENSITIVITY, "infidelity": INFIDELITY}
    grid = (("confidence", 0.9),) if PROTOCOLS[name].items == "grids" else ()
    return special.get(name) or str(ProtocolSpec(name, (*grid, *values)))


Scores = dict[str, Score]


def _compared(found: ModelResults) -> dict[str, Scores]:
    """Return scores by protocol and method, for protocols with scores of at least three methods."""
    known: dict[str, Scores] = {}
    for protocol, method, score in found.scores():
        if "noise" not in protocol.values:
            known.setdefault(protocol.name, {})[str(method)] = score
    return {name: own for name, own in known.items() if len(own) > 2}


Pairs = dict[tuple[str, str], Correlation]


def _matrices(traits: ModelTraits, names: Sequence[str], methods: Pairs, images: Pairs) -> StudyFigure:
    def series(values: dict[tuple[str, str], float]) -> tuple[Series, ...]:
        both = values | {(b, a): v for (a, b), v in values.items()} | {(n, n): 1.0 for n in names}
        return tuple(Series(a, tuple(Point(b, both[a, b]) for b in names)) for a in names)

    panels = (
        Panel("matrix", "over methods", "", "", series({pair: own.value for pair, own in methods.items()})),
        Panel("matrix", "over images", "", "", series({pair: own.value for pair, own in images.items()})),
    )
    return StudyFigure(f"Rank correlation of protocols on {traits.name}. Empty cells have no items in common.", panels)


def _agreement_words(traits: ModelTraits, compared: dict[str, Scores], methods: Pairs, images: Pairs) -> list[str]:
    known = {pair: own for pair, own in methods.items() if np.isfinite(own.value)}
    if not known:
        return []
    most, least = max(known, key=lambda p: known[p].value), min(known, key=lambda p: known[p].value)
    common = [name for name in next(iter(compared.values())) if all(name in own for own in compared.values())]
    means = np.array([[own[name].mean * own[name].sign for name in common] for own in compared.values()])
    mean = jackknife(mean_correlation, means, (-1.0, 1.0))
    certain = sum(own.low > 0 for own in known.values())
    against = sum(own.high < 0 for own in known.values())
    alike = [own.value for own in images.values() if np.isfinite(own.value)]
    single = f" Over the images of one method two protocols correlate with {np.mean(alike):.2f} on average." if alike else ""
    return [
        f"On {traits.name} two of {len(compared)} protocols rank the methods with a mean correlation of {interval(mean)}: of "
        f"{len(known)} pairs {certain} agree beyond doubt and {against} contradict{'s' if against == 1 else ''} each other.{single}",
        f"Most alike are {_both(most)} ({interval(known[most])}), least {_both(least)} ({interval(known[least])}).",
    ]


def _both(pair: tuple[str, str]) -> str:
    return " and ".join(PROTOCOLS[name].title for name in pair)


Part = tuple[tuple[StudyFigure, list[Row]] | None, list[str]]


def _against_accuracy(found: Sequence[ModelResults]) -> Part:
    """Compare infidelity and sensitivity of each method with the model's accuracy and its share of the training data."""
    placed = [own for own in found if own.traits.accuracy is not None]
    if len(placed) < 2:
        return None, []
    panels: list[Panel] = []
    rows: list[Row] = []
    words: list[str] = []
    for protocol, title in ((INFIDELITY, "infidelity"), (SENSITIVITY, "sensitivity")):
        points: dict[str, list[tuple[ModelResults, Score]]] = {}
        for own in placed:
            for method, score in own.by_method(protocol).items():
                points.setdefault(method.partition(":")[0], []).append((own, score))
        series = []
        for method, pairs in points.items():
            if len(pairs) < 2:
                continue
            series.append(Series(method, tuple(point(_accuracy(own), score.summary, own.traits.name) for own, score in pairs)))
            rows += [
                {"kind": title, "first": method, "second": own.traits.name, "accuracy": _accuracy(own), "fraction": own.traits.fraction} | numbers(score.summary)
                for own, score in pairs
            ]  # fmt: skip
            trend = rank_correlation(np.array([_accuracy(own) for own, _ in pairs]), np.array([score.mean for _, score in pairs]))
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
    shares = sorted({own.traits.fraction for own in placed if np.isfinite(own.traits.fraction)})
    note = (
        f" Models were trained on {' to '.join(f'{100 * s:g}' for s in (shares[0], shares[-1]))} % of the data." if len(shares) > 1 else ""
    )
    sentence = f"Over {len(placed)} models accuracy correlates with {'; '.join(words)}.{note}" if words else ""
    return (StudyFigure("Infidelity and sensitivity of each model and method against accuracy.", tuple(panels)), rows), [
        sentence
    ] if sentence else []


def _accuracy(found: ModelResults) -> float:
    return found.traits.accuracy.mean if found.traits.accuracy else float("nan")


def _against_noise(found: ModelResults) -> Part:
    """Compare infidelity with the scale of its noise, with and without scaling each map."""
    panels: list[Panel] = []
    rows: list[Row] = []
    tops: dict[str, list[str]] = {}
    for base, title in ((INFIDELITY, "as it is"), (NORMALISED, "each map scaled to fit")):
        known: dict[str, dict[float, Score]] = {}
        for noise in NOISES:
            for method, score in found.by_method(f"{base}:noise={noise:g}").items():
                known.setdefault(method, {})[noise] = score
        if not known:
            continue
        series = tuple(Series(m.partition(":")[0], tuple(Point(n, s.mean) for n, s in own.items())) for m, own in known.items())
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
            for m, own in known.items()
            for n, s in own.items()
        ]
        tops[title] = [_least(known, noise) for noise in NOISES if any(noise in own for own in known.values())]
    if not panels:
        return None, []
    parts = [f"{title}, {_runs(own)}" for title, own in tops.items()]
    words = f"On {found.traits.name} the least infidelity has, over noise from {NOISES[0]:g} to {NOISES[-1]:g}: {'; '.join(parts)}."
    return (StudyFigure(f"Infidelity on {found.traits.name} against the standard deviation of its noise.", tuple(panels)), rows), [words]


def _runs(names: Sequence[str]) -> str:
    """Name the leading methods, from the least noise to the most."""
    changes = [name for k, name in enumerate(names) if k == 0 or names[k - 1] != name]
    return " then ".join(changes)


def _least(known: dict[str, dict[float, Score]], noise: float) -> str:
    """Return the method with the least infidelity at that noise."""
    means = {method: own[noise].mean for method, own in known.items() if noise in own and np.isfinite(own[noise].mean)}
    return min(means, key=means.__getitem__).partition(":")[0] if means else "none"
