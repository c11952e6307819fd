"""The localisation protocols GridPG, DiFull and DiPart, on grids of images."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrlib.binning import localisation
from attrlib.errors import AttrlibError, ProtocolError
from attrlib.models import Classifier
from attrlib.models.cells import grid_view
from attrlib.postprocess import smooth
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import EvalBatch, ExplanationRequest, Outcome
from attrlib.registry import Paper, param

GRID_PAPER = Paper("Rao et al. 2022", "Towards Better Understanding Attribution Methods", "https://arxiv.org/abs/2205.10435")


@dataclass(frozen=True)
class Localisation(Protocol):
    """Share of the positive attribution that lies in the target's grid cell, mean over the targets of a grid.

    The map is resized bilinearly to the size of the grid and clamped at 0. Its sum inside the cell is divided by its total sum.
    """

    paper = GRID_PAPER
    items = "grids"
    other_maps = "maps of grids of images"
    bounds = (0.0, 1.0)
    reading = "1: all positive attribution lies in the target's cell. 1/n²: no better than evenly spread attribution."
    grid: int = param(2, "Grid cells per side, n", low=2, high=4)
    confidence: float = param(0.99, "Use only images that the model classifies correctly with at least this probability", low=0.0, high=1.0)
    smoothing: int = param(
        0, "Kernel size K of Gaussian smoothing (sigma = K/4) of the signed map before scoring; odd, or 0 for none", low=0, high=257
    )

    needs_probability = True

    @property
    def corners(self) -> bool:
        """Return whether the first class fills the first and the last cell, with two images, and only these cells are targets."""
        return True

    @property
    def cells(self) -> tuple[int, ...]:
        """Return the numbers of the grid cells that are targets."""
        return (0, self.grid**2 - 1) if self.corners else tuple(range(self.grid**2))

    @property
    def chance_level(self) -> float | None:
        return 1 / self.grid**2

    def __post_init__(self) -> None:
        if self.smoothing and self.smoothing % 2 == 0:
            raise ProtocolError(f"{self.name}: smoothing={self.smoothing} is even; the kernel size K must be odd, or 0 for none")

    def view(self, model: Classifier, cell: int) -> tuple[Classifier, str]:
        """Return the view of a model in which the target of a grid cell is explained, and the name of the view."""
        return grid_view(model, self.name, self.grid, cell), f"{self.name}:{self.grid}:{cell}"

    def views(self, model: Classifier) -> list[Classifier]:
        return [self.view(model, cell)[0] for cell in self.cells]

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        try:
            self.view(model, 0)
        except ProtocolError:
            raise
        except AttrlibError as error:
            raise ProtocolError(f"{self.name} is not defined for {model.name}: {error}") from None

    def key(self) -> dict[str, object]:
        # A grid's digest already depends on its images, so the confidence filter need not be part of the key.
        return {k: v for k, v in super().key().items() if k != "confidence"}

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        scores = [
            localisation(maps[:, [position]], self.grid, cell)
            for request, cells in self.cell_requests(inputs)
            for maps in [inputs.maps(request, self._smooth)]
            for position, cell in enumerate(cells)
        ]
        shares, insides = (torch.stack(values, 1) for values in zip(*scores, strict=True))
        rows = zip(shares, insides, strict=True)
        return [Outcome(float(share.mean()), {"shares": share.tolist(), "inside": inside.tolist()}) for share, inside in rows]

    def requests(self, inputs: EvalBatch) -> list[ExplanationRequest]:
        return [request for request, _ in self.cell_requests(inputs)]

    def cell_requests(self, inputs: EvalBatch) -> list[tuple[ExplanationRequest, tuple[int, ...]]]:
        """Return the requests for maps, each with the grid cells that are its targets; here one request for each cell, in its own view."""
        return [(self._request(inputs, cell, (cell,)), (cell,)) for cell in self.cells]

    def _request(self, inputs: EvalBatch, cell: int, targets: tuple[int, ...]) -> ExplanationRequest:
        view, name = self.view(inputs.context.model, cell)
        return ExplanationRequest(view, inputs.batch.images, inputs.targets[:, targets], name, inputs.batch.ids)

    def _smooth(self, maps: Tensor) -> Tensor:
        return smooth(maps, self.smoothing)


@PROTOCOLS.register
@dataclass(frozen=True)
class GridPG(Localisation):
    """Grid pointing game: the classifier sees a grid of images of different classes, each of which is the target in turn."""

    name: ClassVar[str] = "gridpg"
    title: ClassVar[str] = "GridPG"
    needs = ("a head that pools over positions",)

    @property
    def corners(self) -> bool:
        return False

    @property
    def cost(self) -> Cost:
        return Cost(area=self.grid**2, targets=self.grid**2)

    def views(self, model: Classifier) -> list[Classifier]:
        return [self.view(model, 0)[0]]

    def cell_requests(self, inputs: EvalBatch) -> list[tuple[ExplanationRequest, tuple[int, ...]]]:
        # All cells share one head, so the passes that are not class-specific are computed once for all targets.
        return [(self._request(inputs, 0, self.cells), self.cells)]


@PROTOCOLS.register
@dataclass(frozen=True)
class DiFull(Localisation):
    """Fully disconnected: the classifier sees only the target's cell, so any attribution outside it is wrong."""

    name: ClassVar[str] = "difull"
    title: ClassVar[str] = "DiFull"

    @property
    def cost(self) -> Cost:
        return Cost(inputs=2)


@PROTOCOLS.register
@dataclass(frozen=True)
class DiPart(Localisation):
    """Partially disconnected: the backbone sees the whole grid, the head only the final features of the target's cell."""

    name: ClassVar[str] = "dipart"
    title: ClassVar[str] = "DiPart"
    needs = ("a final layer with one map for all positions, which the head pools",)

    @property
    def cost(self) -> Cost:
        return Cost(inputs=2, area=self.grid**2)
