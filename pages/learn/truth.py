"""Why there is no ground truth."""

from dataclasses import dataclass

import torch

from attrlib.diagnostics.map_comparison import compare_maps
from attrlib.figures.numbers import signed
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.protocols.objects import MassAccuracy
from attrlib.registry import param
from pages.learn.beyond import inspect
from pages.learn.context import LessonContext
from pages.learn.drawing import VIEW, map_tile, percent, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared.tiles import figure

METHODS = ("IxG", "IG:steps=16", "Guided Backprop", "Grad-CAM", "RISE:samples=250")


@LESSONS.register
@dataclass(frozen=True)
class Truth(Lesson):
    """Maps of several methods for one prediction, which disagree."""

    name = "truth"
    title = "Why there is no ground truth"
    claim = "One model, photo and class; five methods, five maps. There is no ground truth: nobody knows which pixels the model used."
    formula = r"\rho(a,b) = \operatorname{corr}\big(\operatorname{rank} a,\ \operatorname{rank} b\big)\\[0.4em] \text{on the parts:}\quad \frac{\sum_{p \in \text{parts}} \max(a_p, 0)}{\sum_p \max(a_p, 0)}"
    letters = "a, b: maps. ρ: Spearman's rank correlation over all pixels; 1: the same order, 0: no relation. The bird is synthetic, so the parts that define its class are known."
    paper = IDSDS_PAPER
    compare_with: str = param("IxG", "The map that the others are compared with", choices=METHODS)

    def show(self, context: LessonContext) -> str:
        model, bird = context.plain, context.bird
        maps = dict(zip(METHODS, context.maps(model, bird.photo, METHODS, model.target(bird.name)), strict=True))
        photo, mask = context.picture(bird, model), model.preprocessing.mask(bird.mask, bird.photo.image.size)
        reference = maps[self.compare_with]
        share = {name: MassAccuracy().share(attribution.resized()[0, 0].double(), mask) for name, attribution in maps.items()}
        alike = {
            name: compare_maps(reference.maps, attribution.maps, reference.input_size, VIEW).correlation
            for name, attribution in maps.items()
        }
        tiles = rows(3)
        with tiles.cell():
            figure("Photo", f"{bird.name}: its parts cover {percent(float(mask.double().mean()))}", photo, f"A {bird.name}")
        for name, attribution in maps.items():
            with tiles.cell():
                line = (
                    f"ρ {signed(alike[name])} · {percent(share[name])} on the parts"
                    if name != self.compare_with
                    else f"{percent(share[name])} on the parts"
                )
                map_tile(name, line, attribution, photo, scale=False)
        others = torch.tensor([value for name, value in alike.items() if name != self.compare_with])
        return (
            f"The other maps have rank correlations with {self.compare_with} of {signed(float(others.min()))} to {signed(float(others.max()))}. Between {percent(min(share.values()))} and "
            f"{percent(max(share.values()))} of a map lies on the parts. A higher share looks better, but a map should show what the model uses, not where the parts are."
        )

    def beyond(self, model: str) -> Beyond:
        return inspect("IxG,IG,Guided Backprop,Grad-CAM,RISE", "Compare")
