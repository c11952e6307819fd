"""Study 2: whether accurate models are explained better or worse."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attrlib.analysis.differences import paired
from attrlib.engine.results import Score
from attrlib.errors import DataError
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure
from attrlib.models import Classifier
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import param
from attrlib.specs import MethodSpec, RunSpec, StudySpec
from attrlib.statistics import rank_correlation
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study, deletion
from attrlib.studies.choose import some
from attrlib.studies.traits import ModelTraits, family
from attrlib.studies.words import interval, numbers, verdict

METHODS_ASKED = ("IxG", "IG", "Grad-CAM", "Layer-CAM")
"""Methods that are defined on all networks; all methods on all models would take hours. Occlusion deletes what the score deletes, so it would always be best."""
FEWEST = 4
"""Fewest models to report a trend of."""


@STUDIES.register
@dataclass(frozen=True)
class Accuracy(Study):
    """Accuracy, from the card or measured, against the single deletion score of the best post-hoc method, and of a network's own map."""

    name, number = "accuracy", 2
    title = "Does accuracy cost attribution quality?"
    question = "Over a family of models: are the accurate ones explained worse, and do intrinsically explainable ones lead?"
    see = (
        "A point for each model: its accuracy across, attribution quality up. A falling cloud is a trade-off; stars are the maps that "
        "networks give of themselves."
    )
    saw = (
        "Accuracy trades against IDSDS over 16 ImageNet models: from X-VGG and VGG-16 (best method about .55 at 72 % top-1) down to ViT-B/16 "
        "(below .15 at 83 %); intrinsically explainable models lie above: BagNet-33 about .80 at 68 %, B-cos-ResNet-50 about .32 at 76 %."
    )
    papers = (IDSDS_PAPER,)
    minutes = 1.5
    wants_accuracy = True
    limit: int = param(48, "Images for each model", low=2, high=100_000)
    passes: int = param(17, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)

    def models(self) -> list[str]:
        return [own.name for own in family(tuned=True)]

    def runs(self, given: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        methods = given.methods or some(METHODS_ASKED, model, self.passes)
        own = (MethodSpec(traits.own),) if traits.own else ()
        return [self.run_of(given, traits, model, [deletion(traits)], [*methods, *own])]

    def analyse(self, found: Sequence[ModelResults]) -> Analysis:
        known = {own.traits: own.by_method(deletion(own.traits)) for own in found}
        best = {
            traits: max(_post_hoc(traits, scores), key=lambda s: s.mean) for traits, scores in known.items() if _post_hoc(traits, scores)
        }
        own = {traits: scores[traits.own] for traits, scores in known.items() if traits.own in scores}
        placed = [traits for traits in known if traits.accuracy is not None]
        if not best:
            raise DataError("no post-hoc method is defined on any of these models; name others with --methods")
        rows: list[Row] = [
            {"model": traits.name, "accuracy": traits.accuracy.mean if traits.accuracy else float("nan"), "kind": kind, "method": str(s.method)} | numbers(s.summary)
            for kind, scores in (("best post-hoc", best), ("own map", own))
            for traits, s in scores.items()
        ]  # fmt: skip
        series = tuple(
            Series(kind, tuple(_point(traits, scores[traits]) for traits in placed if traits in scores))
            for kind, scores in (("best post-hoc method", best), ("the network's own map", own))
            if any(traits in scores for traits in placed)
        )
        panel = Panel("points", "", "top-1 accuracy", "single deletion score ↑ better", series, level=0.0)
        figure = StudyFigure("Attribution quality of each model against its accuracy, with 95 % intervals of both.", (panel,))
        trend, intrinsic = _trend(placed, best), _intrinsic(own, best)
        return Analysis(" ".join([trend, *intrinsic[:1]]), [*intrinsic[1:], *_by_method(placed, best, known)], rows, [figure])


def _post_hoc(traits: ModelTraits, scores: dict[str, Score]) -> list[Score]:
    return [score for name, score in scores.items() if name != traits.own and not np.isnan(score.mean)]


def _point(traits: ModelTraits, score: Score) -> Point:
    at, own = traits.accuracy, score.summary
    assert at is not None
    return Point(
        at.mean,
        own.mean,
        own.low,
        own.high,
        traits.name.removeprefix("birds_").removesuffix("_tuned"),
        at.low,
        at.high,
        marked=str(score.method) == traits.own,
    )


def _trend(placed: Sequence[ModelTraits], best: dict[ModelTraits, Score]) -> str:
    both = [traits for traits in placed if traits in best]
    if len(both) < FEWEST:
        return f"{len(both)} models with a known accuracy are too few for a trend."
    accuracy = _accuracies(both)
    trend = rank_correlation(accuracy, np.array([best[traits].mean for traits in both]))
    certain = f"accurate models are explained {'worse' if trend.value < 0 else 'better'}"
    words = certain if trend.low > 0 or trend.high < 0 else "no trend is certain"
    return (
        f"Over {len(both)} models, of {100 * accuracy.min():.0f} to {100 * accuracy.max():.0f} % accuracy, accuracy and the score of the best "
        f"post-hoc method correlate with {interval(trend)}: {words}."
    )


def _by_method(placed: Sequence[ModelTraits], best: dict[ModelTraits, Score], known: dict[ModelTraits, dict[str, Score]]) -> list[str]:
    both = [traits for traits in placed if traits in best]
    if len(both) < FEWEST:
        return []
    trends = {}
    for name in dict.fromkeys(str(s.method) for traits in both for s in _post_hoc(traits, known[traits])):
        values = np.array([known[traits][name].mean if name in known[traits] else np.nan for traits in both])
        trends[name] = rank_correlation(_accuracies(both), values)
    return [
        f"Method by method, accuracy correlates with the score of {', of '.join(f'{n} with {interval(t)}' for n, t in trends.items())}."
    ]


def _accuracies(models: Sequence[ModelTraits]) -> np.ndarray:
    return np.array([traits.accuracy.mean for traits in models if traits.accuracy])


def _intrinsic(own: dict[ModelTraits, Score], best: dict[ModelTraits, Score]) -> list[str]:
    """Compare each network's intrinsic map with the best post-hoc method on any other model, on the same images."""
    sentences = []
    for traits, score in own.items():
        others = {other: s for other, s in best.items() if other != traits}
        if others:
            other, top = max(others.items(), key=lambda pair: pair[1].mean)
            gap = paired(score, top)
            sentences.append(
                f"The own map of {traits.name} scores {interval(score.summary)}; it {verdict(gap, 'leads', 'falls behind')}"
                f"{' from' if gap.tie else ''} the best post-hoc result on any other model, {top.method} on {other.name} ({interval(gap)})."
            )
    return sentences
