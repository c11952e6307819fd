"""Study 7: whether maps turn with the image, and ignore what the model ignores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attrlib.engine.results import Score
from attrlib.figures.study_figure import Panel, Series, StudyFigure
from attrlib.models import Classifier
from attrlib.protocols.stability import CHANGES, ROBUSTNESS_PAPER
from attrlib.registry import param
from attrlib.specs import RunSpec, StudySpec
from attrlib.statistics import rank_correlation, rank_table
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study
from attrlib.studies.choose import every
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, listed, numbers, point


@STUDIES.register
@dataclass(frozen=True)
class RobustnessStudy(Study):
    """SSIM of each method's map with that of the turned or recoloured image, where the model's probability hardly moved."""

    name, number = "robustness", 7
    title = "Do maps survive a turn and a filter?"
    question = "How alike is a map to itself after a rotation, and after colour filters that leave the prediction as it is?"
    see = (
        "SSIM of the map before and after: 1 is the same map. Only changes that move the probability by less than 0.05 count. A blurred or "
        "constant map gains here, so read it beside a score of faithfulness."
    )
    saw = (
        "The study compares Saliency, Deconvolution, Guided Backprop, Guided Grad-CAM, IG and GradientSHAP by SSIM under rotations of 15 and "
        "30 degrees and colour and sharpness filters, as bars; it reports no ranking that holds for all data sets."
    )
    papers = (ROBUSTNESS_PAPER,)
    minutes = 3.0
    limit: int = param(20, "Images for each model", low=2, high=100_000)
    passes: int = param(8, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)

    def models(self) -> list[str]:
        return [own.name for own in centres(family(tuned=False)) if own.depth][:1]

    def runs(self, given: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        methods = given.methods or every(model, self.passes)
        return [self.run_of(given, traits, model, [f"robustness:change={change}" for change in CHANGES], methods)]

    def analyse(self, found: Sequence[ModelResults]) -> Analysis:
        rows: list[Row] = []
        figures: list[StudyFigure] = []
        sentences: list[str] = []
        more: list[str] = []
        for own in found:
            known = {change: own.by_method(f"robustness:change={change}") for change in CHANGES}
            known = {change: scores for change, scores in known.items() if scores}
            rows += [
                {"model": own.traits.name, "change": change, "method": name} | numbers(score.summary) | {"undefined": score.undefined}
                for change, scores in known.items()
                for name, score in scores.items()
            ]  # fmt: skip
            first = next(iter(known.values()))
            order = sorted(first, key=lambda name: np.nan_to_num(first[name].mean, nan=-2), reverse=True)
            series = tuple(Series(c, tuple(point(n, s[n].summary) for n in order if n in s)) for c, s in known.items())
            figures.append(
                StudyFigure(
                    f"Similarity of maps on {own.traits.name}, most robust to rotation first.",
                    (Panel("dots", own.traits.name, "", "SSIM →", series),),
                )
            )
            lines = [_line(own.traits, change, scores) for change, scores in known.items()]
            sentences.append(
                " ".join([lines[0], *_alike({change: {n: s.mean for n, s in scores.items()} for change, scores in known.items()})])
            )
            more += lines[1:]
        return Analysis(" ".join(sentences), more, rows, figures)


def _line(traits: ModelTraits, change: str, scores: dict[str, Score]) -> str:
    """Name the most and the least robust method."""
    places = [p for p in rank_table({name: score.counted for name, score in scores.items()}) if p.summary.n]
    if not places:
        return f"On {traits.name} no image keeps its probability under {change}."
    tied = [p.name for p in places if p.first == 1]
    also = f", not told apart from {listed(tied[1:], 2)}" if len(tied) > 1 else ""
    return (
        f"On {traits.name} the map most robust to {change} is that of {places[0].name} (SSIM {interval(places[0].summary)}{also}), the least "
        f"that of {places[-1].name} ({interval(places[-1].summary)})."
    )


def _alike(means: dict[str, dict[str, float]]) -> list[str]:
    """Describe whether methods that are robust to rotation are robust to colour filters, too."""
    if "rotation" not in means or len(means) < 2:
        return []
    turned = means["rotation"]
    values = {}
    for change, own in means.items():
        common = [name for name in turned if name in own]
        if change != "rotation":
            values[change] = rank_correlation(np.array([turned[n] for n in common]), np.array([own[n] for n in common]))
    return [f"Over methods, robustness to rotation correlates with that to {', '.join(f'{c} {interval(v)}' for c, v in values.items())}."]
