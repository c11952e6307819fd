"""AggAtt: summarise the maps of a whole data set in six maps (Rao et al., CVPR 2022, arXiv 2205.10435)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from attrlib.errors import SpecError
from attrlib.postprocess import are_finite, resize

SHARES = (0.0, 0.02, 0.05, 0.5, 0.95, 0.98, 1.0)
"""Edges of the bins, as shares of the maps from best to worst."""
CLIP = 0.995
"""Share of the values of all bins that lie below the extreme colour."""
_NOTHING = 1e-7
_CHUNK = 16
"""Maps to process at full size at once. A thousand grids would not fit into memory."""


def localisation(maps: Tensor, n: int, cell: int) -> tuple[Tensor, Tensor]:
    """Return the share of positive attribution that lies inside a grid cell, and the sum inside.

    Args:
        maps: Maps (B,1,n*H,n*W) of grids.
        n: Grid cells per side.
        cell: Index of the grid cell, row by row, from 0.

    Returns:
        Share and sum, float64 (B,) each. The share is 0 where the total positive attribution does not exceed 1e-7, and NaN where the
        map holds a NaN or infinity.
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

    Attributes:
        bins: Mean maps (6,1,H,W); NaN for an empty bin.
        scale: Value of the extreme colour, shared by all bins.
        order: Positions of the maps, best first, without undefined ones.
        edges: Bin b holds `order[edges[b]:edges[b+1]]`.
        examples: Positions of each bin's maps, from its middle outwards.
        scores: The scores (N,) that the maps are sorted by, in the order of the input; NaN where undefined.
        target_cell: Index of the target cell, row by row, from 0.
        grid: Grid cells per side.
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
        """Return the number of maps in each bin."""
        return tuple(last - first for first, last in pairwise(self.edges))

    @property
    def shown(self) -> Tensor:
        """Return the bins as shares of the scale, clipped to [-1, 1]."""
        return (self.bins / self.scale).clamp(-1, 1) if self.scale else self.bins

    @property
    def nbytes(self) -> int:
        """Return the size of the bins in bytes."""
        return self.bins.nbytes

    def members(self, bin: int) -> tuple[int, ...]:  # noqa: A002
        """Return the positions of a bin's maps, best first."""
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
    """Sort maps by score and average them in six bins (AggAtt; Rao et al., CVPR 2022, arXiv 2205.10435).

    By default maps are sorted by localisation in the target cell, then by the positive attribution inside it, descending. A bin is the
    mean over the maps between two of the shares 0, .02, .05, .5, .95, .98 and 1 of N, rounded. Maps with NaN or infinity, and maps
    whose score is NaN, are left out.

    Args:
        maps: Maps (N,1,h,w) of grids, or of single images.
        target_cell: Index of the target cell, row by row, from 0.
        grid: Grid cells per side; 1 for single images.
        size: (height, width) in pixels to resize the maps to, bilinearly; by default their own.
        signed: Whether to average the signed values a; otherwise max(a, 0).
        scores: Scores (N,) or (N,2) to sort by instead, descending, column by column.

    Raises:
        SpecError: If the maps, cell, grid, size or scores do not fit together.

    Example:
        >>> import torch
        >>> bins = aggregate(torch.rand(100, 1, 8, 8), target_cell=0, grid=2)
        >>> bins.sizes
        (2, 3, 45, 45, 3, 2)
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
    """Check the arguments of `aggregate`, and return the size of the bins. Raises `SpecError`."""
    if maps.ndim != 4 or maps.shape[1] != 1 or not len(maps):
        raise SpecError(f"a tensor of shape {tuple(maps.shape)} cannot be aggregated; give maps (N,1,h,w), N at least 1")
    if grid < 1 or not 0 <= cell < grid**2:
        raise SpecError(f"target_cell={cell} is not valid; a grid of {grid} x {grid} has the cells 0 to {grid**2 - 1}")
    height, width = size or (maps.shape[2], maps.shape[3])
    if height % grid or width % grid:
        raise SpecError(
            f"maps of {height} x {width} px cannot be divided into {grid} x {grid} equal cells; pass the size of the grids as size="
        )
    if scores is not None and (len(scores) != len(maps) or scores.shape[1:] not in ((), (2,))):
        raise SpecError(f"scores of shape {tuple(scores.shape)} do not fit {len(maps)} maps; give scores ({len(maps)},) or ({len(maps)},2)")
    return height, width


def _localised(maps: Tensor, cell: int, grid: int, size: tuple[int, int]) -> Tensor:
    """Return localisation and positive attribution inside the cell, (N,2)."""
    return torch.cat([torch.stack(localisation(resize(chunk.float(), size), grid, cell), 1) for chunk in maps.split(_CHUNK)])


def _mean(maps: Tensor, members: tuple[int, ...], size: tuple[int, int], signed: bool) -> Tensor:
    """Return the mean (1,H,W) of some of the maps at full size; NaN if there are none."""
    total = torch.zeros(1, *size, dtype=torch.float64)
    for chunk in torch.tensor(members, dtype=torch.long).split(_CHUNK):
        large = resize(maps[chunk].float(), size)
        total += (large if signed else large.clamp_min(0)).double().sum(0).cpu()
    return (total / len(members) if members else total / 0).float()


def _outwards(first: int, last: int) -> list[int]:
    """Return the places from `first` up to but not including `last`, from the middle, (first + last) // 2, to both ends."""
    middle = (first + last) // 2
    return sorted(range(first, last), key=lambda place: (abs(place - middle), place))


def _scale(bins: Tensor) -> float:
    """Return the value at index int(0.995 n) of the n sorted magnitudes of all bins, or the largest if that one is 0."""
    values = bins[bins.isfinite()].abs().sort().values
    if not len(values):
        return 0.0
    return float(values[int(CLIP * len(values))]) or float(values[-1])
