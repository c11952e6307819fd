"""Search space of method parameters: the values to try, listed or as a range, and their text form."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from attrlib.errors import SpecError
from attrlib.specs.text import read_list

POINTS = 5
"""Values of a range on a grid, unless it names their number."""
DIGITS = 4
"""Significant digits of the values inside a range, so that a method's text form stays short."""
_EXAMPLE = "write for example gamma=0/0.25/1, sigma=0.1..0.5 or epsilon=1e-6..1e-2:log"


@dataclass(frozen=True)
class Dimension:
    """The values of one parameter to try.

    The text form is `NAME=VALUE/VALUE/...`, or `NAME=LOW..HIGH` for a range. `:log` after a range spaces its values logarithmically, a
    whole number sets how many there are: `epsilon=1e-6..1e-2:log:3`.

    Attributes:
        name: Name of the parameter, or `layer`.
        values: The values as text; empty for a range.
        low: Lowest value of a range.
        high: Highest value of a range.
        log: Whether the values of the range are spaced logarithmically.
        points: Number of values of the range; 0 for five on a grid, and for any value in random search.
    """

    name: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    points: int = 0

    def __post_init__(self) -> None:
        if self.values:
            return
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise SpecError(f"{self} is not a range: its first number must be below its second; {_EXAMPLE}")
        if self.log and self.low <= 0:
            raise SpecError(f"{self} cannot be spaced logarithmically: its first number must be above 0; list the values, as in 0/0.01/0.1")
        if self.points and not 2 <= self.points <= 1000:
            raise SpecError(f"{self} asks for {self.points} values: a range has 2 to 1000")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form. Listed values stay text until the method's parameter converts them.

        Raises:
            SpecError: If the text is not valid.
        """
        name, _, rest = (part.strip() for part in text.partition("="))
        body, *options = (part.strip() for part in rest.split(":"))
        low, dots, high = (part.strip() for part in body.partition(".."))
        values = tuple(dict.fromkeys(value.strip() for value in body.split("/") if value.strip()))
        if not name or not values or (options and not dots):
            raise SpecError(f"{text.strip()[:80]!r} is not a dimension of a search space; {_EXAMPLE}")
        if not dots:
            return cls(name, values)
        log = "log" in options
        counts = [option for option in options if option != "log"]
        try:
            if len(options) - len(counts) > 1 or len(counts) > 1:
                raise ValueError(text)
            return cls(name, (), float(low), float(high), log, int(counts[0]) if counts else 0)
        except ValueError:
            raise SpecError(f"{text.strip()[:80]!r} is not a range of numbers; {_EXAMPLE}") from None

    def __str__(self) -> str:
        if self.values:
            return f"{self.name}={'/'.join(self.values)}"
        low, high = (repr(float(end)).removesuffix(".0") for end in (self.low, self.high))
        return f"{self.name}={low}..{high}{':log' if self.log else ''}{f':{self.points}' if self.points else ''}"

    @property
    def is_range(self) -> bool:
        """Return whether the dimension is a range."""
        return not self.values

    def grid(self) -> tuple[float, ...]:
        """Return the evenly spaced values of a range, from its lowest to its highest."""
        count = self.points or POINTS
        return tuple(dict.fromkeys(self.at(k / (count - 1)) for k in range(count)))

    def at(self, share: float) -> float:
        """Return the value of a range at a share of its length, from 0 to 1, rounded to a few digits inside the range."""
        if share in (0, 1):
            return self.high if share else self.low
        value = self.low * (self.high / self.low) ** share if self.log else self.low + share * (self.high - self.low)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


def parse_space(text: str) -> tuple[Dimension, ...]:
    """Parse a comma-separated list of dimensions. An empty text is an empty space.

    Raises:
        SpecError: If an entry is not valid, or a parameter is given twice.
    """
    space = read_list(text, Dimension.parse)
    check_space(space)
    return space


def check_space(space: Iterable[Dimension]) -> None:
    """Raise `SpecError` if two dimensions have the same name."""
    names = [each.name for each in space]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{name[:40]!r} is given twice in the search space; list all its values once, as in {name[:40]}=a/b")
