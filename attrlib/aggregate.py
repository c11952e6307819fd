"""AggAtt: how a method behaves on a whole data set, in six maps (Rao et al., CVPR 2022, arXiv 2205.10435)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from attrlib.errors import SpecError
from attrlib.postprocess import are_finite, resize

SHARES = (0.0, 0.02, 0.05, 0.5, 0.95, 0.98, 1.0)
"""Where the bins begin and end, as shares of the maps from the best to the worst."""
CLIP = 0.995
"""The share of the values of all bins that lies below the extreme colour."""
_NOTHING = 1e-7
_CHUNK = 16
"""Maps at full size at once: a thousand grids would not fit into memory."""


def localisation(maps: Tensor, n: int, cell: int) -> tuple[Tensor, Tensor]:
    """Positive attribution inside a cell over that in the whole map (B,1,n*H,n*W), and the sum inside: float64 (B,) each.

    The share is 0 where the positive attribution does not exceed 1e-7, NaN where the map holds a NaN or infinity.
    """
    positive = maps.double().clamp_min(0)
    row, column = divmod(cell, n)
    inside = positive.unflatten(3, (n, -1)).unflatten(2, (n, -1))[:, :, row, :, column].sum((1, 2, 3))
    total = positive.sum((1, 2, 3))
    share = torch.where(total > _NOTHING, inside / total, 0.0)
    return torch.where(are_finite(maps), share, torch.nan), inside


@dataclass(frozen=True, eq=False)
class Aggregate:
    """Maps of a data set, sorted by score and averaged in bins.

    `order` are the positions of the maps, best first, without those that are undefined; bin b holds `order[edges[b]:edges[b+1]]`.
    `bins` (6,1,H,W) are means, NaN for a bin without maps; `scale` is the value of the extreme colour, one for all.
    `examples` are the positions of each bin's maps, from its middle outwards. `scores` (N,) are those that decide, in the order given.
    """

    bins: Tensor
    scale: float
    order: tuple[int, ...]
    edges: tuple[int, ...]
    examples: tuple[tuple[int, ...], ...]
    scores: Tensor
    target_cell: int
    grid: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many maps each bin holds."""
        return tuple(last - first for first, last in pairwise(self.edges))

    @property
    def shown(self) -> Tensor:
        """The bins as shares of the scale, clipped to [-1, 1]."""
        return (self.bins / self.scale).clamp(-1, 1) if self.scale else self.bins

    @property
    def nbytes(self) -> int:
        """Bytes that the bins take."""
        return self.bins.nbytes

    def members(self, bin: int) -> tuple[int, ...]:  # noqa: A002
        """The positions of a bin's maps, best first."""
        return self.order[self.edges[bin] : self.edges[bin + 1]]


def aggregate(
    maps: Tensor,
    target_cell: int = 0,
    grid: int = 2,
    *,
    size: tuple[int, int] | None = None,
    signed: bool = False,
    scores: Tensor | None = None,
) -> Aggregate:
    """AggAtt of maps (N,1,h,w) of n x n grids, n = `grid`, whose target is one cell (row by row, from 0).

    The maps are resized bilinearly to `size` (height, width), by default their own, and sorted by localisation in the target cell,
    then by the positive attribution inside it, descending; or by `scores` (N,) or (N,2), column by column. A bin is the mean of
    max(a, 0), or with `signed` of a, over the maps between two of the shares 0, .02, .05, .5, .95, .98 and 1 of N, rounded.
    Maps with NaN or infinity, and NaN scores, are left out. For single images `grid` is 1. Raises `SpecError`.
    """
    height, width = _checked(maps, target_cell, grid, size, scores)
    keys = (_localised(maps, target_cell, grid, (height, width)) if scores is None else scores.double().reshape(len(maps), -1)).cpu()
    finite = are_finite(maps).cpu()
    ranked = torch.where(finite, keys[:, 0], torch.nan)
    order = tuple(sorted((~ranked.isnan()).nonzero()[:, 0].tolist(), key=(-keys).tolist().__getitem__))
    edges = tuple(round(share * len(order)) for share in SHARES)
    bins = torch.stack([_mean(maps, order[first:last], (height, width), signed) for first, last in pairwise(edges)])
    examples = tuple(tuple(order[k] for k in _outwards(first, last)) for first, last in pairwise(edges))
    return Aggregate(bins, _scale(bins), order, edges, examples, ranked, target_cell, grid)


def _checked(maps: Tensor, cell: int, grid: int, size: tuple[int, int] | None, scores: Tensor | None) -> tuple[int, int]:
    """The size of the bins. Raises `SpecError`."""
    if maps.ndim != 4 or maps.shape[1] != 1 or not len(maps):
        raise SpecError(f"a tensor of shape {tuple(maps.shape)} cannot be aggregated; give maps (N,1,h,w), N at least 1")
    if grid < 1 or not 0 <= cell < grid**2:
        raise SpecError(f"target_cell={cell} is not valid: a grid of {grid} x {grid} has the cells 0 to {grid**2 - 1}")
    height, width = size or (maps.shape[2], maps.shape[3])
    if height % grid or width % grid:
        raise SpecError(
            f"maps of {height} x {width} px cannot be cut into {grid} x {grid} equal cells; give the size of the grids as size="
        )
    if scores is not None and (len(scores) != len(maps) or scores.shape[1:] not in ((), (2,))):
        raise SpecError(f"{len(maps)} maps need as many scores, one each, not a tensor of shape {tuple(scores.shape)}")
    return height, width


def _localised(maps: Tensor, cell: int, grid: int, size: tuple[int, int]) -> Tensor:
    """Localisation and the positive attribution inside the cell: (N,2)."""
    found = [torch.stack(localisation(resize(chunk.float(), size), grid, cell), 1) for chunk in maps.split(_CHUNK)]
    return torch.cat(found)


def _mean(maps: Tensor, members: tuple[int, ...], size: tuple[int, int], signed: bool) -> Tensor:
    """Mean (1,H,W) of some of the maps at full size; NaN of none."""
    total = torch.zeros(1, *size, dtype=torch.float64)
    for chunk in torch.tensor(members, dtype=torch.long).split(_CHUNK):
        large = resize(maps[chunk].float(), size)
        total += (large if signed else large.clamp_min(0)).double().sum(0).cpu()
    return (total / len(members) if members else total / 0).float()


def _outwards(first: int, last: int) -> list[int]:
    """The places from `first` up to `last`, from (first + last) // 2 to both ends."""
    middle = (first + last) // 2
    return sorted(range(first, last), key=lambda place: (abs(place - middle), place))


def _scale(bins: Tensor) -> float:
    """The value at index int(0.995 n) of the n sorted magnitudes of all bins; the largest where that one is 0."""
    values = bins[bins.isfinite()].abs().sort().values
    if not len(values):
        return 0.0
    return float(values[int(CLIP * len(values))]) or float(values[-1])
