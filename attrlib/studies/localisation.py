"""Study 4: how well methods localise at Input, Middle and Final, on grids where it is known which grid cells cannot matter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attrlib.analysis.differences import aligned
from attrlib.engine.results import Score
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure
from attrlib.methods import METHODS
from attrlib.models import NAMED, Classifier
from attrlib.protocols.localisation import GRID_PAPER
from attrlib.registry import param
from attrlib.specs import RunSpec, StudySpec
from attrlib.statistics import summary
from attrlib.studies.base import STUDIES, Analysis, ModelResults, Row, Study
from attrlib.studies.choose import every, is_post_hoc
from attrlib.studies.traits import ModelTraits, centres, family
from attrlib.studies.words import interval, listed, numbers, signed

SETTINGS = {"gridpg": "GridPG", "difull": "DiFull", "dipart": "DiPart"}
EXACT = 1 - 1e-6


@STUDIES.register
@dataclass(frozen=True)
class LocalisationStudy(Study):
    """All methods at Input, Middle and Final in GridPG, DiFull and DiPart."""

    name, number = "localisation", 4
    title = "Do methods point at the right cell?"
    question = "At the same layer, which methods put their positive attribution into the target's grid cell?"
    see = (
        "Boxes over all grids and targets, coloured by layer: 1 is perfect, the dashed line is chance. In DiFull any attribution outside "
        "the target's cell is wrong. Compare methods at the same layer only: the layer often matters more than the method."
    )
    saw = (
        "On GridPG at Input backpropagation methods are near chance, and IG and IxG at Final are about as good as Grad-CAM; CAMs other than "
        "Layer-CAM fall below chance at VGG's Input. On DiFull backpropagation methods and Layer-CAM are near 1, other CAMs at Final worse "
        "than on GridPG, RISE poor everywhere, Occlusion good. DiPart results resemble DiFull, but are worse towards Input."
    )
    papers = (GRID_PAPER,)
    minutes = 6.0
    limit: int = param(8, "Grids in each setting", low=2, high=100_000)
    passes: int = param(8, "Passes that a map may cost: samples are reduced until it fits", low=1, high=100_000)
    grid: int = param(2, "Grid cells per side", low=2, high=4)
    confidence: float = param(
        0.9, "Smallest probability of the label at which an image is used; the label must also be the predicted class", low=0.0, high=1.0
    )

    def models(self) -> list[str]:
        # As in the paper: one ResNet and one VGG, neither tuned.
        return [traits.name for traits in centres(family(tuned=False)) if traits.depth][:2]

    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        protocols = [f"{name}:grid={self.grid}:confidence={self.confidence:g}" for name in SETTINGS]
        methods = spec.methods or every(model, self.passes, NAMED, is_post_hoc)
        return [self.run_of(spec, traits, model, protocols, methods)]

    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        rows: list[Row] = []
        figures: list[StudyFigure] = []
        sentences: list[str] = []
        further: list[str] = []
        for result in results:
            name = result.traits.name
            scores = {(p.name, m.name, m.layer): score for p, m, score in result.scores()}
            rows += [
                {"model": name, "setting": setting, "method": method, "layer": layer} | numbers(score.summary) | {"undefined": score.undefined}
                for (setting, method, layer), score in scores.items()
            ]  # fmt: skip
            figures.append(_figure(result.traits, scores))
            words, more = _words(scores)
            sentences.append(f"On {name}, {words}")
            further += [f"{name}: {sentence}" for sentence in more]
        return Analysis(" ".join(sentences), further, rows, figures)


Scores = dict[tuple[str, str, str], Score]
"""Scores by protocol, method and layer."""


def shares(score: Score) -> list[float]:
    """Return the share of attribution inside the target's cell, for every target of every grid."""
    return [value for detail in score.details for value in detail["shares"]]  # type: ignore[union-attr]


def _figure(traits: ModelTraits, scores: Scores) -> StudyFigure:
    panels = []
    names = list(dict.fromkeys(name for _, name, _ in scores))
    layers = list(dict.fromkeys(layer for *_, layer in scores))
    for setting, title in SETTINGS.items():
        here = {(name, layer): score for (s, name, layer), score in scores.items() if s == setting}
        series = tuple(
            Series(layer or "default layer", tuple(Point(n, v) for n in names if (n, layer) in here for v in shares(here[n, layer])))
            for layer in layers
        )
        chance = next((score.protocol.chance_level for score in here.values()), None)
        if here:
            panels.append(Panel("boxes", title, "", "share inside the target's cell ↑", series, level=chance))
    return StudyFigure(
        f"Localisation on {traits.name}: median, quartiles and range over all grids and targets.", tuple(panels), stacked=True
    )


def _words(scores: Scores) -> tuple[str, list[str]]:
    """Return the main finding on a model, and further ones."""
    parts: list[str] = []
    gradient = [
        s for (setting, n, layer), s in scores.items() if (setting, layer) == ("gridpg", "Input") and METHODS[n].family == "gradient"
    ]
    if gradient:
        means, chance = [s.mean for s in gradient], gradient[0].protocol.chance_level
        parts.append(
            f"gradient methods at Input score between {min(means):.2f} and {max(means):.2f} on GridPG, where chance is {chance:.2f}"
        )
    cam, full = scores.get(("gridpg", "Grad-CAM", "Final")), scores.get(("difull", "Grad-CAM", "Final"))
    for name in ("IG", "IxG"):
        other = scores.get(("gridpg", name, "Final"))
        if cam and other:
            parts.append(f"{name} at Final differs from Grad-CAM by {signed(summary(np.subtract(*aligned(other, cam))))}")
    if cam and full:
        parts.append(f"Grad-CAM at Final scores {interval(cam.summary)} on GridPG and {interval(full.summary)} on DiFull")
    more = [_leaders(title, setting, scores) for setting, title in SETTINGS.items()]
    exact = [
        n for (setting, n, layer), s in scores.items() if (setting, layer) == ("difull", "Input") and min(shares(s), default=0.0) > EXACT
    ]
    if exact:
        more.append(f"on DiFull at Input, all attribution lies in the target's cell in every grid for {listed(exact, 12)}.")
    first = f"{'; '.join(parts)}." if parts else more.pop(0)
    return first, [sentence for sentence in more if sentence]


def _leaders(title: str, setting: str, scores: Scores) -> str:
    """Name the best method of each layer in a setting."""
    tops = []
    for layer in dict.fromkeys(layer for *_, layer in scores):
        here = {n: s for (s_, n, lay), s in scores.items() if (s_, lay) == (setting, layer) and np.isfinite(s.mean)}
        if here:
            top = max(here, key=lambda n: here[n].mean)
            tops.append(f"{top} at {layer or 'its default layer'} ({interval(here[top].summary)})")
    return f"{title} is led by {listed(tops)}." if tops else ""
