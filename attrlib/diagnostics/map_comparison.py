"""Compare two maps of one image: their difference and their rank correlation."""

from dataclasses import dataclass

from torch import Tensor

from attrlib.figures.overlay import limit, prepare
from attrlib.protocols.stability import twin_correlations
from attrlib.specs import ViewSpec
from attrlib.statistics import spearman


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two maps and their difference, at the image's size and in the same units.

    Attributes:
        first: The first map, (H,W).
        second: The second map, (H,W).
        difference: The first map minus the second, (H,W).
        top: Magnitude at which the colours of all three saturate.
        correlation: Spearman's correlation over the H W positions, NaN if either map is constant.
    """

    first: Tensor
    second: Tensor
    difference: Tensor
    top: float
    correlation: float


def compare_maps(first: Tensor, second: Tensor, size: tuple[int, int], view: ViewSpec, own_units: bool = True) -> Comparison:
    """Compare two maps, which may have different resolutions, as a view shows them.

    The maps of different methods have no common unit. With `own_units`, each map a is first divided by q(|a|), the `clip` percentile
    of its own magnitudes, and the difference is d = a / q(|a|) - b / q(|b|). It shows where one map is higher relative to its own
    scale. Without `own_units`, d = a - b. The rank correlation is the same either way.

    Args:
        first: The first map, (1,1,h,w).
        second: The second map, (1,1,h,w).
        size: Height and width at which the maps are compared.
        view: Smoothing, sign and clipping of the maps.
        own_units: Whether each map is divided by its own scale.
    """
    maps = [prepare(each, view, size)[0, 0].double() for each in (first, second)]
    if own_units:
        maps = [each / (limit([each], view.clip) or 1.0) for each in maps]
    a, b = maps
    return Comparison(a, b, a - b, limit(maps, view.clip), float(spearman(a.reshape(1, -1), b.reshape(1, -1))))


def twin_correlation(original: Tensor, twin: Tensor) -> float:
    """Return the correlation of two maps (1,1,h,w) of one resolution; see `twin_correlations`."""
    return float(twin_correlations(original.reshape(1, -1), twin.reshape(1, -1))[0])
