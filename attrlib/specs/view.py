"""Specs of how maps are shown, from whose typed options links, command lines and controls are generated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from attrlib.errors import SpecError
from attrlib.registry import param, parse_params
from attrlib.specs.codec import Spec

SIGNS = ("signed", "positive", "absolute")
SCALES = ("shared", "each")


def check_kernel(size: int) -> None:
    """Raise `SpecError` for an even kernel size."""
    if size and size % 2 == 0:
        raise SpecError(f"smoothing={size} is even: the kernel size K must be odd, or 0 for none")


class View(Spec):
    """Base class of views: frozen dataclasses of typed options for how maps are shown. No option changes an attribution."""

    @classmethod
    def parse(cls, options: Mapping[str, object]) -> Self:
        """Return a view with these options, and all others at their defaults.

        Raises:
            SpecError: If an option is unknown or its value is not valid.
        """
        return cls(**parse_params(cls, options, "view"))


@dataclass(frozen=True)
class ViewSpec(View):
    """How maps of one image are drawn."""

    sign: str = param("signed", "Show both signs, only evidence for the class, or the magnitude", choices=SIGNS)
    smoothing: int = param(
        0, "Kernel size K of Gaussian smoothing of the signed map, sigma = K/4; odd, or 0 for none", low=0, high=257, check=check_kernel
    )
    opacity: float = param(0.7, "Opacity of the map over the greyed photo", low=0.0, high=1.0)
    scale: str = param("each", "One colour scale for all maps, or one per map", choices=SCALES)
    clip: float = param(99.5, "Percentile of the magnitudes at which the colours saturate", low=50.0, high=100.0)
    diverging: str = param("BlueOrange", "Colour map of signed maps", choices=("BlueOrange", "RdBu", "PuOr", "PRGn"))
    sequential: str = param("Inferno", "Colour map of positive maps", choices=("Inferno", "Viridis", "Cividis", "Magma"))
