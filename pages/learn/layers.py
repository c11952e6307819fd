"""Why methods must be compared at the same layer."""

from dataclasses import dataclass

from attrlib.diagnostics.localisation_grid import GridMaps
from attrlib.protocols.localisation import GRID_PAPER
from attrlib.registry import param
from attrlib.specs import AggregateView
from pages.learn.beyond import aggregate
from pages.learn.context import LessonContext
from pages.learn.drawing import grid_tile, result_or_reason, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson

LAYERS = ("Input", "Middle", "Final")
METHODS = ("IxG", "IG:steps=8", "Gradient", "Grad-CAM", "Layer-CAM")


@LESSONS.register
@dataclass(frozen=True)
class Layers(Lesson):
    """Two methods at three layers each."""

    name = "layers"
    title = "Compare at the same layer"
    claim = "By default, Grad-CAM explains the final layer and IxG the input. Comparing them like this compares layers, not methods."
    formula = r"f = f_{\text{explain}} \circ f_{\text{pre}}, \qquad z = f_{\text{pre}}(x)\\[0.4em] \text{attribute } f_{\text{explain}}(z) \text{ to } z"
    letters = "z: the output of the layer, one vector per position. Every method can be evaluated at every layer (ML-Att)."
    paper = GRID_PAPER
    setting: str = param("GridPG", "Where localisation is measured", choices=("GridPG", "DiFull", "DiPart"))
    first: str = param("IxG", "The method of the upper row", choices=METHODS)
    second: str = param("Grad-CAM", "The method of the lower row", choices=METHODS)
    grids: int = param(4, "Number of grids over which scores are averaged; the first one is shown", low=1, high=16)

    def show(self, context: LessonContext) -> str:
        setting = self.setting.lower()
        grids = context.grids(self.grids, corners=setting != "gridpg")
        places = [(method, layer) for method in (self.first, self.second) for layer in LAYERS]
        jobs = context.ended(*(context.grid_maps(setting, grids, 0, method, layer) for method, layer in places))
        photo, tiles, means = context.grid_picture(grids[0]), rows(3), dict[tuple[str, str], float]()
        for (method, layer), job in zip(places, jobs, strict=True):
            with tiles.cell():
                title = f"{method} at {layer}"
                maps: GridMaps | None = result_or_reason(job, title, photo.size)
                if maps is not None:
                    means[method, layer] = maps.mean(AggregateView())
                    line = f"localisation {means[method, layer]:.2f}, mean of {len(grids)}"
                    grid_tile(title, line, maps.maps[0].shown(AggregateView())[0], photo)
        if len(means) < len(places) and self.first != self.second:
            return f"The tiles give the reason for what is not defined on {context.model_name}."
        a, b, c = means[self.first, "Input"], means[self.second, "Final"], means[self.first, "Final"]
        return (
            f"{self.first} at Input scores {a:.2f}, {self.second} at Final {b:.2f}. With both at Final, the scores are {c:.2f} and {b:.2f}: "
            f"the layer alone changes {self.first} by {abs(c - a):.2f}. Chance is 0.25."
        )

    def beyond(self, model: str) -> Beyond:
        return aggregate(model, "gridpg", ",".join(f"{method}@{layer}" for method in ("IxG", "Grad-CAM") for layer in LAYERS), limit=24)
