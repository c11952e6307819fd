"""Settings of a method to try: its search space, checked against the declared parameters, and the settings drawn from it."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attrlib.errors import SpecError
from attrlib.methods import METHODS, resolve
from attrlib.registry import Param, Value, params_of, parse_params
from attrlib.specs import Dimension, MethodSpec, TuneSpec, parse_space

LAYER, SEED = "layer", "seed"
FACTORS = (0.25, 0.5, 1, 2, 4)
"""Multiples of a number's default in the default space."""
MAGNITUDES = (0.01, 1, 100, 10_000)
"""The same for a default below `SMALL`, such as an epsilon, of which the order of magnitude matters."""
SMALL = 1e-3
FROM_ZERO = {int: (0, 1, 2, 4), float: (0, 0.1, 0.25, 0.5, 1)}
"""Values of a number whose default is 0 in the default space."""
ATTEMPTS = 100
"""Draws for each setting that is wanted, as some draws repeat others."""

Setting = Mapping[str, Value]


@dataclass(frozen=True)
class SearchSpace:
    """The checked search space of a method.

    Attributes:
        method: The method at its default setting.
        dimensions: The dimensions as given, or the default ones.
        values: All values of each dimension by name, typed; empty for a range from which any value may be drawn.
    """

    method: MethodSpec
    dimensions: tuple[Dimension, ...]
    values: Mapping[str, tuple[Value, ...]]

    @property
    def size(self) -> float:
        """Return the number of settings, infinite for a range from which any value may be drawn."""
        return math.prod(len(values) or math.inf for values in self.values.values())

    def settings(self, trials: int, seed: int) -> list[MethodSpec]:
        """Return the settings to try: the default, then all others, or as many as there are trials, drawn at random.

        Args:
            trials: Maximum number of settings besides the default.
            seed: Seed of the draws.
        """
        chosen = {resolve(self.method): self.method}
        # The default may be one of the settings, so one more may be needed.
        draws = self._all() if self.size <= trials else itertools.islice(self._drawn(seed), ATTEMPTS * trials)
        for setting in draws:
            if len(chosen) > trials:
                break
            method = self._apply(setting)
            chosen.setdefault(resolve(method), method)
        return list(chosen.values())

    def edges(self, settings: Sequence[MethodSpec], best: MethodSpec) -> list[str]:
        """Return a sentence for each number of the best setting that is the lowest or highest tried, though others are allowed.

        Args:
            settings: The settings that were tried.
            best: The best of them.
        """
        sentences = []
        for p in params_of(METHODS[self.method.name]):
            if p.name not in self.values or p.kind not in (int, float):
                continue
            tried = {value for each in settings if (value := resolve(each).values[p.name]) is not None}
            value = resolve(best).values[p.name]
            for word, end, bound in (("lowest", min(tried), p.low), ("highest", max(tried), p.high)):
                if value == end != bound and len(tried) > 1:
                    sentences.append(f"{p.name}={p.format(value)} is the {word} value tried; beyond it may be a better one")
        return sentences

    def _all(self) -> Iterator[Setting]:
        for values in itertools.product(*self.values.values()):
            yield dict(zip(self.values, values, strict=True))

    def _drawn(self, seed: int) -> Iterator[Setting]:
        generator = np.random.default_rng(seed)
        while True:
            yield {each.name: self._draw(each, generator) for each in self.dimensions}

    def _draw(self, dimension: Dimension, generator: np.random.Generator) -> Value:
        if values := self.values[dimension.name]:
            return values[generator.integers(len(values))]
        return _number(dimension.at(float(generator.random())), dimension.name, self.method.name)

    def _apply(self, setting: Setting) -> MethodSpec:
        params = self.method.values | {name: value for name, value in setting.items() if name != LAYER}
        return replace(self.method, layer=str(setting.get(LAYER, self.method.layer)), params=tuple(params.items()))


def read_space(space: str | Mapping[str, object] | Iterable[Dimension]) -> tuple[Dimension, ...]:
    """Return the dimensions of a space given in Python.

    Args:
        space: The text form; a mapping from names to lists of values, or to ranges as text; or dimensions.

    Raises:
        SpecError: If it is not valid.
    """
    if isinstance(space, str):
        return parse_space(space)
    if not isinstance(space, Mapping):
        return tuple(space)
    return parse_space(",".join(f"{name}={_text(values)}" for name, values in space.items()))


