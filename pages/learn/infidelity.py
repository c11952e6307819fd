"""Infidelity at different noise levels."""

from dataclasses import dataclass

from attrlib.diagnostics.infidelity_sweep import infidelity_by_noise
from attrlib.figures.lines import Axis, lines_svg
from attrlib.protocols.faithfulness import INFIDELITY_PAPER
from attrlib.registry import param
from pages.learn.beyond import scores
from pages.learn.context import LessonContext
from pages.learn.drawing import chart, map_tile, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared.tiles import figure

NOISES = ("0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1")
METHODS = ("Gradient", "IxG", "IG:steps=16", "Guided Backprop", "Grad-CAM", "Random")
SCALES = ("as they are", "best fit")


@LESSONS.register
@dataclass(frozen=True)
class Infidelity(Lesson):
    """The same maps scored under seven noise levels."""

    name = "infidelity"
    title = "Infidelity at different noise levels"
    claim = (
        "Infidelity measures whether a map predicts the effect of noise on the output. It depends on the noise and on the scale of the map."
    )
    formula = r"\mathbb{E}_{I} \Big( I \cdot a - \big( f_y(x) - f_y(x - I) \big) \Big)^2\\[0.4em] I \sim \mathcal{N}(0, \sigma^2):\quad \approx \sigma^2\, \lVert a - \nabla f_y \rVert^2 \text{ for small } \sigma"
    letters = "I: noise of standard deviation σ, in normalised units. a: the map. Lower is better. Best fit: each map is first multiplied by its optimal factor."
    paper = INFIDELITY_PAPER
    noise: str = param("0.003", "Standard deviation σ of the noise; 0.003 is the usual value", choices=NOISES)
    maps: str = param("as they are", "Maps as they are, or each multiplied by its optimal factor", choices=SCALES)

    def show(self, context: LessonContext) -> str:
        model, bird = context.plain, context.bird
        target = model.target(bird.name)
        maps = context.maps(model, bird.photo, METHODS, target)
        stds = [float(text) for text in NOISES]
        found = context.result(
            "infidelity",
            lambda on_progress: infidelity_by_noise(model, bird.photo, maps, stds, seed=context.seed, on_progress=on_progress),
            bird.index,
        )
        place, fitted = NOISES.index(self.noise), self.maps == SCALES[1]
        values = found.relative(fitted)
        orders = [[METHODS[k] for k in order] for order in found.order(fitted).tolist()]
        order, photo = orders[place], context.picture(bird, model)
        tiles = rows(3)
        with tiles.cell():
            figure(
                "Image minus noise",
                f"σ = {self.noise}",
                found.noisy[place].resize(photo.size),
                f"A {bird.name} minus noise of {self.noise}",
            )
        for title, name in (("Lowest infidelity", order[0]), ("Highest infidelity", order[-1])):
            row = METHODS.index(name)
            with tiles.cell():
                map_tile(title, f"{name}: {float(values[row, place]):.2g} of the map of zeros", maps[row], photo, scale=False)
        lines = {name: values[k].tolist() for k, name in enumerate(METHODS)}
        drawn = lines_svg(
            lines, NOISES, Axis("infidelity relative to a map of zeros, lower is better", log=True), "standard deviation σ of the noise", place,
            ("zeros", 1.0), size=(960, 400),
        )  # fmt: skip
        chart(drawn, f"Infidelity of {len(METHODS)} methods at each noise level, relative to a map of zeros")
        useless = [name for name, none in zip(METHODS, found.uninformative(fitted)[:, place].tolist(), strict=True) if none]
        firsts = list(dict.fromkeys(own[0] for own in orders))
        held = f"{firsts[0]} is first" if len(firsts) == 1 else f"the best method changes ({', '.join(firsts)})"
        return (
            f"At σ = {self.noise} {order[0]} has the lowest value. No or hardly any better than a map of zeros: {', '.join(useless) or 'none'}. "
            f"Over all noise levels, {held}. Small noise favours the raw gradient; the larger the noise, the less the gradient predicts."
        )

    def beyond(self, model: str) -> Beyond:
        return scores(
            [model], "infidelity,infidelity:noise=0.3,infidelity:normalize=true", "Gradient,IxG,Guided Backprop,Grad-CAM,Random", limit=24
        )
