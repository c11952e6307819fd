"""Study 5: how much Gaussian smoothing improves IG and IxG at Input, and its cost compared with SmoothGrad."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attrlib.analysis.differences import paired
from attrlib.data.datasets import Dataset
from attrlib.engine.results import Score
from attrlib.engine.run import RunListener
from attrlib.errors import DataError
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure
from attrlib.methods import create as create_method
from attrlib.methods import resolve as resolve_method
from attrlib.models import Classifier
from attrlib.protocols.localisation import GRID_PAPER
from attrlib.registry import param
from attrlib.specs import MethodSpec, RunSpec, StudySpec
from attrlib.statistics import Summary, summary
from attrlib.store import Store
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study
from attrlib.studies.choose import cost_of
from attrlib.studies.measure import map_correlations
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, numbers, point, verdict

KERNELS = (0, 9, 17, 33, 65, 129, 257)
"""Kernel sizes of the paper, for grid cells of 224 px."""
PAPER_SIDE, MOST = 224, 257
SMOOTHED, COMPARED, REFERENCE = ("IG", "IxG"), "SmoothGrad", MethodSpec("Grad-CAM", "Final")


@STUDIES.register
@dataclass(frozen=True)
class Smoothing(Study):
    """GridPG of S-IntGrad and S-IxG, and their maps' correlation with Grad-CAM's at Final, against the kernel; quality against cost."""

    name, number = "smoothing", 5
    title = "How far does smoothing go?"
    question = "Does Gaussian smoothing make IG and IxG at Input as good as Grad-CAM at Final, and what does it cost?"
    see = (
        "Kernel sizes are the paper's, for grid cells of 224 px, scaled to the model's input. Left: the GridPG score. Middle: the rank "
        "correlation of the map with Grad-CAM's at Final. Right: the score against the passes for one map; smoothing itself needs none."
    )
    saw = (
        "S-IntGrad with K = 257 at Input beats Grad-CAM at Final on VGG11; S-IxG fails with BatchNorm. The correlation with Grad-CAM rises "
        "to K = 129 and falls again: S-IntGrad .34 to .80 on VGG11, .18 to .63 on ResNet18; S-IxG .27 to .49 and .14 to .18. Smoothing "
        "matches SmoothGrad at a fraction of its cost."
    )
    papers = (GRID_PAPER,)
    minutes = 2.0
    limit: int = param(16, "Grids", low=2, high=100_000)
    steps: int = param(8, "Steps of IG", low=1, high=1000)
    samples: int = param(15, "Samples of SmoothGrad", low=1, high=1000)
    grid: int = param(2, "Grid cells per side", low=2, high=4)
    confidence: float = param(
        0.9, "Smallest probability of the label at which an image is used; the label must also be the predicted class", low=0.0, high=1.0
    )

    def models(self) -> list[str]:
        return [traits.name for traits in centres(family(tuned=False)) if traits.depth][:2]

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        protocols = list(self._kernels(model).values())
        smooth = [self.run_of(spec, traits, model, list(dict.fromkeys(protocols)), self._smoothed(spec))]
        return [*smooth, self.run_of(spec, traits, model, protocols[:1], self._others())]

    def further(
        self, spec: StudySpec, traits: ModelTraits, model: Classifier, data: Dataset, store: Store, on_progress: RunListener
    ) -> Mapping[str, Any]:
        kernels = {k: int(dict(_pairs(p)).get("smoothing", 0)) for k, p in self._kernels(model).items()}
        run_spec = self.run_of(spec, traits, model, [self._protocol(0)], [*self._smoothed(spec), REFERENCE])
        sizes = list(dict.fromkeys(kernels.values()))
        correlations = map_correlations(run_spec, resolve_method(REFERENCE), sizes, model, data, store, on_progress)
        costs = {}
        for method in (*self._smoothed(spec), *self._others()):
            layer = model.layer(resolve_method(method).layer)
            costs[method.name] = cost_of(create_method(method).passes(layer))
        alike = {(name, k): correlations[name, size] for k, size in kernels.items() for name, at in correlations if at == size}
        return {"alike": alike, "protocols": self._kernels(model), "costs": costs}

    def _smoothed(self, spec: StudySpec) -> tuple[MethodSpec, ...]:
        return spec.methods or (MethodSpec("IG", "Input", (("steps", self.steps),)), MethodSpec("IxG", "Input"))

    def _others(self) -> tuple[MethodSpec, ...]:
        return (MethodSpec(COMPARED, "", (("samples", self.samples),)), REFERENCE)

    def _protocol(self, kernel: int) -> str:
        text = f"gridpg:grid={self.grid}:confidence={self.confidence:g}"
        return f"{text}:smoothing={kernel}" if kernel else text

    def _kernels(self, model: Classifier) -> dict[int, str]:
        """Return the protocol for each of the paper's kernels, scaled to the model's input."""
        return {k: self._protocol(scaled(k, model.input_size[0])) for k in KERNELS}

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        rows: list[Row] = []
        figures: list[StudyFigure] = []
        sentences: list[str] = []
        for result in results:
            scores, cam, noisy = self._scores(result)
            if not scores or cam is None:
                continue
            alike = {
                name: {k: summary(np.array(result.further["alike"][name, k])) for k in KERNELS if (name, k) in result.further["alike"]}
                for name in scores
            }
            for name, by_kernel in scores.items():
                for k, score in by_kernel.items():
                    row: Row = {"model": result.traits.name, "method": name, "kernel": k} | numbers(score.summary)
                    rows.append(row | numbers(alike[name].get(k, summary(np.array([]))), "correlation_"))
            others = {"Grad-CAM at Final": cam} | ({COMPARED: noisy} if noisy else {})
            rows += [{"model": result.traits.name, "method": name, "kernel": 0} | numbers(score.summary) for name, score in others.items()]
            figures.append(_figure(result, scores, alike, others))
            sentences += _words(result.traits, scores, alike, cam, noisy)
        if not sentences:
            raise DataError("GridPG with IG or IxG at Input and Grad-CAM at Final is defined on none of these models; choose CNNs")
        return Analysis(sentences[0], sentences[1:], rows, figures)

    def _scores(self, result: ModelResults) -> tuple[dict[str, dict[int, Score]], Score | None, Score | None]:
        """Return scores by method and kernel, the score of Grad-CAM, and that of SmoothGrad."""
        protocols: dict[int, str] = result.further.get("protocols", {})
        scores: dict[str, dict[int, Score]] = {}
        cam = noisy = None
        for protocol, method, score in result.scores():
            if method == REFERENCE:
                cam = score
            elif method.name == COMPARED:
                noisy = score
            else:
                scores.setdefault(str(method), {}).update({k: score for k, text in protocols.items() if text == str(protocol)})
        return {name: dict(sorted(by_kernel.items())) for name, by_kernel in scores.items()}, cam, noisy


def scaled(kernel: int, side: int) -> int:
    """Scale a kernel for grid cells of 224 px to grid cells of another size.

    Args:
        kernel: Kernel size K for grid cells of 224 px; 0 for none.
        side: Side of the grid cells in pixels.

    Returns:
        The odd kernel size that covers the same share of a cell, at most 257; 0 for none.
    """
    size = 2 * round((kernel * side / PAPER_SIDE - 1) / 2) + 1 if kernel else 0
    return min(size, MOST) if size > 1 else 0


def _pairs(protocol: str) -> list[tuple[str, str]]:
    return [tuple(part.split("=")) for part in protocol.split(":")[1:]]  # type: ignore[misc]


Alike = dict[str, dict[int, Summary]]


def _figure(result: ModelResults, scores: dict[str, dict[int, Score]], alike: Alike, others: dict[str, Score]) -> StudyFigure:
    ticks = {k: str(k) if k else "none" for k in KERNELS}
    lines = [Series(f"S-{name}", tuple(point(ticks[k], s.summary) for k, s in by_kernel.items())) for name, by_kernel in scores.items()]
    flat = [Series(name, tuple(Point(ticks[k], score.mean) for k in KERNELS)) for name, score in others.items()]
    correlation = [Series(f"S-{name}", tuple(point(ticks[k], s) for k, s in by_kernel.items())) for name, by_kernel in alike.items()]
    costs: dict[str, int] = result.further["costs"]
    best = {name: max(by_kernel.values(), key=lambda s: s.mean) for name, by_kernel in scores.items()}
    dots = [(f"S-{name}", score) for name, score in best.items()] + list(others.items())
    cost = [Series(name, (point(costs[s.method.name], s.summary, ""),)) for name, s in dots]
    chance = next(iter(others.values())).protocol.chance_level
    panels = (
        Panel("lines", f"Score on {result.traits.name}", "kernel K at 224 px", "GridPG ↑", (*lines, *flat), level=chance),
        Panel("lines", "Correlation with Grad-CAM", "kernel K at 224 px", "rank correlation of maps", tuple(correlation)),
        Panel("points", "Best score and cost", "passes for one map", "GridPG ↑", tuple(cost), log_x=True, level=chance),
    )
    return StudyFigure(f"Smoothing IG and IxG at the input of {result.traits.name}; bands are 95 % CIs.", panels)


def _words(traits: ModelTraits, scores: dict[str, dict[int, Score]], alike: Alike, cam: Score, noisy: Score | None) -> list[str]:
    sentences = []
    for name, by_kernel in scores.items():
        top = max(by_kernel, key=lambda k: by_kernel[k].mean)
        gain, gap = paired(by_kernel[top], by_kernel[0]), paired(by_kernel[top], cam)
        text = f"On {traits.name}, {name} rises from {interval(by_kernel[0].summary)} to {interval(by_kernel[top].summary)} at K = {top} ({interval(gain)})"
        if top == 0:
            text = f"On {traits.name}, smoothing does not help {name} ({interval(by_kernel[0].summary)})"
        text += f" and {verdict(gap, 'beats', 'stays below')}{' from' if gap.tie else ''} Grad-CAM at Final ({interval(cam.summary)})"
        if noisy is not None and name.startswith(SMOOTHED[0]):
            other = paired(by_kernel[top], noisy)
            text += (
                f"; compared with SmoothGrad ({interval(noisy.summary)}), it {verdict(other, 'is better', 'is worse')} ({interval(other)})"
            )
        defined = {k: s for k, s in alike[name].items() if np.isfinite(s.mean)}
        if defined:
            most = max(defined, key=lambda k: defined[k].mean)
            text += (
                f"; the correlation of its map with Grad-CAM's is {interval(defined[min(defined)])} without smoothing and "
                f"{interval(defined[most])} at K = {most}"
            )
        sentences.append(text + ".")
    return sentences
