"""Base class of attribution methods, and the registry of all methods."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.context import AttributionContext
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, Param, Registry, params_of, parse_params, summary_of
from attrlib.specs import MethodSpec
from attrlib.targets import resolve as resolve_target


@dataclass(frozen=True)
class Passes:
    """Upper bounds on the passes that the map of one image takes.

    A pass through the whole model counts once up to the layer and once downstream of it.

    Attributes:
        forward: Forward passes downstream of the layer, without a backward pass.
        gradient: Forward passes downstream of the layer that are followed by a backward pass.
        before: Forward passes from the input up to the layer.
    """

    forward: int = 0
    gradient: int = 0
    before: int = 1


@dataclass(frozen=True)
class Method(ABC):
    """Base class of attribution methods.

    A subclass is a frozen dataclass whose fields are its parameters. Register it with `METHODS.register`.

    Attributes:
        name: Name of the method in lists and specs.
        family: Family of methods that it belongs to, such as `gradient` or `CAM`.
        paper: The paper that the method is from.
        default_layer: Layer at which maps are computed if the spec names none.
        needs: What a model must have, in words.
        signed: Whether maps have both signs.
        seeded: Whether the map depends on the seed. A class may make it a property that depends on its parameters.
        fast: Whether one forward and at most one backward pass suffice.
        class_specific: Whether the map depends on the target class.
        linear: Whether the target must be linear in the logits.
        operations: Whether the method reads or changes single operations of the model, which TorchScript hides.
        code: Digest of the source of a custom method. Its stored maps are valid for this code only.
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
    linear: ClassVar[bool] = False
    operations: ClassVar[bool] = False
    code: ClassVar[str] = ""

    def check(self, model: Classifier, layer: Layer) -> None:  # noqa: B027  not abstract, because most methods are defined for every model
        """Check, before anything is computed, that the method is defined for a model at a layer.

        Raises:
            MethodError: If the method is known not to be defined there; the message gives the reason.
        """

    @abstractmethod
    def attribute(self, context: AttributionContext) -> Tensor:
        """Return signed maps (B,1,h,w) at the resolution of the context's layer.

        Raises:
            MethodError: If the method is not defined for the model at this layer.
        """

    @abstractmethod
    def passes(self, layer: Layer) -> Passes:
        """Return the passes that one image takes at a layer."""


METHODS: Registry[Method] = Registry("method", MethodError)


@dataclass(frozen=True)
class MethodInfo:
    """Description of a registered method and its parameters."""

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
    linear: bool
    params: tuple[Param, ...]


def list_methods() -> list[MethodInfo]:
    """Return descriptions of all registered methods, in the order of registration."""
    return [
        MethodInfo(
            cls.name,
            cls.family,
            summary_of(cls),
            cls.paper,
            cls.needs,
            cls.default_layer,
            cls.signed,
            cls().seeded,
            cls.fast,
            cls.class_specific,
            cls.linear,
            params_of(cls),
        )
        for cls in METHODS.values()
    ]


def resolve(spec: MethodSpec) -> MethodSpec:
    """Return the spec with its layer, its target and every parameter filled in, with the right types and in order.

    Raises:
        MethodError: If there is no method of that name.
        TargetError: If there is no target of that name.
        SpecError: If a parameter is unknown or its value is not valid.
    """
    cls = METHODS[spec.name]
    params = parse_params(cls, spec.values, spec.name)
    return MethodSpec(cls.name, spec.layer or cls.default_layer, tuple(params.items()), resolve_target(spec.target))


def create(spec: MethodSpec) -> Method:
    """Return the method that a spec describes, with its parameters set."""
    return instance(resolve(spec))


def instance(spec: MethodSpec) -> Method:
    """Return the method that a resolved spec describes; its parameters are not checked again."""
    return METHODS[spec.name](**spec.values)
