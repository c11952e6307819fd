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

DEFAULT_METHODS = ("IxG", "IG", "Grad-CAM", "Layer-CAM")
"""Methods that are defined on all networks; all methods on all models would take hours. Occlusion is left out: it deletes patches as the score does, so it would always be best."""
FEWEST = 4
"""Fewest models for a trend."""


@STUDIES.register
@dataclass(frozen=True)
class Accuracy(Study):
    """Accuracy, from the card or measured, against the single deletion score of the best post-hoc method and of intrinsic maps."""

    name, number = "accuracy", 2
    title = "Does accuracy cost attribution quality?"
    question = "In a family of models, are the accurate ones explained worse, and do intrinsically explainable ones lead?"
    see = (
        "Each point is a model: accuracy on the x axis, attribution quality on the y axis. A downward trend is a trade-off; stars are "
        "the intrinsic maps of inherently interpretable networks."
    )
    saw = (
        "Over 16 ImageNet models, higher accuracy goes with lower IDSDS: from X-VGG and VGG-16 (best method about .55 at 72 % top-1) down to "
        "ViT-B/16 (below .15 at 83 %). Intrinsically explainable models lie above: BagNet-33 about .80 at 68 %, B-cos-ResNet-50 about .32 at 76 %."
    )
    papers = (IDSDS_PAPER,)
    minutes = 1.5
    wants_accuracy = True
    limit: int = param(48, "Images for each model", low=2, high=100_000)
    passes: int = param(17, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)

    def models(self) -> list[str]:
        return [traits.name for traits in family(tuned=True)]

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        methods = spec.methods or some(DEFAULT_METHODS, model, self.passes)
        intrinsic = (MethodSpec(traits.intrinsic),) if traits.intrinsic else ()
        return [self.run_of(spec, traits, model, [deletion(traits)], [*methods, *intrinsic])]

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        by_traits = {result.traits: result.by_method(deletion(result.traits)) for result in results}
        best = {
            traits: max(_post_hoc(traits, scores), key=lambda s: s.mean)
            for traits, scores in by_traits.items()
            if _post_hoc(traits, scores)
        }
        intrinsic = {traits: scores[traits.intrinsic] for traits, scores in by_traits.items() if traits.intrinsic in scores}
        measured = [traits for traits in by_traits if traits.accuracy is not None]
        if not best:
            raise DataError("no post-hoc method is defined on any of these models; choose others with --methods")
        rows: list[Row] = [
            {"model": traits.name, "accuracy": traits.accuracy.mean if traits.accuracy else float("nan"), "kind": kind, "method": str(s.method)} | numbers(s.summary)
            for kind, scores in (("best post-hoc", best), ("intrinsic", intrinsic))
            for traits, s in scores.items()
        ]  # fmt: skip
        series = tuple(
            Series(kind, tuple(_point(traits, scores[traits]) for traits in measured if traits in scores))
            for kind, scores in (("best post-hoc method", best), ("intrinsic map", intrinsic))
            if any(traits in scores for traits in measured)
        )
        panel = Panel("points", "", "top-1 accuracy", "single deletion score ↑ better", series, level=0.0)
        figure = StudyFigure("Attribution quality of each model against its accuracy, both with 95 % CIs.", (panel,))
        trend, sentences = _trend(measured, best), _intrinsic(intrinsic, best)
        return Analysis(" ".join([trend, *sentences[:1]]), [*sentences[1:], *_by_method(measured, best, by_traits)], rows, [figure])


def _post_hoc(traits: ModelTraits, scores: dict[str, Score]) -> list[Score]:
    return [score for name, score in scores.items() if name != traits.intrinsic and not np.isnan(score.mean)]


def _point(traits: ModelTraits, score: Score) -> Point:
    accuracy, summary = traits.accuracy, score.summary
    assert accuracy is not None
    return Point(
        accuracy.mean,
        summary.mean,
        summary.low,
        summary.high,
        traits.name.removeprefix("birds_").removesuffix("_tuned"),
        accuracy.low,
        accuracy.high,
        marked=str(score.method) == traits.intrinsic,
    )


def _trend(measured: Sequence[ModelTraits], best: dict[ModelTraits, Score]) -> str:
    both = [traits for traits in measured if traits in best]
    if len(both) < FEWEST:
        return f"{len(both)} models with a known accuracy are too few for a trend: at least {FEWEST} are needed."
    accuracy = _accuracies(both)
    trend = rank_correlation(accuracy, np.array([best[traits].mean for traits in both]))
    significant = trend.low > 0 or trend.high < 0
    words = f"accurate models are explained {'worse' if trend.value < 0 else 'better'}" if significant else "no significant trend"
    return (
        f"Over {len(both)} models with {100 * accuracy.min():.0f} to {100 * accuracy.max():.0f} % accuracy, the rank correlation of accuracy "
        f"with the score of the best post-hoc method is {interval(trend)}: {words}."
    )


def _by_method(
    measured: Sequence[ModelTraits], best: dict[ModelTraits, Score], by_traits: dict[ModelTraits, dict[str, Score]]
) -> list[str]:
    both = [traits for traits in measured if traits in best]
    if len(both) < FEWEST:
        return []
    trends = {}
    for name in dict.fromkeys(str(s.method) for traits in both for s in _post_hoc(traits, by_traits[traits])):
        values = np.array([by_traits[traits][name].mean if name in by_traits[traits] else np.nan for traits in both])
        trends[name] = rank_correlation(_accuracies(both), values)
    return [f"Rank correlation of accuracy with the score, by method: {', '.join(f'{n} {interval(t)}' for n, t in trends.items())}."]


def _accuracies(models: Sequence[ModelTraits]) -> np.ndarray:
    return np.array([traits.accuracy.mean for traits in models if traits.accuracy])


def _intrinsic(intrinsic: dict[ModelTraits, Score], best: dict[ModelTraits, Score]) -> list[str]:
    """Compare each network's intrinsic map with the best post-hoc method on any other model, on the same images."""
    sentences = []
    for traits, score in intrinsic.items():
        others = {other: s for other, s in best.items() if other != traits}
        if others:
            other, top = max(others.items(), key=lambda pair: pair[1].mean)
            gap = paired(score, top)
            sentences.append(
                f"The intrinsic map of {traits.name} scores {interval(score.summary)}; it {verdict(gap, 'beats', 'stays below')}"
                f"{' from' if gap.tie else ''} the best post-hoc result on any other model, {top.method} on {other.name} ({interval(gap)})."
            )
    return sentences
