"""Two maps of one picture against each other: their difference and their rank correlation."""

from dataclasses import dataclass

from torch import Tensor

from attrlib.figures.overlay import limit, prepare
from attrlib.protocols.stability import twin_correlations
from attrlib.specs import ViewSpec
from attrlib.statistics import spearman


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two maps and their difference, (H,W) each at the picture's size, in the same units.

    `top` is the magnitude at which the colours of all three saturate; `correlation` is Spearman's over the H W positions, NaN
    where either map is constant.
    """

    first: Tensor
    second: Tensor
    difference: Tensor
    top: float
    correlation: float


def compare_maps(first: Tensor, second: Tensor, size: tuple[int, int], view: ViewSpec, own_units: bool = True) -> Comparison:
    """Compares maps (1,1,h,w), of any two resolutions, as the view shows them: at `size` (H,W), smoothed, with its sign.

    Methods have no unit in common: with `own_units` each map a is first divided by q(|a|), the `clip` percentile of its own
    magnitudes, so that the difference d = a / q(|a|) - b / q(|b|) says where one map sees more than the other in its own terms;
    else d = a - b. The rank correlation is the same either way.
    """
    maps = [prepare(each, view, size)[0, 0].double() for each in (first, second)]
    if own_units:
        maps = [each / (limit([each], view.clip) or 1.0) for each in maps]
    a, b = maps
    return Comparison(a, b, a - b, limit(maps, view.clip), float(spearman(a.reshape(1, -1), b.reshape(1, -1))))


def twin_correlation(original: Tensor, twin: Tensor) -> float:
    """Of two maps (1,1,h,w) of one resolution; see `twin_correlations`."""
    return float(twin_correlations(original.reshape(1, -1), twin.reshape(1, -1))[0])
