"""Smoothing: the effect of a Gaussian on a map and on its score."""

from dataclasses import dataclass

from attrlib.diagnostics.localisation_grid import SmoothingCurves, smoothing_curves
from attrlib.figures.lines import Axis, lines_svg
from attrlib.figures.numbers import signed
from attrlib.protocols.localisation import GRID_PAPER
from attrlib.registry import param
from attrlib.specs import AggregateView
from pages.learn.beyond import aggregate
from pages.learn.context import LessonContext
from pages.learn.drawing import chart, grid_tile, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson

KERNELS = ("0", "9", "17", "33", "65", "129")


@LESSONS.register
@dataclass(frozen=True)
class Smoothing(Lesson):
    """A map at several kernels, beside Grad-CAM."""

    name = "smoothing"
    title = "Smoothing"
    claim = "Maps at the input look noisy. Smoothing the signed map costs one convolution and changes both its appearance and its score."
    formula = r"\tilde{a} = G_K * a, \qquad \sigma = K / 4\\[0.4em] \text{then } L(\tilde{a}) \text{ and } \rho\big(\tilde{a}, a_{\text{Grad-CAM}}\big)"
    letters = "G: a Gaussian of K × K pixels. The signed map is smoothed, so that neighbours of opposite sign cancel. L: localisation in GridPG. ρ: rank correlation."
    paper = GRID_PAPER
    kernel: str = param("33", "Kernel size K of the Gaussian in pixels, 0 for none", choices=KERNELS)
    method: str = param("IG:steps=8", "The method to smooth", choices=("IG:steps=8", "IxG", "Gradient"))
    grids: int = param(4, "Number of grids over which curves are averaged; the first one is shown", low=1, high=12)

    def show(self, context: LessonContext) -> str:
        grids = context.grids(self.grids, corners=False)
        wanted = ((self.method, "Input"), ("Grad-CAM", "Final"))
        maps, cam = context.wait(*(context.grid_maps("gridpg", grids, 0, method, layer) for method, layer in wanted))
        which = [[b.index for b in birds] for birds in grids]
        found: SmoothingCurves = context.result(
            "smoothing", lambda _progress: smoothing_curves(maps, cam, list(map(int, KERNELS))), self.method, which
        )
        place, photo = KERNELS.index(self.kernel), context.grid_picture(grids[0])
        views = {"No smoothing": (maps, 0), f"K = {self.kernel}": (maps, int(self.kernel)), "Grad-CAM at Final": (cam, 0)}
        tiles = rows(3)
        for title, (own, kernel) in views.items():
            with tiles.cell():
                values, score = own.maps[0].shown(AggregateView(smoothing=kernel))
                line = f"{'Grad-CAM' if own is cam else self.method}, localisation {score:.2f}"
                grid_tile(title, line, values, photo)
        level = cam.mean(AggregateView())
        drawn = lines_svg(
            {"localisation": found.localisation, "ρ with Grad-CAM": found.correlation}, KERNELS, Axis("mean of the grids", min(0.0, *found.correlation), 1),
            "kernel K in pixels", place, ("Grad-CAM", level), size=(960, 400),
        )  # fmt: skip
        chart(drawn, f"Localisation and rank correlation with Grad-CAM of {self.method} at each kernel")
        best = max(range(len(KERNELS)), key=found.localisation.__getitem__)
        return (
            f"Over {len(grids)} grids {self.method} at Input goes from {found.localisation[0]:.2f} to {found.localisation[best]:.2f} at K = {KERNELS[best]}; Grad-CAM at Final has {level:.2f}. "
            f"Its rank correlation with Grad-CAM goes from {signed(found.correlation[0])} to {signed(max(found.correlation))}."
        )

    def beyond(self, model: str) -> Beyond:
        return aggregate(model, "gridpg", "IG@Input:steps=8,IxG@Input,Grad-CAM@Final", limit=24, smoothing=33)
