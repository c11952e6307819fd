"""Study 7: whether maps rotate with the image, and ignore colour changes that the model ignores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attrlib.engine.results import Score
from attrlib.figures.study_figure import Panel, Series, StudyFigure
from attrlib.models import Classifier
from attrlib.protocols.stability import CHANGES, ROBUSTNESS_PAPER
from attrlib.registry import param
from attrlib.significance import rank_table
from attrlib.specs import RunSpec, StudySpec
from attrlib.statistics import rank_correlation
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study
from attrlib.studies.choose import every
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, listed, numbers, point


@STUDIES.register
@dataclass(frozen=True)
class RobustnessStudy(Study):
    """SSIM of each method's map with that of the rotated or recoloured image, where the model's probability hardly changed."""

    name, number = "robustness", 7
    title = "Do maps survive rotation and colour filters?"
    question = "How similar is a map to that of the rotated or colour-filtered image, where the prediction stays the same?"
    see = (
        "SSIM of the maps before and after: 1 is the same map. Only changes that move the probability by less than 0.05 count. Blurred and "
        "constant maps score high, so read this together with a faithfulness score."
    )
    saw = (
        "The paper compares Saliency, Deconvolution, Guided Backprop, Guided Grad-CAM, IG and GradientSHAP by SSIM under rotations of 15 and "
        "30 degrees and colour and sharpness filters, as bar charts; no ranking holds for all data sets."
    )
    papers = (ROBUSTNESS_PAPER,)
    minutes = 3.0
    limit: int = param(20, "Images for each model", low=2, high=100_000)
    passes: int = param(8, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)

    def models(self) -> list[str]:
        return [traits.name for traits in centres(family(tuned=False)) if traits.depth][:1]

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        methods = spec.methods or every(model, self.passes)
        return [self.run_of(spec, traits, model, [f"robustness:change={change}" for change in CHANGES], methods)]

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        rows: list[Row] = []
        figures: list[StudyFigure] = []
        sentences: list[str] = []
        more: list[str] = []
        for result in results:
            model = result.traits.name
            by_change = {change: result.by_method(f"robustness:change={change}") for change in CHANGES}
            by_change = {change: scores for change, scores in by_change.items() if scores}
            if not by_change:
                sentences.append(f"On {model}, robustness is not defined for any of the methods.")
                continue
            rows += [
                {"model": model, "change": change, "method": name} | numbers(score.summary) | {"undefined": score.undefined}
                for change, scores in by_change.items()
                for name, score in scores.items()
            ]  # fmt: skip
            first = next(iter(by_change.values()))
            order = sorted(first, key=lambda name: np.nan_to_num(first[name].mean, nan=-2), reverse=True)
            series = tuple(Series(c, tuple(point(n, s[n].summary) for n in order if n in s)) for c, s in by_change.items())
            caption = f"Similarity of maps on {model}, most robust to rotation first."
            figures.append(StudyFigure(caption, (Panel("dots", model, "", "SSIM →", series),)))
            lines = [_line(model, change, scores) for change, scores in by_change.items()]
            means = {change: {n: s.mean for n, s in scores.items()} for change, scores in by_change.items()}
            sentences.append(" ".join([lines[0], *_alike(means)]))
            more += lines[1:]
        return Analysis(" ".join(sentences), more, rows, figures)


def _line(model: str, change: str, scores: dict[str, Score]) -> str:
    """Name the methods that are most and least robust to a change."""
    places = [p for p in rank_table({name: score.counted for name, score in scores.items()}) if p.summary.n]
    if not places:
        return f"On {model}, no image keeps its probability under {change}."
    tied = [p.name for p in places if p.first == 1]
    also = f", tied with {listed(tied[1:], 2)}" if len(tied) > 1 else ""
    return (
        f"On {model}, {places[0].name} is most robust to {change} (SSIM {interval(places[0].summary)}{also}), {places[-1].name} least "
        f"({interval(places[-1].summary)})."
    )


def _alike(means: dict[str, dict[str, float]]) -> list[str]:
    """Describe whether methods that are robust to rotation are also robust to colour filters."""
    if "rotation" not in means or len(means) < 2:
        return []
    rotated = means["rotation"]
    values = {}
    for change, by_method in means.items():
        common = [name for name in rotated if name in by_method]
        if change != "rotation":
            values[change] = rank_correlation(np.array([rotated[n] for n in common]), np.array([by_method[n] for n in common]))
    return [
        "Over methods, the rank correlation of robustness to rotation with that to other changes is: "
        f"{', '.join(f'{c} {interval(v)}' for c, v in values.items())}."
    ]
