"""What an attribution map is."""

import math
from dataclasses import dataclass

import torch

from attrlib.diagnostics.map_comparison import compare_maps
from attrlib.figures.aggatt import outlined
from attrlib.figures.cells import draw_cells, magnitude
from attrlib.figures.numbers import signed
from attrlib.methods.gradients import INPUT_X_GRADIENT
from attrlib.models.cells import crop
from attrlib.postprocess import apply_sign
from attrlib.registry import param
from attrlib.specs import SIGNS, ViewSpec
from pages.learn.beyond import inspect
from pages.learn.context import LessonContext
from pages.learn.drawing import map_tile, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared.tiles import figure

SQUARES = 16
"""Squares per side; one of them is enlarged."""


@LESSONS.register
@dataclass(frozen=True)
class What(Lesson):
    """One map as an image and as numbers, and the map of another class."""

    name = "what"
    title = "What an attribution map is"
    claim = "An attribution map assigns a number to every pixel: how much the pixel supports the class, or opposes it."
    formula = r"f_y:\;x \mapsto \text{score},\qquad a \in \mathbb{R}^{H \times W}\\[0.4em] \text{IxG:}\quad a_p = \sum_c x_{c,p}\,\frac{\partial f_y(x)}{\partial x_{c,p}}"
    letters = "x: the image, with channel c at pixel p. y: the class. f: the model. a: the map. Other methods define a differently."
    paper = INPUT_X_GRADIENT
    shape = (2, 2)
    method: str = param("IxG", "How the map is computed", choices=("IxG", "Gradient", "IG:steps=16", "Grad-CAM", "Occlusion"))
    sign: str = param("signed", "Both signs, only the positive part, or magnitudes", choices=SIGNS)

    def show(self, context: LessonContext) -> str:
        model, bird = context.plain, context.bird
        target, probabilities = model.target(bird.name), context.probabilities(context.plain, bird.photo)
        other = int(probabilities.masked_fill(torch.arange(len(probabilities)) == target, -1).argmax())
        (attribution,), (other_attribution,) = (context.maps(model, bird.photo, [self.method], k) for k in (target, other))
        view, photo = ViewSpec(sign=self.sign), context.picture(bird, model)
        values = apply_sign(attribution.resized(), self.sign)
        place = int(torch.stack([crop(values, SQUARES, k).abs().amax() for k in range(SQUARES**2)]).argmax())
        numbers, size = crop(values, SQUARES, place)[0, 0].double(), photo.width // SQUARES
        unit = 10.0 ** (math.floor(math.log10(magnitude([numbers]) or 1.0)) - 1)
        # Adding 0 turns -0 into 0.
        numbers = (numbers / unit).round() + 0.0
        tiles = rows(2)
        with tiles.cell():
            figure("Photo", f"{bird.name}, p = {probabilities[target]:.2f}", outlined(photo.copy(), place, SQUARES), f"A {bird.name}")
        with tiles.cell():
            map_tile(
                f"Map for {bird.name}",
                f"{self.method}, {attribution.maps.shape[2]} × {attribution.maps.shape[3]} values",
                attribution,
                photo,
                view,
                scale=False,
            )
        with tiles.cell():
            row, column = divmod(place, SQUARES)
            part = photo.crop((column * size, row * size, (column + 1) * size, (row + 1) * size)).resize(photo.size)
            drawn = draw_cells(part, numbers.flatten(), view, magnitude([numbers]))
            figure("Values in the square", f"in units of {unit:g}", drawn, "The values of the map in the square")
        with tiles.cell():
            name = model.class_names[other]
            map_tile(f"Map for {name}", f"the same photo, p = {probabilities[other]:.2f}", other_attribution, photo, view, scale=False)
        alike = compare_maps(attribution.maps, other_attribution.maps, attribution.input_size, view).correlation
        return (
            f"Same photo and model, two classes, two maps (rank correlation {signed(alike)}): a map explains one class. "
            f"The value of largest magnitude is {float(values.flatten()[values.abs().argmax()]):+.2g}."
        )

    def beyond(self, model: str) -> Beyond:
        return inspect("IxG,Gradient,IG,Grad-CAM")
