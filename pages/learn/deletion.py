"""Deletion, and why images with deleted patches are out of the model's domain."""

from dataclasses import dataclass

from attrlib.diagnostics.shared_deletion import delete_alike
from attrlib.figures.deletion import draw_deleted
from attrlib.figures.lines import Axis, lines_svg
from attrlib.methods import resolve
from attrlib.protocols.deletion import IDSDS_PAPER
from attrlib.registry import param
from attrlib.specs import MethodSpec
from pages.learn.beyond import scores
from pages.learn.context import TUNED, LessonContext
from pages.learn.drawing import chart, percent, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared.tiles import figure

WHAT = ("cells", "pixels")
STEPS = 16
SHOWN = 3


@LESSONS.register
@dataclass(frozen=True)
class Deletion(Lesson):
    """The same deletion on a plain and on a deletion-tuned model."""

    name = "deletion"
    title = "Deletion and its out-of-domain problem"
    claim = "Delete what a map marks as important: does the output drop? It also drops because images with deleted patches are out of the model's domain."
    formula = r"x^{(k)} = x \text{ without its first } k \text{ patches or pixels}\\[0.4em] \text{score} = \frac{1}{n} \sum_{k=0}^{n-1} \operatorname{softmax}_y f\big(x^{(k)}\big)"
    letters = "Both models get the same images. The tuned model was fine-tuned on images with single patches deleted."
    paper = IDSDS_PAPER
    delete: str = param("cells", "Delete patches of a 4 × 4 grid, or pixels", choices=WHAT)
    order: str = param("Random", "The map that defines the order, most relevant first", choices=("Random", "IxG", "Grad-CAM"))
    step: int = param(4, "Sixteenths of the image that are deleted", low=0, high=STEPS)
    birds: int = param(24, "Number of birds over which curves are averaged", low=4, high=64)

    def show(self, context: LessonContext) -> str:
        models, birds = (context.plain, context.tuned), context.some_birds(self.birds)
        targets = [context.plain.target(bird.name) for bird in birds]
        method, grid = resolve(MethodSpec(self.order)), 4 if self.delete == "cells" else None
        result = context.result(
            "deletion", lambda on_progress: delete_alike(models, [b.photo for b in birds], targets, method, grid, seed=context.seed, on_progress=on_progress),
            method, grid, [b.index for b in birds],
        )  # fmt: skip
        first, (plain, tuned) = result.paths[0], result.curves.tolist()
        step = self.step * first.steps // STEPS
        share = first.counts[step] / first.counts[-1]
        tiles = rows(3)
        for number, (bird, path) in enumerate(zip(birds[:SHOWN], result.paths, strict=False)):
            with tiles.cell():
                photo = context.picture(bird, context.plain)
                line = "p: {:.2f} plain, {:.2f} tuned".format(*result.probabilities[:, number, step].tolist())
                image = draw_deleted(photo, path.deleted(step), path.deleted(0), path.replacement_values, outlined=False)
                figure(bird.name, line, image, f"A {bird.name} with {percent(share)} deleted, {line}")
        drawn = lines_svg(
            {"plain": plain, "tuned": tuned}, [f"{100 * c // first.counts[-1]}" for c in first.counts], Axis("probability of the true class", 0, 1),
            "percent deleted", step, size=(960, 400), markers=False,
        )  # fmt: skip
        chart(drawn, f"Mean probability of {len(birds)} birds by share deleted, plain and tuned")
        cause = "The order is random" if self.order == "Random" else f"The order is that of {self.order}"
        return (
            f"With {percent(share)} deleted, the mean probability of {len(birds)} birds falls from {plain[0]:.2f} to {plain[step]:.2f} on the plain model and "
            f"from {tuned[0]:.2f} to {tuned[step]:.2f} on the tuned one. {cause}; both models get the same images, so the difference is due to fine-tuning alone."
        )

    def beyond(self, model: str) -> Beyond:
        return scores([model, f"{model}{TUNED}"], "ids,ids:order=descending", "IxG,Grad-CAM,Random")
