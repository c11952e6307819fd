"""Explain one grid of chosen images in a localisation setting: the map for one grid cell, and its score at any smoothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.binning import localisation
from attrlib.data.images import Photo
from attrlib.engine.cache import ResultCache
from attrlib.engine.evaluator import Evaluator
from attrlib.errors import SpecError
from attrlib.methods import resolve
from attrlib.models import Classifier
from attrlib.models.cells import crop, stitch
from attrlib.postprocess import resize, smooth
from attrlib.progress import Progress, no_progress
from attrlib.protocols import ExplanationRequest, create
from attrlib.protocols.localisation import Localisation
from attrlib.specs import AggregateView, MethodSpec, ProtocolSpec, digest
from attrlib.statistics import spearman


@dataclass(frozen=True, eq=False)
class GridMap:
    """The map of a grid of n x n images for the target in one grid cell.

    Attributes:
        maps: The map, (1,1,h,w).
        size: Height and width of the grid in pixels.
        grid: Grid cells per side, n.
        cell: Number of the target's grid cell.
    """

    maps: Tensor
    size: tuple[int, int]
    grid: int
    cell: int

    @property
    def nbytes(self) -> int:
        """Return the bytes of the map."""
        return self.maps.nbytes

    @property
    def outside(self) -> Tensor:
        """Return the map (H,W) at the grid's size, after the target's cell was set to 0 at the map's own resolution."""
        beyond = self.maps.clone()
        crop(beyond, self.grid, self.cell).zero_()
        return resize(beyond, self.size)[0, 0]

    def shown(self, view: AggregateView) -> tuple[Tensor, float]:
        """Return the signed map (H,W) at the grid's size, smoothed as the view says, and its localisation score."""
        kernel = view.kernel(self.maps.shape[2], self.size[0])
        large = resize(smooth(self.maps, kernel), self.size)
        return large[0, 0], float(localisation(large, self.grid, self.cell)[0])


@dataclass(frozen=True, eq=False)
class GridMaps:
    """Maps of several grids."""

    maps: list[GridMap]

    @property
    def nbytes(self) -> int:
        """Return the bytes of all maps."""
        return sum(each.nbytes for each in self.maps)

    def mean(self, view: AggregateView) -> float:
        """Return the mean localisation score of the maps, smoothed as the view says."""
        return sum(each.shown(view)[1] for each in self.maps) / len(self.maps)

    def correlation(self, reference: "GridMaps", view: AggregateView) -> float:
        """Return the mean rank correlation of the maps, smoothed as the view says, with unsmoothed maps of the same grids."""
        pairs = zip(self.maps, reference.maps, strict=True)
        values = [spearman(each.shown(view)[0].reshape(1, -1), other.shown(AggregateView())[0].reshape(1, -1)) for each, other in pairs]
        return float(torch.cat(values).mean())


@dataclass(frozen=True)
class SmoothingCurves:
    """Means over the grids for each smoothing kernel.

    Attributes:
        localisation: Localisation score.
        correlation: Rank correlation with the unsmoothed reference maps.
    """

    localisation: list[float]
    correlation: list[float]


def smoothing_curves(maps: GridMaps, reference: GridMaps, kernels: Sequence[int]) -> SmoothingCurves:
    """Return localisation of maps, and their rank correlation with reference maps of the same grids, for each kernel.

    Args:
        maps: The maps that are smoothed.
        reference: The maps that are not.
        kernels: Kernel sizes in pixels; 0 for no smoothing.
    """
    views = [AggregateView(smoothing=kernel) for kernel in kernels]
    return SmoothingCurves([maps.mean(view) for view in views], [maps.correlation(reference, view) for view in views])


def map_grid(
    model: Classifier,
    photos: Sequence[Photo],
    setting: ProtocolSpec,
    cell: int,
    target: int,
    method: MethodSpec,
    cache: ResultCache,
    seed: int = 0,
    on_progress: Progress = no_progress,
) -> GridMap:
    """Return the map of a method for the target in one grid cell of a grid of images, from the cache or computed and cached.

    Args:
        model: The classifier.
        photos: The n x n images, row by row.
        setting: The protocol: gridpg, difull or dipart.
        cell: Number of the target's grid cell.
        target: The class to explain.
        method: The method.
        cache: Where maps are looked up and stored.
        seed: Seed of everything random.
        on_progress: The progress callback.

    Raises:
        SpecError: If the number of images is wrong, the grid has no such cell, or the protocol has no grids.
        AttrlibError: If the setting is not defined for the model.
    """
    protocol = create(setting)
    if not isinstance(protocol, Localisation):
        raise SpecError(f"{setting.name} has no grids; choose gridpg, difull or dipart")
    n = protocol.grid
    if len(photos) != n * n or cell not in range(n * n):
        raise SpecError(f"{setting} needs {n * n} images and a target cell from 0 to {n * n - 1}")
    protocol.check(model)
    view, name = protocol.view(model, cell if protocol.corners else 0)
    images = stitch(torch.stack([model.preprocess(photo) for photo in photos])[None], n)
    request = ExplanationRequest(
        view, model.place(images), torch.tensor([[target]]), name, (digest("grid", [photo.digest for photo in photos]),)
    )
    evaluator = Evaluator(model, cache, seed, rows=4, on_progress=on_progress)
    maps, _ = evaluator.explainer(resolve(method))(request)
    return GridMap(maps, (images.shape[2], images.shape[3]), n, cell)
