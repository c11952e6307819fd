"""GridPG, DiFull and DiPart, drawn on a grid of birds."""

from dataclasses import dataclass

from attrlib.figures.aggatt import outlined
from attrlib.figures.grids import draw_seen, mark_impossible
from attrlib.figures.overlay import draw, limit
from attrlib.protocols.localisation import GRID_PAPER
from attrlib.registry import param
from attrlib.specs import AggregateView
from pages.learn.beyond import aggregate
from pages.learn.context import GridMaps, LessonContext
from pages.learn.drawing import VIEW, figure, percent, result_or_reason, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson

SETTINGS = {
    "gridpg": ("GridPG", "backbone and head see all cells", 0.0),
    "difull": ("DiFull", "only this cell is seen at all", 1.0),
    "dipart": ("DiPart", "the head sees this cell's features only", 0.5),
}
"""For each setting its title, what the model sees in it, and how far the other cells are faded."""


@LESSONS.register
@dataclass(frozen=True)
class Grids(Lesson):
    """Three ways to connect a grid, and how a method responds to each."""

    name = "grids"
    title = "GridPG, DiFull, DiPart"
    claim = "Put four birds in a grid and cut the network's wires: and you know where attribution cannot be."
    formula = r"L = \frac{\sum_{p \in \text{cell}} \max(a_p, 0)}{\sum_p \max(a_p, 0)}\\[0.4em] \text{chance: } L = \tfrac{1}{4}"
    letters = "a: the map for the bird in the outlined cell. Pink stripes: attribution to what the output provably does not depend on."
    paper = GRID_PAPER
    method: str = param("Grad-CAM", "The map that is judged", choices=("Grad-CAM", "Layer-CAM", "IxG", "IG:steps=16", "Gradient"))
    layer: str = param("Final", "Where attribution is computed", choices=("Input", "Middle", "Final"))
    cell: int = param(1, "The cell whose bird is explained, row by row", low=1, high=4)

    def show(self, context: LessonContext) -> str:
        cell, birds = self.cell - 1, context.grids(1, corners=True)[0]
        jobs = context.ended(*(context.grid_maps(setting, [birds], cell, self.method, self.layer) for setting in SETTINGS))
        photo, final = context.grid_picture(birds), context.plain.layer("Final").path
        tiles = rows(3)
        for title, line, faded in SETTINGS.values():
            with tiles.cell():
                figure(title, line, draw_seen(photo, cell, 2, faded), f"{title}: {line}")
        said = []
        for job, (setting, (title, _, _)) in zip(jobs, SETTINGS.items(), strict=True):
            with tiles.cell():
                maps: GridMaps | None = result_or_reason(job, f"{self.method} in {title}", photo.size)
                if maps is None:
                    continue
                found = maps.maps[0]
                values, share = found.shown(AggregateView())
                top = limit([values], VIEW.clip)
                drawn = draw(values, photo, VIEW, top)
                certain = setting == "difull" or (setting == "dipart" and context.plain.layer(self.layer).path == final)
                drawn = outlined(mark_impossible(drawn, found.outside, top) if certain else drawn, cell, 2)
                line = f"{percent(share)} in the cell, {'impossible' if certain else 'outside'}: {percent(1 - share)}"
                figure(f"{self.method} in {title}", line, drawn, f"{self.method} at {self.layer} in {title}: {line}")
                said.append(f"{title} {percent(share)}")
        return (
            f"{self.method} at {self.layer} puts into the cell: {', '.join(said)} of its positive attribution; spread evenly it would be 25 %. "
            "In GridPG what lies outside may be a hint of the class in another bird; under the stripes there is no such excuse, but that a map of few positions blurs when it is enlarged."
        )

    def beyond(self, model: str) -> Beyond:
        return aggregate(model, "difull", "Grad-CAM@Final,Layer-CAM@Final,IxG@Final,IxG@Input")
