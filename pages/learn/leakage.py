"""Information leakage: a mask's shape tells the class."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from attrlib.diagnostics.mask_leakage import LEAKAGE_PAPER, mask_leakage
from attrlib.methods import resolve
from attrlib.registry import param
from attrlib.specs import MethodSpec
from pages.learn.beyond import scores
from pages.learn.context import TUNED, LessonContext
from pages.learn.drawing import percent, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared.tiles import figure

ALIKE, CLASSES = 3, 2


@LESSONS.register
@dataclass(frozen=True)
class Leakage(Lesson):
    """Classes predicted from the shapes of deleted regions alone."""

    name = "leakage"
    title = "Information leakage"
    claim = "Retraining on deleted images would keep them in domain. But the shape of the mask reveals the class."
    formula = r"m = \text{the highest } q\,\% \text{ of } a_y(x)\\[0.4em] \hat{y} = \arg\max_k\; w_k^{\top} \phi(m) + b_k"
    letters = "m: the mask, without any pixel of the photo. φ: the model's final features of m. w, b: a ridge regression, fitted on four fifths of the masks and tested on the rest."
    paper = LEAKAGE_PAPER
    method: str = param(
        "IxG", "The map whose most relevant pixels are deleted", choices=("IxG", "Gradient", "Guided Backprop", "Grad-CAM", "Random")
    )
    percent_deleted: str = param("10", "Share of the pixels that are deleted", choices=("5", "10", "20", "50"))
    birds: int = param(125, "Number of birds whose masks are classified", low=25, high=500)

    def show(self, context: LessonContext) -> str:
        model, birds = context.plain, context.some_birds(self.birds)
        labels, share = [model.target(bird.name) for bird in birds], int(self.percent_deleted) / 100
        photos, which = [bird.photo for bird in birds], [bird.index for bird in birds]
        methods = [resolve(MethodSpec(name)) for name in (self.method, "Random")]

        def ask(method: MethodSpec) -> object:
            work = lambda on_progress: mask_leakage(model, photos, labels, method, share, context.seed, on_progress)  # noqa: E731
            return context.compute("leakage", work, method, share, which)

        found, noise = context.wait(*map(ask, methods))  # type: ignore[arg-type]
        frequent = [name for name, count in Counter(bird.name for bird in birds).most_common() if count >= ALIKE][:CLASSES]
        tiles = rows(3)
        for name in frequent:
            for place in [k for k, bird in enumerate(birds) if bird.name == name][:ALIKE]:
                with tiles.cell():
                    mask = Image.fromarray((found.masks[place].numpy() * 255).astype(np.uint8)).resize((256, 256), Image.Resampling.NEAREST)
                    figure(name, f"{self.percent_deleted} % of the pixels, white", mask, f"Mask of a {name}")
        read, chance = found.read, noise.read
        return (
            f"From the masks alone {percent(read.mean)} [{percent(read.low)}, {percent(read.high)}] of {len(birds)} birds are classified correctly; "
            f"from random masks {percent(chance.mean)} [{percent(chance.low)}, {percent(chance.high)}], by always predicting the most frequent class {percent(found.chance)}. "
            "IDSDS deletes the same patches for every map, so their shape reveals nothing."
        )

    def beyond(self, model: str) -> Beyond:
        return scores([f"{model}{TUNED}"], "idsds", "IxG,Gradient,Guided Backprop,Grad-CAM,Random")
