"""Study 3: how depth, width, BatchNorm, bias and tuning on deleted patches change attribution quality."""

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

DEFAULT_METHODS = ("Gradient", "IxG", "IG", "Guided Backprop", "Grad-CAM", "Layer-CAM")


@STUDIES.register
@dataclass(frozen=True)
class Design(Study):
    """Pairs of models that differ in one factor only, compared image by image: layers, channels, BatchNorm, bias, tuning on deleted patches."""

    name, number = "design", 3
    title = "What makes a model explainable?"
    question = "Do depth, width, BatchNorm, bias and tuning on deleted patches change how well a model is explained?"
    see = (
        "Differences in score between two models that differ in one factor only, on the same images. Right of the line, the model with more "
        "of the factor is explained better. If the interval crosses the line, the difference is not significant."
    )
    saw = (
        "Depth lowers the score (IG on ResNet-18, 50, 101, 152: .279, .196, .169, .157); removing BatchNorm raises it (ResNet-50 .196, Fixup "
        ".305), and so does removing biases for IxG (.166 to .241, where it equals IG); width hardly matters (Wide-ResNet-50-2 .175, "
        "ResNet-50 .196). Deletion is in-domain only for tuned models, so scores of plain models are unreliable."
    )
    papers = (IDSDS_PAPER,)
    minutes = 2.0
    limit: int = param(48, "Images for each model", low=2, high=100_000)
    passes: int = param(17, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)

    def models(self) -> list[str]:
        return [traits.name for traits in family()]

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        methods = spec.methods or some(DEFAULT_METHODS, model, self.passes)
        intrinsic = (MethodSpec(traits.intrinsic),) if traits.intrinsic else ()
        return [self.run_of(spec, traits, model, [deletion(traits)], [*methods, *intrinsic])]

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        by_traits = {result.traits: result for result in results}
        pairs = pairs_of(list(by_traits))
        if not pairs:
            raise DataError(
                "no two of these models differ in exactly one factor (depth, width, BatchNorm, bias, tuning); add a model that differs in one only"
            )
        rows: list[Row] = []
        panels: list[Panel] = []
        sentences: list[str] = []
        headline: list[str] = []
        for factor, factor_pairs in pairs.items():
            points: dict[str, list[Point]] = {}
            pooled: dict[str, list[np.ndarray]] = {}
            for less, more in factor_pairs:
                for method, gap in _gaps(by_traits[less], by_traits[more]).items():
                    mean = summary(gap)
                    rows.append({"factor": factor, "less": less.name, "more": more.name, "method": method} | numbers(mean))
                    points.setdefault(method, []).append(point(_label(factor, less, more), mean))
                    pooled.setdefault(method, []).append(gap)
            series = tuple(Series(method, tuple(of_method)) for method, of_method in points.items())
            panels.append(Panel("dots", f"With {FACTORS[factor]}", "", "difference of the score", series, level=0.0))
            headline.append(f"{_all_methods(pooled)} with {FACTORS[factor]}")
            sentences.append(_sentence(factor, len(factor_pairs), pooled))
        sentences += _in_domain([(by_traits[a], by_traits[b]) for a, b in pairs.get("tuned", [])])
        finding = f"Averaged over methods and pairs, the score changes by {listed(headline, 9)}."
        figure = StudyFigure(
            "Score of the model with more of the factor minus that of the other, by method, on the same images.",
            tuple(panels),
            stacked=True,
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
    words = (
        "makes no significant difference"
        if not (up or down)
        else f"raises the score of {up} and lowers that of {down} of {len(signs)} methods"
    )
    return f"With **{FACTORS[factor]}** ({count} pair{'s' if count > 1 else ''}): it {words} ({'; '.join(parts)})."


def _all_methods(pooled: dict[str, list[np.ndarray]]) -> str:
    """Describe the mean difference over methods and pairs, image by image if all have the same images."""
    gaps = [gap for of_method in pooled.values() for gap in of_method]
    same = len({len(gap) for gap in gaps}) == 1
    return signed(summary(np.nanmean(np.stack(gaps), 0) if same else np.concatenate(gaps)))


def _in_domain(pairs: Sequence[tuple[ModelResults, ModelResults]]) -> list[str]:
    """Describe whether the plain and the tuned model of a pair rank the methods alike."""
    values: list[Correlation] = []
    for plain, tuned in pairs:
        a, b = plain.by_method(deletion(plain.traits)), tuned.by_method(deletion(tuned.traits))
        common = [name for name in a if name in b]
        values.append(rank_correlation(np.array([a[n].mean for n in common]), np.array([b[n].mean for n in common])))
    defined = [correlation.value for correlation in values if np.isfinite(correlation.value)]
    if not defined:
        return []
    mean = summary(np.array(defined))
    # A correlation is at most 1, but Student's interval may go beyond.
    text = interval(replace(mean, high=min(mean.high, 1.0)))
    return [
        f"The rankings of the methods on the plain and on the tuned model have a mean correlation of {text} over {len(defined)} "
        f"pair{'s' if len(defined) > 1 else ''}."
    ]
