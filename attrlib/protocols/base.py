"""What a protocol is, what it measures, and the registry of all of them."""

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
    """Some items of a data set as a model sees them: images, or grids of images.

    `ids` (B) are content digests; `images` (B,3,H,W) normalised, on the model's device; `labels` (B,) the model's class of each
    image, or (B,n*n) of each cell, -1 where unknown; `masks` (B,H,W) is true on the object, for data sets that have masks.
    Where the data have parts and a protocol needs them, `parts` (B,P,H,W) is true on each, and `without` (B,P,3,H,W) are the same
    scenes without each, normalised.
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
    """What a method is asked to explain: a view of the model, inputs (B,3,H,W) and the classes (B,T) of each.

    `view` names how the model differs from the run's own (as `difull:2:0` does), empty where it does not. `keys` are digests of
    the inputs under which maps are kept; None for inputs that are made up and not seen again.
    """

    model: Classifier
    images: Tensor
    targets: Tensor
    view: str = ""
    keys: tuple[str, ...] | None = None


Explain = Callable[[ExplanationRequest], tuple[Tensor, Layer]]
"""Maps (B,T,h,w) of the method that is being scored, and the layer they are of. A protocol does not know which method it is."""


@dataclass(frozen=True)
class Outcome:
    """What becomes of one item: its score, NaN where it is undefined, and `details` by name."""

    value: float
    details: Mapping[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalContext:
    """What a measurement or protocol may use besides its items: the model, the seed, rows at once, and a way to report and stop."""

    model: Classifier
    seed: int = 0
    rows: int = 16
    fast: bool = False
    progress: Progress = no_progress
    twins: dict[float, Classifier] = field(default_factory=dict, compare=False)
    """Randomised models, kept for the length of a run."""

    def generator(self, item: str, *parts: int | str) -> torch.Generator:
        """A generator on the CPU, seeded by the seed, the item's content and `parts` alone."""
        return torch.Generator().manual_seed(int(digest(self.seed, item, *parts)[:15], 16))

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N,C) of normalised images, a few rows at a time, without gradient, on the CPU."""
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
    """What does not depend on the method: computed once for all of them. A subclass is a frozen dataclass, its fields its key."""

    seeded: ClassVar[bool] = False
    """Whether the values depend on the seed."""
    targeted: ClassVar[bool] = True
    """Whether they depend on the target."""

    @abstractmethod
    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        """Values by name, (B,...) each."""

    @abstractmethod
    def forwards(self) -> float:
        """Forward passes for one item."""


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
    """One protocol at work on one method and some items."""

    context: EvalContext
    batch: Batch
    targets: Tensor
    measured: Mapping[Measurement, Mapping[str, Tensor]]
    explain: Explain

    def request(self) -> ExplanationRequest:
        """The images as they are, explained for their targets."""
        return ExplanationRequest(self.context.model, self.batch.images, self.targets[:, None], keys=self.batch.ids)

    def changed(self, images: Tensor) -> ExplanationRequest:
        """Other images in place of the batch's, explained for the same targets, by the model itself."""
        return ExplanationRequest(self.context.model, images, self.targets[:, None])

    def maps(self, request: ExplanationRequest | None = None, before: Callable[[Tensor], Tensor] = lambda maps: maps) -> Tensor:
        """Maps (B,T,H,W) at the size of the inputs, on the CPU: bilinear, but tokens keep their square patches (as in IDSDS).

        `before` is applied to the maps at the resolution of their layer.
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
    """What one item costs for each method: `inputs` that are explained, each `area` times the size of the model's input and for
    `targets` classes, which share passes that do not depend on the class; and forward passes besides.
    """

    inputs: float = 1
    area: float = 1
    targets: int = 1
    forwards: float = 0


@dataclass(frozen=True)
class Protocol(ABC):
    """One way to judge attribution maps. A subclass is a frozen dataclass whose fields are its parameters, and is registered.

    `bounds` are the lowest and highest value, `chance` what a map without information gets (None where that is not known);
    `needs` says in words what model and data must have, `reading` how to read a value.
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
        """Which direction is better."""
        return True

    @property
    def chance_level(self) -> float | None:
        """`chance`, where it depends on the parameters."""
        return self.chance

    @property
    def undefined_value(self) -> float:
        """What an undefined item counts as in the mean: NaN leaves it out."""
        return float("nan")

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """What must be measured before `evaluate`."""
        return ()

    @property
    def target_choice(self) -> str:
        """Which class is explained: the item's `label`, or the model's `prediction`."""
        return getattr(self, "target", "label")

    @property
    def cost(self) -> Cost:
        """What one item costs, besides the measurements."""
        return Cost()

    def views(self, model: Classifier) -> list[Classifier]:
        """The models that maps are asked of: where a method's layer must exist."""
        return [model]

    def requests(self, work: EvalBatch) -> list[ExplanationRequest]:
        """Return the maps of the items themselves that `evaluate` asks for, in order; the first is shown beside a score."""
        return [work.request()]

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        """Raises `ProtocolError` with the reason and what to do where the protocol is not defined for the model or the data.

        `offers` is that of the data set.
        """
        for need, what in OFFERED.items():
            if need in self.needs and need not in offers:
                raise ProtocolError(f"{self.name} needs {what}, which these data do not have; choose another protocol or data set")

    def key(self) -> dict[str, object]:
        """All that values depend on."""
        return {"protocol": self.name} | {p.name: getattr(self, p.name) for p in params_of(type(self))}

    @abstractmethod
    def evaluate(self, work: EvalBatch) -> list[Outcome]:
        """One outcome for each item of the batch."""


OFFERED = {"masks": "masks of the objects", "parts": "pictures without single parts of the object"}
"""What data sets may offer besides pictures and labels."""
PROTOCOLS: Registry[Protocol] = Registry("protocol", ProtocolError)


@dataclass(frozen=True)
class ProtocolInfo:
    """What is known of a protocol without running it."""

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
    """All registered protocols with their parameters; direction and chance level are those of the defaults."""
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
    """The spec with every parameter filled in, in type and in order. Raises `ProtocolError` or `SpecError`."""
    cls = PROTOCOLS[spec.name]
    return ProtocolSpec(cls.name, tuple(parse_params(cls, spec.values, spec.name).items()))


def create(spec: ProtocolSpec) -> Protocol:
    """The protocol of a spec, with its parameters."""
    return PROTOCOLS[spec.name](**resolve(spec).values)
