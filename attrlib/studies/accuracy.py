"""Study 2: whether accurate models are explained better or worse."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attrlib.engine.results import Score
from attrlib.errors import DataError
from attrlib.figures.plates import Panel, Plate, Point, Series
from attrlib.models import Classifier
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import param
from attrlib.specs import MethodSpec, RunSpec, StudySpec
from attrlib.statistics import rank_correlation
from attrlib.studies.base import STUDIES, Analysis, Found, Row, Study, deletion, paired
from attrlib.studies.choose import some
from attrlib.studies.facts import Facts, family
from attrlib.studies.words import interval, numbers, verdict

METHODS_ASKED = ("IxG", "IG", "Grad-CAM", "Layer-CAM")
"""Those that all networks have; all methods on all models would take hours. Occlusion takes away what the score takes away, and would always be the best."""
FEWEST = 4
"""Models of which a trend is told."""


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

    def runs(self, given: StudySpec, facts: Facts, model: Classifier, main: bool) -> list[RunSpec]:
        methods = given.methods or some(METHODS_ASKED, model, self.passes)
        own = (MethodSpec(facts.own),) if facts.own else ()
        return [self.run_of(given, facts, model, [deletion(facts)], [*methods, *own])]

    def analyse(self, found: Sequence[Found]) -> Analysis:
        known = {own.facts: own.by_method(deletion(own.facts)) for own in found}
        best = {facts: max(_post_hoc(facts, scores), key=lambda s: s.mean) for facts, scores in known.items() if _post_hoc(facts, scores)}
        own = {facts: scores[facts.own] for facts, scores in known.items() if facts.own in scores}
        placed = [facts for facts in known if facts.accuracy is not None]
        if not best:
            raise DataError("no post-hoc method is defined on any of these models; name others with --methods")
        rows: list[Row] = [
            {"model": facts.name, "accuracy": facts.accuracy.mean if facts.accuracy else float("nan"), "kind": kind, "method": str(s.method)} | numbers(s.summary)
            for kind, scores in (("best post-hoc", best), ("own map", own))
            for facts, s in scores.items()
        ]  # fmt: skip
        series = tuple(
            Series(kind, tuple(_point(facts, scores[facts]) for facts in placed if facts in scores))
            for kind, scores in (("best post-hoc method", best), ("the network's own map", own))
            if any(facts in scores for facts in placed)
        )
        panel = Panel("points", "", "top-1 accuracy", "single deletion score ↑ better", series, level=0.0)
        plate = Plate("Attribution quality of each model against its accuracy, with 95 % intervals of both.", (panel,))
        trend, intrinsic = _trend(placed, best), _intrinsic(own, best)
        return Analysis(" ".join([trend, *intrinsic[:1]]), [*intrinsic[1:], *_by_method(placed, best, known)], rows, [plate])


def _post_hoc(facts: Facts, scores: dict[str, Score]) -> list[Score]:
    return [score for name, score in scores.items() if name != facts.own and not np.isnan(score.mean)]


def _point(facts: Facts, score: Score) -> Point:
    at, own = facts.accuracy, score.summary
    assert at is not None
    return Point(
        at.mean,
        own.mean,
        own.low,
        own.high,
        facts.name.removeprefix("birds_").removesuffix("_tuned"),
        at.low,
        at.high,
        marked=str(score.method) == facts.own,
    )


def _trend(placed: Sequence[Facts], best: dict[Facts, Score]) -> str:
    both = [facts for facts in placed if facts in best]
    if len(both) < FEWEST:
        return f"{len(both)} models with a known accuracy are too few for a trend."
    accuracy = _accuracies(both)
    trend = rank_correlation(accuracy, np.array([best[facts].mean for facts in both]))
    certain = f"accurate models are explained {'worse' if trend.value < 0 else 'better'}"
    words = certain if trend.low > 0 or trend.high < 0 else "no trend is certain"
    return (
        f"Over {len(both)} models, of {100 * accuracy.min():.0f} to {100 * accuracy.max():.0f} % accuracy, accuracy and the score of the best "
        f"post-hoc method correlate with {interval(trend)}: {words}."
    )


def _by_method(placed: Sequence[Facts], best: dict[Facts, Score], known: dict[Facts, dict[str, Score]]) -> list[str]:
    both = [facts for facts in placed if facts in best]
    if len(both) < FEWEST:
        return []
    trends = {}
    for name in dict.fromkeys(str(s.method) for facts in both for s in _post_hoc(facts, known[facts])):
        values = np.array([known[facts][name].mean if name in known[facts] else np.nan for facts in both])
        trends[name] = rank_correlation(_accuracies(both), values)
    return [
        f"Method by method, accuracy correlates with the score of {', of '.join(f'{n} with {interval(t)}' for n, t in trends.items())}."
    ]


def _accuracies(models: Sequence[Facts]) -> np.ndarray:
    return np.array([facts.accuracy.mean for facts in models if facts.accuracy])


def _intrinsic(own: dict[Facts, Score], best: dict[Facts, Score]) -> list[str]:
    """Each network's own map against the best post-hoc method on any other model, on the same images."""
    sentences = []
    for facts, score in own.items():
        others = {other: s for other, s in best.items() if other != facts}
        if others:
            other, top = max(others.items(), key=lambda pair: pair[1].mean)
            gap = paired(score, top)
            sentences.append(
                f"The own map of {facts.name} scores {interval(score.summary)}; it {verdict(gap, 'leads', 'falls behind')}"
                f"{' from' if gap.tie else ''} the best post-hoc result on any other model, {top.method} on {other.name} ({interval(gap)})."
            )
    return sentences
