"""Define the base classes of protocols and measurements, and the registry of protocols."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attrlib.errors import ProtocolError
from attrlib.models import Classifier, Layer
from attrlib.models.chunks import in_chunks
from attrlib.postprocess import resize
from attrlib.progress import Progress, no_progress
from attrlib.registry import Paper, Param, Registry, params_of, parse_params
from attrlib.specs import ProtocolSpec, digest


@dataclass(frozen=True)
class Batch:
    """A batch of preprocessed items of a data set: images, or grids of images.

    Attributes:
        ids: Content digest of each item, (B).
        images: Normalised images on the model's device, (B,3,H,W).
        labels: The model's class of each image, (B,), or of each grid cell, (B,n*n); -1 where unknown.
        masks: True on the object, (B,H,W); None if the data set has no masks.
        parts: True on each part, (B,P,H,W); None unless the data set has parts and a protocol needs them.
        without: The same scenes without each part, normalised, (B,P,3,H,W); None unless `parts` is given.
    """

    ids: tuple[str, ...]
    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    parts: Tensor | None = None
    without: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ExplanationRequest:
    """A request for attribution maps: a model, its inputs and their target classes.

    Attributes:
        model: The model to explain, or a view of it.
        images: Inputs, (B,3,H,W).
        targets: Target classes of each input, (B,T).
        view: Name of the view, such as `difull:2:0`; empty for the run's model itself.
        keys: Digests of the inputs, under which maps are cached; None for generated inputs, which are not used again.
    """

    model: Classifier
    images: Tensor
    targets: Tensor
    view: str = ""
    keys: tuple[str, ...] | None = None


Explain = Callable[[ExplanationRequest], tuple[Tensor, Layer]]
"""A function that returns maps (B,T,h,w) of the method being scored, and their layer. The protocol does not know which method it is."""


@dataclass(frozen=True)
class Outcome:
    """The result of one item: its score, NaN if undefined, and `details` by name."""

    value: float
    details: Mapping[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalContext:
    """What measurements and protocols may use besides their items.

    Attributes:
        model: The classifier.
        seed: Seed of everything random.
        rows: Maximum number of images in one forward pass.
        fast: Whether forward passes run in bfloat16.
        progress: The progress callback; it raises `Cancelled` to stop.
        twins: Randomised models by the share of layers that are shuffled.
    """

    model: Classifier
    seed: int = 0
    rows: int = 16
    fast: bool = False
    progress: Progress = no_progress
    twins: dict[float, Classifier] = field(default_factory=dict, compare=False)
    """Kept for the length of a run."""

    def generator(self, item: str, *parts: int | str) -> torch.Generator:
        """Return a CPU generator whose seed depends only on the run's seed, the item's content and `parts`."""
        return torch.Generator().manual_seed(int(digest(self.seed, item, *parts)[:15], 16))

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N,C) of normalised images on the CPU, computed without gradient, at most `rows` images at once."""
        done = 0

        def work(some: Tensor) -> Tensor:
            nonlocal done
            self.progress(done, len(images))
            with self.model.session(self.fast), torch.no_grad():
                logits = self.model.module(self.model.place(some).clone()).float().cpu()
            done += len(some)
            return logits

        return in_chunks(self.rows, work, images)[0]


@dataclass(frozen=True)
class Measurement(ABC):
    """Base class of measurements: values that do not depend on the method and are computed once for all methods.

    A subclass is a frozen dataclass. Its fields are part of the key under which its values are cached.
    """

    seeded: ClassVar[bool] = False
    """Whether the values depend on the seed."""
    targeted: ClassVar[bool] = True
    """Whether the values depend on the target."""

    @abstractmethod
    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        """Return the values of a batch by name, (B,...) each.

        Args:
            context: The model, the seed and the progress callback.
            batch: The items.
            targets: Target class of each item, (B,).
        """

    @abstractmethod
    def forwards(self) -> float:
        """Return the number of forward passes for one item."""


