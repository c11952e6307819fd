"""Study 3: what depth, width, BatchNorm, bias, and tuning on deleted patches do to attribution quality."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attrlib.analysis.differences import aligned
from attrlib.errors import DataError
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure
from attrlib.models import Classifier
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import param
from attrlib.specs import MethodSpec, RunSpec, StudySpec
from attrlib.statistics import Correlation, rank_correlation, summary
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study, deletion
from attrlib.studies.choose import some
from attrlib.studies.traits import FACTORS, ModelTraits, family, pairs_of
from attrlib.studies.words import interval, listed, numbers, point, signed

ASKED = ("Gradient", "IxG", "IG", "Guided Backprop", "Grad-CAM", "Layer-CAM")


@STUDIES.register
@dataclass(frozen=True)
class Design(Study):
    """Models that differ in one thing alone, compared image by image: more layers, more channels, BatchNorm, bias, tuning on deletions."""

    name, number = "design", 3
    title = "What makes a model explainable?"
    question = "Do depth, width, BatchNorm, bias and tuning on deleted patches change how well a model is explained?"
    see = (
        "Differences between two models that differ in one thing alone, on the same images: right of the line the model with more of it is "
        "explained better. An interval across the line is no difference."
    )
    saw = (
        "Deeper is worse (IG on ResNet-18, 50, 101, 152: .279, .196, .169, .157); without BatchNorm is better (ResNet-50 .196, Fixup .305) "
        "and without bias IxG is, too (.166 to .241, where it equals IG); width hardly matters (Wide-ResNet-50-2 .175 to ResNet-50 .196). "
        "Only tuned models make deletion in-domain, so scores of plain models are not to be trusted."
    )
    papers = (IDSDS_PAPER,)
    minutes = 2.0
    limit: int = param(48, "Images for each model", low=2, high=100_000)
    passes: int = param(17, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)

    def models(self) -> list[str]:
        return [own.name for own in family()]

    def runs(self, given: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        methods = given.methods or some(ASKED, model, self.passes)
        own = (MethodSpec(traits.own),) if traits.own else ()
        return [self.run_of(given, traits, model, [deletion(traits)], [*methods, *own])]

    def analyse(self, found: Sequence[ModelResults]) -> Analysis:
        by_traits = {own.traits: own for own in found}
        pairs = pairs_of(list(by_traits))
        if not pairs:
            raise DataError("no two of these models differ in one thing alone (depth, width, BatchNorm, bias, tuning); add the twin of one")
        rows: list[Row] = []
        panels: list[Panel] = []
        sentences: list[str] = []
        headline: list[str] = []
        for factor, own in pairs.items():
            points: dict[str, list[Point]] = {}
            pooled: dict[str, list[np.ndarray]] = {}
            for less, more in own:
                for method, gap in _gaps(by_traits[less], by_traits[more]).items():
                    mean = summary(gap)
                    rows.append({"factor": factor, "less": less.name, "more": more.name, "method": method} | numbers(mean))
                    points.setdefault(method, []).append(point(_label(factor, less, more), mean))
                    pooled.setdefault(method, []).append(gap)
            series = tuple(Series(method, tuple(own)) for method, own in points.items())
            panels.append(Panel("dots", f"With {FACTORS[factor]}", "", "difference of the score", series, level=0.0))
            headline.append(f"{_all_methods(pooled)} with {FACTORS[factor]}")
            sentences.append(_sentence(factor, len(own), pooled))
        sentences += _in_domain([(by_traits[a], by_traits[b]) for a, b in pairs.get("tuned", [])])
        finding = f"Averaged over methods and pairs the score changes by {listed(headline, 9)}."
        figure = StudyFigure(
            "How much higher the model with more of it scores, method by method, on the same images.", tuple(panels), stacked=True
        )
        return Analysis(finding, sentences, rows, [figure])


def _gaps(less: ModelResults, more: ModelResults) -> dict[str, np.ndarray]:
    """Return by method how much higher the second model scores on each shared image."""
    a, b = less.by_method(deletion(less.traits)), more.by_method(deletion(more.traits))
    return {method: np.subtract(*aligned(b[method], a[method])) for method in a if method in b}


def _label(factor: str, less: ModelTraits, more: ModelTraits) -> str:
    return less.name if factor == "tuned" else f"{less.name} → {more.name}"


def _sentence(factor: str, count: int, pooled: dict[str, list[np.ndarray]]) -> str:
    """Describe the effect of a factor by method over its pairs. Images are averaged over pairs first, so that each counts once."""
    parts, signs = [], []
    for method, gaps in pooled.items():
        same = len({len(gap) for gap in gaps}) == 1 and len(gaps) == count
        mean = summary(np.nanmean(np.stack(gaps), 0) if same else np.concatenate(gaps))
        parts.append(f"{method} {signed(mean)}")
        signs.append(0 if mean.low <= 0 <= mean.high or np.isnan(mean.low) else int(np.sign(mean.mean)))
    up, down = signs.count(1), signs.count(-1)
    words = "makes no certain difference" if not (up or down) else f"helps {up} and harms {down} of {len(signs)} methods"
    return f"With **{FACTORS[factor]}** ({count} pair{'s' if count > 1 else ''}): it {words} ({'; '.join(parts)})."


def _all_methods(pooled: dict[str, list[np.ndarray]]) -> str:
    """Describe the mean difference over methods and pairs, image by image if all have the same images."""
    gaps = [gap for own in pooled.values() for gap in own]
    same = len({len(gap) for gap in gaps}) == 1
    return signed(summary(np.nanmean(np.stack(gaps), 0) if same else np.concatenate(gaps)))


def _in_domain(pairs: Sequence[tuple[ModelResults, ModelResults]]) -> list[str]:
    """Describe whether plain and tuned twins rank the methods alike."""
    values: list[Correlation] = []
    for plain, tuned in pairs:
        a, b = plain.by_method(deletion(plain.traits)), tuned.by_method(deletion(tuned.traits))
        common = [name for name in a if name in b]
        values.append(rank_correlation(np.array([a[n].mean for n in common]), np.array([b[n].mean for n in common])))
    known = [own.value for own in values if np.isfinite(own.value)]
    if not known:
        return []
    found = summary(np.array(known))
    # Correlations end at 1, but a normal interval may not.
    mean = interval(replace(found, high=min(found.high, 1.0)))
    return [f"Plain and tuned twins rank the methods with a correlation of {mean} over {len(known)} pair{'s' if len(known) > 1 else ''}."]
