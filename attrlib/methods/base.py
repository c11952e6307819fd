"""What an attribution method is, and the registry of all of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.context import AttributionContext
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, Param, Registry, params_of, parse_params
from attrlib.specs import MethodSpec


@dataclass(frozen=True)
class Passes:
    """What a map of one image costs at most: passes to the layer (`before`), and behind it without and with a backward pass.

    A pass through the whole model is one to the layer and one behind it.
    """

    forward: int = 0
    gradient: int = 0
    before: int = 1


@dataclass(frozen=True)
class Method(ABC):
    """One attribution method. A subclass is a frozen dataclass whose fields are its parameters, and is registered by `METHODS.register`.

    `needs` says in words what a model must have; `signed` whether maps have both signs; `fast` whether one forward and at
    most one backward pass suffice; `seeded` whether the map depends on the seed, which a class may make a property of its parameters;
    `class_specific` whether it depends on the target class.
    `code` is a digest of the source of a method of the user's own: its stored maps are those of this code alone.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[Paper]
    default_layer: ClassVar[str] = "Input"
    needs: ClassVar[tuple[str, ...]] = ()
    signed: ClassVar[bool] = True
    seeded: ClassVar[bool] = False
    fast: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    code: ClassVar[str] = ""

    def check(self, model: Classifier, layer: Layer) -> None:  # noqa: B027  most methods are defined for every model
        """Raises `MethodError` with the reason where the method is known not to be defined before anything is computed."""

    @abstractmethod
    def attribute(self, context: AttributionContext) -> Tensor:
        """Signed maps (B,1,h,w) at the resolution of the context's layer. Raises `MethodError` where the method is not defined."""

    @abstractmethod
    def passes(self, layer: Layer) -> Passes:
        """What one image costs at that layer."""


METHODS: Registry[Method] = Registry("method", MethodError)


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method without running it."""

    name: str
    family: str
    summary: str
    paper: Paper
    needs: tuple[str, ...]
    default_layer: str
    signed: bool
    seeded: bool
    fast: bool
    class_specific: bool
    params: tuple[Param, ...]


def list_methods() -> list[MethodInfo]:
    """All registered methods with their parameters."""
    return [
        MethodInfo(
            cls.name,
            cls.family,
            (cls.__doc__ or "").strip().splitlines()[0],
            cls.paper,
            cls.needs,
            cls.default_layer,
            cls.signed,
            cls().seeded,
            cls.fast,
            cls.class_specific,
            params_of(cls),
        )
        for cls in METHODS.values()
    ]


def resolve(spec: MethodSpec) -> MethodSpec:
    """The spec with its layer and every parameter filled in, in type and in order. Raises `MethodError` or `SpecError`."""
    cls = METHODS[spec.name]
    params = parse_params(cls, spec.values, spec.name)
    return MethodSpec(cls.name, spec.layer or cls.default_layer, tuple(params.items()))


def create(spec: MethodSpec) -> Method:
    """The method of a spec, with its parameters."""
    return METHODS[spec.name](**resolve(spec).values)
