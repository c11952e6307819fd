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
from pages.learn.drawing import VIEW, percent, result_or_reason, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared.tiles import figure

SETTINGS = {
    "gridpg": ("GridPG", "backbone and head see all cells", 0.0),
    "difull": ("DiFull", "the model sees this cell only", 1.0),
    "dipart": ("DiPart", "the head sees this cell only", 0.5),
}
"""For each setting its title, what the model sees in it, and how far the other cells are faded."""


@LESSONS.register
@dataclass(frozen=True)
class Grids(Lesson):
    """Three ways to connect a grid, and how a method responds to each."""

    name = "grids"
    title = "GridPG, DiFull, DiPart"
    claim = "Arrange four birds in a grid and disconnect parts of the network: you then know where attribution must be zero."
    formula = r"L = \frac{\sum_{p \in \text{cell}} \max(a_p, 0)}{\sum_p \max(a_p, 0)}\\[0.4em] \text{chance: } L = \tfrac{1}{4}"
    letters = (
        "a: the map for the bird in the outlined cell. Pink stripes: attribution to pixels on which the output provably does not depend."
    )
    paper = GRID_PAPER
    method: str = param("Grad-CAM", "The method to score", choices=("Grad-CAM", "Layer-CAM", "IxG", "IG:steps=16", "Gradient"))
    layer: str = param("Final", "Where attribution is computed", choices=("Input", "Middle", "Final"))
    cell: int = param(1, "The grid cell to explain, counted row by row", low=1, high=4)

    def show(self, context: LessonContext) -> str:
        cell, birds = self.cell - 1, context.grids(1, corners=True)[0]
        jobs = context.ended(*(context.grid_maps(setting, [birds], cell, self.method, self.layer) for setting in SETTINGS))
        photo, final = context.grid_picture(birds), context.plain.layer("Final").path
        tiles = rows(3)
        for title, line, faded in SETTINGS.values():
            with tiles.cell():
                figure(title, line, draw_seen(photo, cell, 2, faded), f"{title}: {line}")
        shares = []
        for job, (setting, (title, _, _)) in zip(jobs, SETTINGS.items(), strict=True):
            with tiles.cell():
                maps: GridMaps | None = result_or_reason(job, f"{self.method} in {title}", photo.size)
                if maps is None:
                    continue
                grid_map = maps.maps[0]
                values, share = grid_map.shown(AggregateView())
                top = limit([values], VIEW.clip)
                drawn = draw(values, photo, VIEW, top)
                certain = setting == "difull" or (setting == "dipart" and context.plain.layer(self.layer).path == final)
                drawn = outlined(mark_impossible(drawn, grid_map.outside, top) if certain else drawn, cell, 2)
                line = f"{percent(share)} in the cell, {'impossible' if certain else 'outside'}: {percent(1 - share)}"
                figure(f"{self.method} in {title}", line, drawn, f"{self.method} at {self.layer} in {title}: {line}")
                shares.append(f"{title} {percent(share)}")
        return (
            f"Positive attribution of {self.method} at {self.layer} in the cell: {', '.join(shares)}; an even spread gives 25 %. "
            "In GridPG, attribution outside can be evidence for the class in another bird. Striped attribution is wrong, except for blur from upsampling a map of low resolution."
        )

    def beyond(self, model: str) -> Beyond:
        return aggregate(model, "difull", "Grad-CAM@Final,Layer-CAM@Final,IxG@Final,IxG@Input")
