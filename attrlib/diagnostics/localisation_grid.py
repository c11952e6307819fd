"""One grid of chosen pictures in a localisation setting: a method's map for one cell, and its score at any smoothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.aggregate import localisation
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


@dataclass(frozen=True, eq=False)
class GridMap:
    """A map (1,1,h,w) of a grid of `size` (height, width) for the target in one of its n x n cells."""

    maps: Tensor
    size: tuple[int, int]
    grid: int
    cell: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.maps.nbytes

    @property
    def outside(self) -> Tensor:
        """The map (H,W) at the grid's size with what lies in the target's cell set to 0 at the map's own resolution."""
        beyond = self.maps.clone()
        crop(beyond, self.grid, self.cell).zero_()
        return resize(beyond, self.size)[0, 0]

    def shown(self, view: AggregateView) -> tuple[Tensor, float]:
        """The map (H,W) at the grid's size, signed, and its localisation score, both smoothed as the view says."""
        kernel = view.kernel(self.maps.shape[2], self.size[0])
        large = resize(smooth(self.maps, kernel), self.size)
        return large[0, 0], float(localisation(large, self.grid, self.cell)[0])


def map_grid(
    model: Classifier,
    photos: Sequence[Photo],
    setting: ProtocolSpec,
    cell: int,
    target: int,
    method: MethodSpec,
    cache: ResultCache,
    seed: int = 0,
    progress: Progress = no_progress,
) -> GridMap:
    """The map of a method for class `target` in one cell of n x n pictures, row by row; from the cache if it is there.

    `setting` is gridpg, difull or dipart. Raises `AttrlibError` where it is not defined for the model, and `SpecError` for
    another number of pictures than it needs, a cell that is none, or a protocol that has no grids.
    """
    protocol = create(setting)
    if not isinstance(protocol, Localisation):
        raise SpecError(f"{setting.name} has no grids; choose gridpg, difull or dipart")
    n = protocol.grid
    if len(photos) != n * n or cell not in range(n * n):
        raise SpecError(f"{setting} needs {n * n} pictures, and a target cell from 0 to {n * n - 1}")
    protocol.check(model)
    view, name = protocol.view(model, cell if protocol.corners else 0)
    images = stitch(torch.stack([model.preprocess(photo.image) for photo in photos])[None], n)
    request = ExplanationRequest(
        view, model.place(images), torch.tensor([[target]]), name, (digest("grid", [photo.digest for photo in photos]),)
    )
    evaluator = Evaluator(model, cache, seed, rows=4, on_progress=progress)
    maps, _ = evaluator.explainer(resolve(method))(request)
    return GridMap(maps, (images.shape[2], images.shape[3]), n, cell)