@dataclass(frozen=True)
class Prediction(Measurement):
    """The most probable class of an image, and its probability."""

    targeted = False

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        logits = context.logits(batch.images)
        probability, top = logits.softmax(1).max(1)
        return {"class": top, "probability": probability}

    def forwards(self) -> float:
        return 1


@dataclass(frozen=True)
class EvalBatch:
    """What a protocol needs to evaluate one method on a batch.

    Attributes:
        context: The model, the seed and the progress callback.
        batch: The items.
        targets: Target class of each item, (B,).
        measured: Values by name for each of the protocol's measurements.
        explain: Returns the maps to score.
    """

    context: EvalContext
    batch: Batch
    targets: Tensor
    measured: Mapping[Measurement, Mapping[str, Tensor]]
    explain: Explain

    def request(self) -> ExplanationRequest:
        """Return a request for the maps of the batch's images and targets."""
        return ExplanationRequest(self.context.model, self.batch.images, self.targets[:, None], keys=self.batch.ids)

    def changed(self, images: Tensor) -> ExplanationRequest:
        """Return a request for the maps of other images, for the batch's targets and the model itself; these maps are not cached."""
        return ExplanationRequest(self.context.model, images, self.targets[:, None])

    def maps(self, request: ExplanationRequest | None = None, before: Callable[[Tensor], Tensor] = lambda maps: maps) -> Tensor:
        """Return maps (B,T,H,W), resized to the size of the inputs, on the CPU.

        Maps are resized bilinearly. Maps of tokens keep their square patches, as in IDSDS.

        Args:
            request: What to explain; by default the batch itself.
            before: Applied to the maps at the resolution of their layer, before resizing.
        """
        request = request or self.request()
        maps, layer = self.explain(request)
        maps = before(maps)
        size = (request.images.shape[2], request.images.shape[3])
        if layer.layout.kind == "tokens":
            return torch.nn.functional.interpolate(maps, size=size, mode="nearest-exact")
        return resize(maps, size)


@dataclass(frozen=True)
class Cost:
    """The cost of one item for each method, measurements aside.

    Attributes:
        inputs: Number of inputs to explain.
        area: Size of each input, as a multiple of the model's input size.
        targets: Number of classes to explain for each input; they share the passes that are not class-specific.
        forwards: Number of further forward passes.
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
        needs: What the model and the data must have, in words; for data sets, keys of `OFFERED`.
        reading: How to read a value, for users.
        seeded: Whether values depend on the seed.
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
    def target_choice(self) -> str:
        """Return which class is explained: `label` for the item's label, or `prediction` for the model's prediction."""
        return getattr(self, "target", "label")

    @property
    def cost(self) -> Cost:
        """Return the cost of one item, measurements aside."""
        return Cost()

    def views(self, model: Classifier) -> list[Classifier]:
        """Return the models whose maps are requested; a method's layer must exist in each of them."""
        return [model]

    def requests(self, work: EvalBatch) -> list[ExplanationRequest]:
        """Return the requests of `evaluate` for maps of the items themselves, in order; the first map is shown beside a score."""
        return [work.request()]

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        """Raise an error if the protocol is not defined for the model or the data.

        Args:
            model: The classifier.
            offers: What the data set offers besides images and labels; see `OFFERED`.

        Raises:
            ProtocolError: If the protocol is not defined; the message gives the reason and what to do.
        """
        for need, what in OFFERED.items():
            if need in self.needs and need not in offers:
                raise ProtocolError(f"{self.name} needs {what}, which these data do not have; choose another protocol or data set")

    def key(self) -> dict[str, object]:
        """Return everything about the protocol that its values depend on."""
        return {"protocol": self.name} | {p.name: getattr(self, p.name) for p in params_of(type(self))}

    @abstractmethod
    def evaluate(self, work: EvalBatch) -> list[Outcome]:
        """Return one outcome for each item of the batch."""


OFFERED = {"masks": "masks of the objects", "parts": "pictures without single parts of the object"}
"""What data sets may offer besides images and labels, with the words used in errors."""
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
    found = []
    for cls in PROTOCOLS.values():
        default = cls()
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        found.append(
            ProtocolInfo(
                cls.name,
                cls.title,
                summary,
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
    return found


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