def _text(values: object) -> str:
    if isinstance(values, Iterable) and not isinstance(values, str):
        return "/".join("auto" if value is None else str(value) for value in values)
    return str(values)


def search_space(spec: TuneSpec) -> SearchSpace:
    """Return the search space of a spec, by default one made from the declared parameters of its method.

    Raises:
        MethodError: If the method is unknown.
        SpecError: If the method or the space is not valid, or has a single setting. The message says what to do.
    """
    method = spec.method
    resolve(method)
    dimensions = spec.space or default_space(method)
    values = {each.name: _values(each, method.name, spec.sampler) for each in dimensions}
    space = SearchSpace(method, dimensions, values)
    if not dimensions:
        raise SpecError(
            f"{method} has no parameter with declared values left to search; give a space, such as layer=Middle/Final, or choose another "
            "method"
        )
    if space.size == 1:
        raise SpecError(
            f"the search space {', '.join(map(str, dimensions))} has a single setting, so there is nothing to search; give at least two "
            f"values, as in {dimensions[0].name}=.../..."
        )
    return space


def default_space(method: MethodSpec) -> tuple[Dimension, ...]:
    """Return the default search space: the choices and switches of a method, and its numbers around their defaults.

    Parameters that the method's text names are kept, and so are texts and numbers without a default.

    Args:
        method: The method.

    Raises:
        MethodError: If the method is unknown.
    """
    params = [p for p in params_of(METHODS[method.name]) if p.name not in method.values]
    dimensions = [Dimension(p.name, tuple(dict.fromkeys(p.format(value) for value in _around(p)))) for p in params]
    return tuple(each for each in dimensions if len(each.values) > 1)


def _around(p: Param) -> Sequence[Value]:
    if p.choices:
        return p.choices
    if p.kind is bool:
        return (False, True)
    if p.kind not in (int, float) or p.default is None:
        return (p.default,)
    factors = FACTORS if p.default >= SMALL else MAGNITUDES
    numbers = [p.kind(float(f"{factor * p.default:.4g}")) for factor in factors] if p.default else FROM_ZERO[p.kind]
    low, high = -math.inf if p.low is None else p.low, math.inf if p.high is None else p.high
    return [number for number in numbers if low <= number <= high and (p.above is None or number > p.above)]


def _values(dimension: Dimension, method: str, sampler: str) -> tuple[Value, ...]:
    """Return the typed values of a dimension, none for a range from which any value may be drawn. Raises `SpecError`."""
    params = {p.name: p for p in params_of(METHODS[method])}
    if dimension.name == LAYER:
        if dimension.is_range:
            raise SpecError(f"{dimension} is not valid: layers have no range; list them, as in layer=Input/Middle/Final")
        return dimension.values
    if dimension.name == SEED and SEED not in params:
        raise SpecError(
            "seed is not a parameter of a method: it draws the items and random numbers of all settings; set it for the whole search"
        )

    def parsed(value: object) -> Value:
        return parse_params(METHODS[method], {dimension.name: value}, method)[dimension.name]

    if not dimension.is_range:
        return tuple(dict.fromkeys(parsed(value) for value in dimension.values))
    if dimension.name not in params:
        parsed("")
    p = params[dimension.name]
    if p.kind not in (int, float) or p.choices:
        raise SpecError(f"{dimension} is not valid: {dimension.name} of {method} is {p.expects()}; list the values, as in {p.name}=A/B")
    for end in (dimension.low, dimension.high):
        parsed(int(end) if end.is_integer() else end)
    if sampler == "random" and not dimension.points:
        return ()
    return tuple(dict.fromkeys(_number(value, dimension.name, method) for value in dimension.grid()))


def _number(value: float, name: str, method: str) -> float:
    """Return a value of a range in the type of its parameter."""
    (kind,) = (p.kind for p in params_of(METHODS[method]) if p.name == name)
    return round(value) if kind is int else value
