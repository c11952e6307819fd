"""Define the base classes of protocols and measurements, and the registry of protocols."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from attrlib.errors import ProtocolError
from attrlib.models import Classifier
from attrlib.protocols.context import EvalBatch, ExplanationRequest, Measurement, Outcome
from attrlib.registry import Paper, Param, Registry, params_of, parse_params, summary_of
from attrlib.specs import ProtocolSpec


@dataclass(frozen=True)
class Cost:
    """The cost of one item for each method, measurements aside.

    Attributes:
        inputs: Number of inputs to explain.
        area: Size of each input, as a multiple of the model's input size.
        targets: Number of classes to explain for each input; they share the passes that are not class-specific.
        forwards: Number of further forward passes, those of a protocol's sources included.
    """

    inputs: float = 1
    area: float = 1
    targets: int = 1
    forwards: float = 0


@dataclass(frozen=True)
class Protocol(ABC):
    """Base class of protocols, which score attribution maps.

    A subclass is a registered frozen dataclass whose fields are its parameters.

    Attributes:
        name: Name in the registry.
        title: Name shown to users.
        paper: Where the protocol was proposed.
        items: Whether items are images or grids of images.
        bounds: Lowest and highest possible value.
        chance: Value of a map without information, None if unknown.
        needs: Requirements on the model, in words, and on the data set, as keys of `OFFERED`.
        reading: How to read a value, for users.
        seeded: Whether values depend on the seed.
        quick: Whether most of its time is spent on passes; studies leave the others out.
        other_maps: What it needs besides the maps of the images as they are, in words; empty if those suffice.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[Paper]
    items: ClassVar[Literal["images", "grids"]] = "images"
    bounds: ClassVar[tuple[float, float]]
    chance: ClassVar[float | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    reading: ClassVar[str]
    seeded: ClassVar[bool] = False
    quick: ClassVar[bool] = True
    other_maps: ClassVar[str] = ""

    @property
    def higher_is_better(self) -> bool:
        """Return whether a higher value is better."""
        return True

    @property
    def chance_level(self) -> float | None:
        """Return the value of a map without information; override it if it depends on the parameters."""
        return self.chance

    @property
    def undefined_value(self) -> float:
        """Return the value that an undefined item counts as in the mean; NaN leaves it out."""
        return float("nan")

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Return the measurements that `evaluate` needs."""
        return ()

    @property
    def sources(self) -> tuple["Protocol", ...]:
        """Return the protocols from whose outcomes for the same maps `evaluate` derives its own; see `EvalBatch.outcomes`."""
        return ()

    @property
    def target_choice(self) -> str:
        """Return which class is explained: `label` for the item's label, or `prediction` for the model's prediction."""
        return getattr(self, "target", "label")

    @property
    def needs_probability(self) -> bool:
        """Return whether the protocol reads the probability of a class, which a model that predicts numbers does not have."""
        return False

    @property
    def cost(self) -> Cost:
        """Return the cost of one item, measurements aside."""
        return Cost()

    def views(self, model: Classifier) -> list[Classifier]:
        """Return the models whose maps are requested; a method's layer must exist in each of them."""
        return [model]

    def requests(self, inputs: EvalBatch) -> list[ExplanationRequest]:
        """Return the requests of `evaluate` for maps of the items themselves, in order. The first map is shown as the example of a score."""
        return [inputs.request()]

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        """Raise an error if the protocol is not defined for the model or the data.

        Args:
            model: The classifier.
            offers: What the data set provides besides images and labels; see `OFFERED`.

        Raises:
            ProtocolError: If the protocol is not defined; the message gives the reason and what to do.
        """
        if self.needs_probability and not model.outputs.has_classes:
            raise ProtocolError(
                f"{self.name} needs the probability of a class, but {model.name} predicts a number; choose a protocol of the output itself, "
                "such as sds:target=prediction or infidelity:target=prediction"
            )
        for need, description in OFFERED.items():
            if need in self.needs and need not in offers:
                raise ProtocolError(
                    f"{self.name} needs {description}, which this data set does not have; choose another protocol or data set"
                )

    def key(self) -> dict[str, object]:
        """Return the fields of the protocol that its values depend on."""
        return {"protocol": self.name} | {p.name: getattr(self, p.name) for p in params_of(type(self))}

    @abstractmethod
    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        """Return one outcome for each item of the batch."""


OFFERED = {
    "masks": "masks of the objects",
    "parts": "images with single parts of the object removed",
    "scenes": "scenes that can be drawn without any of their parts and background objects",
}
"""What data sets can provide besides images and labels, and its description in errors."""
PROTOCOLS: Registry[Protocol] = Registry("protocol", ProtocolError)


@dataclass(frozen=True)
class ProtocolInfo:
    """The description of a registered protocol; `summary` is the first line of its docstring, and `Protocol` explains the others."""

    name: str
    title: str
    summary: str
    paper: Paper
    items: str
    higher_is_better: bool
    bounds: tuple[float, float]
    chance: float | None
    needs: tuple[str, ...]
    reading: str
    params: tuple[Param, ...]


def list_protocols() -> list[ProtocolInfo]:
    """Return all registered protocols with their parameters; direction and chance level are those of the default parameters."""
    infos = []
    for cls in PROTOCOLS.values():
        default = cls()
        infos.append(
            ProtocolInfo(
                cls.name,
                cls.title,
                summary_of(cls),
                cls.paper,
                cls.items,
                default.higher_is_better,
                cls.bounds,
                default.chance_level,
                cls.needs,
                cls.reading,
                params_of(cls),
            )
        )
    return infos


def resolve(spec: ProtocolSpec) -> ProtocolSpec:
    """Return the spec with every parameter filled in, converted to its type and in order.

    Raises:
        ProtocolError: If the protocol is unknown.
        SpecError: If a parameter is unknown or its value is not valid.
    """
    cls = PROTOCOLS[spec.name]
    return ProtocolSpec(cls.name, tuple(parse_params(cls, spec.values, spec.name).items()))


def create(spec: ProtocolSpec) -> Protocol:
    """Return the protocol of a spec, with its parameters; it raises the errors of `resolve`."""
    return PROTOCOLS[spec.name](**resolve(spec).values)
