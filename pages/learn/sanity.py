"""Sanity checks: the map of a model with shuffled weights."""

from dataclasses import dataclass

from attrlib.diagnostics.map_comparison import twin_correlation
from attrlib.figures.numbers import signed
from attrlib.protocols.stability import SANITY_PAPER
from attrlib.registry import param
from pages.learn.beyond import inspect
from pages.learn.context import LessonContext
from pages.learn.drawing import map_tile, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared.tiles import figure

SHARES = {0.25: "last quarter", 0.5: "last half", 0.75: "last three quarters", 1.0: "all layers"}


@LESSONS.register
@dataclass(frozen=True)
class Sanity(Lesson):
    """A method on the model and on copies of it with shuffled weights."""

    name = "sanity"
    title = "Sanity checks"
    claim = "Shuffle the weights of the model. A map that does not change shows the photo, not what the model has learnt."
    formula = r"\rho\big(a(f, x),\; a(f_{\text{shuffled}}, x)\big) \;\longrightarrow\; 0"
    letters = (
        "f shuffled: the same network with the weights of its last layers in random order. ρ: Spearman's rank correlation of both maps."
    )
    paper = SANITY_PAPER
    method: str = param(
        "Guided Backprop", "The method to check; Sobel is an edge detector that does not use the model",
        choices=("Guided Backprop", "Gradient", "IxG", "IG:steps=16", "Grad-CAM", "Sobel"),
    )  # fmt: skip

    def show(self, context: LessonContext) -> str:
        model, bird = context.plain, context.bird
        target = model.target(bird.name)
        shuffled = context.shuffled_models(model, list(SHARES))
        (original,) = context.maps(model, bird.photo, [self.method], target)
        others = [context.maps(other, bird.photo, [self.method], target)[0] for other in shuffled]
        photo, correlations = context.picture(bird, model), [twin_correlation(original.maps, other.maps) for other in others]
        tiles = rows(3)
        with tiles.cell():
            figure("Photo", bird.name, photo, f"A {bird.name}")
        with tiles.cell():
            map_tile("This model", self.method, original, photo, scale=False)
        for words, other, value in zip(SHARES.values(), others, correlations, strict=True):
            with tiles.cell():
                map_tile(f"Shuffled: {words}", f"ρ {signed(value)}", other, photo, scale=False)
        return (
            f"With all layers shuffled, the map of {self.method} has a rank correlation of {signed(correlations[-1])} with that of the trained model. "
            "Near 0: the map depends on what the model has learnt. Near 1: it only shows the photo."
        )

    def beyond(self, model: str) -> Beyond:
        return inspect("Guided Backprop,Gradient,IxG,Grad-CAM", "Sanity")
