"""AggAtt against cherry-picking."""

from dataclasses import dataclass

import torch

from attrlib.binning import Aggregate, aggregate
from attrlib.figures.aggatt import Sample, bin_names, draw_bin, draw_sample
from attrlib.protocols.localisation import GRID_PAPER
from attrlib.registry import param
from attrlib.specs import AggregateView, ViewSpec
from pages.learn import beyond
from pages.learn.context import GridMaps, LessonContext
from pages.learn.drawing import VIEW, hidden, rows
from pages.learn.lesson import LESSONS, Beyond, Lesson
from pages.shared.tiles import figure

SHOWN = 3
PICKS = ("best", "middle", "worst")
BINS = ViewSpec(sign="positive")


@LESSONS.register
@dataclass(frozen=True)
class AggAtt(Lesson):
    """Three chosen examples, and the average over all of them."""

    name = "aggatt"
    title = "AggAtt against cherry-picking"
    claim = "Three examples can show anything. Sort all maps by score and average them in bins, and nothing stays hidden."
    formula = r"\text{sort maps by } L,\qquad \bar{a}_b = \frac{1}{|b|} \sum_{a \in b} \max(a, 0)\\[0.4em] b:\; 0\text{–}2\,\%,\; 2\text{–}5,\; 5\text{–}50,\; 50\text{–}95,\; 95\text{–}98,\; 98\text{–}100"
    letters = "L: the share of positive attribution in the outlined cell. b: a bin of maps."
    paper = GRID_PAPER
    pick: str = param("best", "Which three examples to show", choices=PICKS)
    method: str = param("IxG", "The method to score", choices=("IxG", "Gradient", "Grad-CAM", "Layer-CAM"))
    layer: str = param("Input", "Where attribution is computed", choices=("Input", "Middle", "Final"))
    grids: int = param(32, "Number of grids; with fewer than 30 the outer bins are empty", low=10, high=64)

    def show(self, context: LessonContext) -> str:
        grids = context.grids(self.grids, corners=False)
        (maps,) = context.wait(context.grid_maps("gridpg", grids, 0, self.method, self.layer))
        found: Aggregate = context.result(
            "aggatt", lambda _progress: _sorted(maps), self.method, self.layer, [[b.index for b in birds] for birds in grids]
        )
        order = found.order
        first = {"best": 0, "middle": (len(order) - SHOWN) // 2, "worst": len(order) - SHOWN}[self.pick]
        chosen, tiles = order[max(0, first) :][:SHOWN], rows(SHOWN)
        for place in chosen:
            with tiles.cell():
                values, score = maps.maps[place].shown(AggregateView())
                sample = Sample(context.grid_picture(grids[place]), values, score)
                line = f"localisation {score:.2f}"
                figure(grids[place][0].name, line, draw_sample(sample, VIEW, 0, 2, 384), f"Map of a grid, {line}")
        bins = rows(len(bin_names()), 1, 60)
        for number, (name, size) in enumerate(zip(bin_names(), found.sizes, strict=True)):
            with bins.cell():
                if size:
                    figure(name, f"mean of {size}", draw_bin(found, number, BINS), f"Mean map of the bin {name}, {size} maps")
                else:
                    hidden(name, (224, 224))
        own, every = found.scores[list(chosen)].mean(), found.scores[list(order)].mean()
        return (
            f"The three examples score {float(own):.2f} on average, all {len(order)} grids {float(every):.2f}; chance is 0.25. "
            "The two bins in the middle hold 90 % of the maps."
        )

    def beyond(self, model: str) -> Beyond:
        return beyond.aggregate(model, "gridpg", "IxG@Input,Grad-CAM@Final", limit=50)


def _sorted(found: GridMaps) -> Aggregate:
    return aggregate(torch.cat([own.maps for own in found.maps]), 0, 2, size=found.maps[0].size)
