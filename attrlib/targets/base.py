"""Base class of targets, and the registry of all targets. A target is the function of the model's outputs that maps explain."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attrlib.errors import TargetError
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, Param, Registry, params_of, parse_params, summary_of
from attrlib.specs import TargetSpec
from attrlib.targets.readout import Readout


@dataclass(frozen=True)
class Target(ABC):
    """Base class of targets. A subclass is a registered frozen dataclass whose fields are its parameters.

    Attributes:
        name: Name of the target in lists and specs.
        title: Name shown to users.
        paper: Where explaining this target was proposed, if anywhere in particular.
        needs: What a model must have, in words.
        linear: Whether the target is linear in the logits, as the propagation of relevance from them requires.
        about_class: Whether a map is evidence for the item's class, so that protocols of the class can judge it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[Paper | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    linear: ClassVar[bool] = True
    about_class: ClassVar[bool] = False

    def check(self, model: Classifier, layer: Layer) -> None:  # noqa: B027  not abstract, because most targets are defined for every model
        """Check, before anything is computed, that the target is defined for a model, explained at a layer.

        Raises:
            TargetError: If it is not; the message gives the reason.
        """

    def check_class(self, model: Classifier, target: int) -> None:  # noqa: B027  likewise for every class
        """Check that the target is defined for a class. Raises `TargetError` if it is not."""

    def phrase(self, model: Classifier, target: int) -> str:
        """Return what maps of a class explain, in a few words for titles."""
        return class_name(model, target)

    def view(self, model: Classifier) -> Classifier:
        """Return the classifier whose outputs the target reads: the model itself, or a view of it that yields something else."""
        return model

    def key(self, model: Classifier) -> tuple[object, ...]:
        """Return what values depend on: the name and every parameter, resolved for the model."""
        return (self.name, *(getattr(self, p.name) for p in params_of(type(self))))

    @abstractmethod
    def readout(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Readout:
        """Return the target of given items.

        Args:
            model: The view that the target reads, inside its session.
            classes: Class of each item (B,).
            logits: Returns the logits of the unperturbed items (B,C).
        """


def class_name(model: Classifier, target: int) -> str:
    """Return the short name of a class: the first of its synonyms."""
    return model.class_names[target].split(",")[0]


TARGETS: Registry[Target] = Registry("target", TargetError)


@dataclass(frozen=True)
class TargetInfo:
    """Description of a registered target and its parameters; `Target` explains the fields."""

    name: str
    title: str
    summary: str
    paper: Paper | None
    needs: tuple[str, ...]
    linear: bool
    about_class: bool
    params: tuple[Param, ...]


def list_targets() -> list[TargetInfo]:
    """Return descriptions of all registered targets, in the order of registration.

    Example:
        >>> import attrlib
        >>> [target.name for target in attrlib.list_targets()][:3]
        ['logit', 'probability', 'contrast']
    """
    return [
        TargetInfo(
            cls.name,
            cls.title,
            summary_of(cls),
            cls.paper,
            cls.needs,
            cls.linear,
            cls.about_class,
            params_of(cls),
        )
        for cls in TARGETS.values()
    ]


def resolve(spec: TargetSpec) -> TargetSpec:
    """Return the spec with every parameter filled in, with the right types and in order.

    Raises:
        TargetError: If there is no target of that name.
        SpecError: If a parameter is unknown or not valid.
    """
    cls = TARGETS[spec.name]
    return TargetSpec(cls.name, tuple(parse_params(cls, spec.values, spec.name).items()))


def create(spec: TargetSpec) -> Target:
    """Return the target that a spec describes, with its parameters set."""
    return TARGETS[spec.name](**resolve(spec).values)


def short(spec: TargetSpec) -> TargetSpec:
    """Return the spec without the parameters that have their default values."""
    values, default = resolve(spec).params, {p.name: p.default for p in params_of(TARGETS[spec.name])}
    return TargetSpec(spec.name, tuple(pair for pair in values if pair[1] != default[pair[0]]))
