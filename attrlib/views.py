"""How maps are shown: typed options, which links, command lines and dials are made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from attrlib.errors import SpecError
from attrlib.registry import Param, param, params_of, parse_params

SIGNS = ("signed", "positive", "absolute")
SCALES = ("shared", "each")


class View:
    """How maps are shown: a frozen dataclass of typed options, one of them `smoothing`. None of it changes an attribution."""

    smoothing: int

    def __post_init__(self) -> None:
        if self.smoothing and self.smoothing % 2 == 0:
            raise SpecError(f"smoothing={self.smoothing} is even: the kernel size K must be odd, or 0 for none")

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Self:
        """The view with the given options, the others at their defaults. Raises `SpecError`."""
        return cls(**parse_params(cls, given, "view"))

    @classmethod
    def options(cls) -> tuple[Param, ...]:
        """The options with type, range and help, from which flags and links are made."""
        return params_of(cls)

    def fields(self) -> dict[str, str]:
        """Every option as text."""
        return {p.name: p.format(getattr(self, p.name)) for p in self.options()}

    def flags(self) -> list[str]:
        """The words of a command line for what is not at its default."""
        default = type(self)().fields()
        return [word for name, text in self.fields().items() if text != default[name] for word in (f"--{name}", text)]


@dataclass(frozen=True)
class ViewSpec(View):
    """How maps of one picture are drawn."""

    sign: str = param("signed", "Show both signs, only evidence for the class, or magnitude", choices=SIGNS)
    smoothing: int = param(0, "Gaussian smoothing K x K, sigma = K/4, of the signed map; 0 is off, else odd", low=0, high=257)
    opacity: float = param(0.7, "Opacity of the map over the greyed photo", low=0.0, high=1.0)
    scale: str = param("each", "One colour scale for all maps, or one for each", choices=SCALES)
    clip: float = param(99.5, "Percentile of the magnitudes that saturates the colours", low=50.0, high=100.0)
    diverging: str = param("BlueOrange", "Colour map of signed maps", choices=("BlueOrange", "RdBu", "PuOr", "PRGn"))
    sequential: str = param("Inferno", "Colour map of positive maps", choices=("Inferno", "Viridis", "Cividis", "Magma"))
