"""What is explained: the logit, the probability, or the difference of classes."""

from dataclasses import dataclass

import torch

from attrlib.diagnostics.map_comparison import compare_maps
from attrlib.diagnostics.target_slopes import TargetSlopes, target_slopes
from attrlib.figures.lines import Axis, lines_svg
from attrlib.figures.numbers import signed
from attrlib.registry import param
from attrlib.specs import TargetSpec
from attrlib.targets.classes import FINER
from pages.learn.beyond import inspect
from pages.learn.context import LessonContext
from pages.learn.drawing import VIEW, chart, map_tile, percent, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared.tiles import figure

METHOD = "IxG@Middle"
SHARES = tuple(k / 8 for k in range(13))
WHOLE = SHARES.index(1.0)


@LESSONS.register
@dataclass(frozen=True)
class Targets(Lesson):
    """One photo and one method, with the logit and another target, and how steep both are."""

    name = "targets"
    title = "What is explained?"
    claim = "A map explains one number. The logit of a class, its probability and its lead over another class are different numbers."
    formula = (
        r"f_y,\qquad P_y = e^{f_y} \big/ \textstyle\sum_k e^{f_k}\\[0.4em]"
        r"f_y - \frac{1}{|S|}\textstyle\sum_{k \in S} f_k,\qquad f_y - f_z\\[0.4em]"
        r"\nabla P_y = P_y \big(\nabla f_y - \textstyle\sum_k P_k \nabla f_k\big)"
    )
    letters = (
        "f: the logits. y: the class. P: its probability, whose gradient vanishes as it nears 1. S: the three classes with the most similar "
        "weights (contrast). z: the most probable other class (versus)."
    )
    paper = FINER
    target: str = param("probability", "What is explained instead of the logit", choices=("probability", "contrast", "versus"))

    def show(self, context: LessonContext) -> str:
        model, bird = context.plain, context.bird
        y, probabilities = model.target(bird.name), context.probabilities(context.plain, bird.photo)
        z = int(probabilities.masked_fill(torch.arange(len(probabilities)) == y, -1).argmax())
        text = f"versus:other={z}" if self.target == "versus" else self.target
        logit_map, other_map = context.maps(model, bird.photo, [METHOD, f"{METHOD}:target={text}"], y)
        specs = [TargetSpec(), TargetSpec("probability"), TargetSpec.parse(text)]
        found: TargetSlopes = context.result(
            "targets", lambda on_progress: target_slopes(model, bird.photo, y, specs, SHARES, on_progress), bird.index, text
        )
        photo, tiles = context.picture(bird, model), rows(3)
        with tiles.cell():
            figure("Photo", f"{bird.name}, p = {probabilities[y]:.2f}", photo, f"A {bird.name}")
        with tiles.cell():
            map_tile("Logit", METHOD, logit_map, photo)
        with tiles.cell():
            map_tile(self.target.capitalize(), METHOD, other_map, photo)
        relative = found.slopes / found.slopes.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        lines = {"p": found.values[1].tolist(), "slope of logit": relative[0].tolist(), f"slope of {self.target}": relative[2].tolist()}
        ticks = ["" if k % 2 else f"{share:g}" for k, share in enumerate(SHARES)]
        drawn = lines_svg(lines, ticks, Axis("slopes: 1 is the steepest", 0, 1), "contrast of the photo", WHOLE, size=(960, 340))
        chart(
            drawn,
            f"Probability, slope of the logit and slope of the {self.target} as the photo fades in, from the mean colour to 1.5 times its contrast",
        )
        alike = compare_maps(logit_map.maps, other_map.maps, logit_map.input_size, VIEW).correlation
        return f"{self._words(model.class_names, found, relative)} Rank correlation of the two maps: {signed(alike)}."

    def _words(self, names: tuple[str, ...], found: TargetSlopes, relative: torch.Tensor) -> str:
        here = percent(float(relative[1, WHOLE]))
        if self.target == "probability":
            steepest = int(relative[1].argmax())
            ratio, most = (percent(float(found.slopes[1, k] / found.slopes[0, k])) for k in (WHOLE, steepest))
            return (
                f"At the photo, p = {found.values[1, WHOLE]:.3f}, the gradient of the probability is {ratio} as long as that of the logit. Where it is "
                f"steepest, p = {found.values[1, steepest]:.3f}, it is {most}. The surer the model is, the flatter is the softmax."
            )
        others = ", ".join(names[k].split(",")[0] for k in found.less[2])
        return (
            f"What the class shares with {others} cancels; the rest sets it apart. At the photo, the slope of {self.target} is "
            f"{percent(float(relative[2, WHOLE]))} of its largest, that of the probability {here}."
        )

    def beyond(self, model: str) -> Beyond:
        return inspect("Grad-CAM,Grad-CAM:target=probability,Grad-CAM:target=contrast,IxG,IxG:target=contrast")
