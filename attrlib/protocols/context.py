"""The inputs of protocols: items, the model and its maps, and measurements that all methods share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from attrlib.models import Classifier, Layer
from attrlib.models.chunks import in_chunks
from attrlib.postprocess import resize
from attrlib.progress import Progress, no_progress
from attrlib.specs import digest

if TYPE_CHECKING:
    from attrlib.protocols.base import Protocol


@dataclass(frozen=True)
class Batch:
    """A batch of preprocessed items of a data set: images, or grids of images.

    Attributes:
        ids: Content digest of each item, (B).
        images: Normalised images on the model's device, (B,C,H,W).
        labels: The model's class of each image, (B,), or of each grid cell, (B,n*n); -1 where unknown.
        masks: True on the object, (B,H,W); None if the data set has no masks.
        parts: True on each part, (B,P,H,W); None unless the data set has parts and a protocol needs them.
        without: The same scenes without each part, normalised, (B,P,C,H,W); None unless `parts` is given.
        class_parts: The variant of each part, for the model's class of every class of the data; None unless the data set knows them.
        objects: True on each object of the background, (B,M,H,W); None unless the pictures are scenes and a protocol needs them.
        redraw: For each item a function that returns its scene, normalised (C,H,W), without some components: parts by their numbers, and
            objects by theirs plus P. None unless `objects` is given.
    """

    ids: tuple[str, ...]
    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    parts: Tensor | None = None
    without: Tensor | None = None
    class_parts: Mapping[int, tuple[int, ...]] | None = None
    objects: Tensor | None = None
    redraw: tuple[Callable[[Collection[int]], Tensor], ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ExplanationRequest:
    """A request for attribution maps: a model, its inputs and their target classes.

    Attributes:
        model: The model to explain, or a view of it.
        images: Inputs, (B,C,H,W).
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
    """The context of measurements and protocols: model, seed and progress.

    Attributes:
        model: The classifier.
        seed: Seed of everything random.
        rows: Maximum number of images in one forward pass.
        fast: Whether forward passes run in bfloat16.
        on_progress: The progress callback; it raises `Cancelled` to stop.
        randomised_models: Randomised models by the share of layers that are shuffled.
    """

    model: Classifier
    seed: int = 0
    rows: int = 16
    fast: bool = False
    on_progress: Progress = no_progress
    randomised_models: dict[float, Classifier] = field(default_factory=dict, compare=False)
    """Cached for the duration of a run."""

    def generator(self, item: str, *parts: int | str) -> torch.Generator:
        """Return a CPU generator whose seed depends only on the run's seed, the item's content and `parts`."""
        return torch.Generator().manual_seed(int(digest(self.seed, item, *parts)[:15], 16))

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N,C) of normalised images on the CPU, computed without gradient, at most `rows` images at once."""
        done = 0

        def work(part: Tensor) -> Tensor:
            nonlocal done
            self.on_progress(done, len(images))
            with self.model.session(self.fast), torch.no_grad():
                logits = self.model.logits(self.model.place(part).clone()).float().cpu()
            done += len(part)
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
    """The most probable class of an image, and its probability; of a model of several labels, the probabilities of all.

    A model of numbers predicts no class; its first number stands for one.
    """

    targeted = False

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        logits = context.logits(batch.images)
        outputs = context.model.outputs
        if not outputs.has_classes:
            return {"class": outputs.predicted(logits)}
        probabilities = outputs.probabilities(logits)
        probability, top = probabilities.max(1)
        return {"class": top, "probability": probability} | ({} if outputs.exclusive else {"probabilities": probabilities})

    def forwards(self) -> float:
        return 1


def evaluate_source(source: "Protocol", inputs: "EvalBatch") -> list[Outcome]:
    """Return the outcomes of the source of a protocol, computed."""
    return source.evaluate(inputs)


@dataclass(frozen=True)
class EvalBatch:
    """The inputs of a protocol for evaluating one method on a batch.

    Attributes:
        context: The model, the seed and the progress callback.
        batch: The items.
        targets: Target class of each item, (B,).
        measured: Values by name for each of the protocol's measurements.
        explain: Returns the maps to score.
        outcomes_of: Returns the outcomes of a source; an evaluator looks them up in its cache.
    """

    context: EvalContext
    batch: Batch
    targets: Tensor
    measured: Mapping[Measurement, Mapping[str, Tensor]]
    explain: Explain
    outcomes_of: Callable[["Protocol", "EvalBatch"], list[Outcome]] = evaluate_source

    def request(self) -> ExplanationRequest:
        """Return a request for the maps of the batch's images and targets."""
        return ExplanationRequest(self.context.model, self.batch.images, self.targets[:, None], keys=self.batch.ids)

    def changed(self, images: Tensor) -> ExplanationRequest:
        """Return a request for the maps of other images, for the batch's targets and the model itself; these maps are not cached."""
        return ExplanationRequest(self.context.model, images, self.targets[:, None])

    def outcomes(self, sources: Sequence["Protocol"]) -> list[list[Outcome]]:
        """Return the outcomes of each source for the same maps, which are requested once.

        Args:
            sources: The sources of the protocol. They need no measurements, and no maps but those of the batch's images.
        """
        computed: dict[tuple[str, ...], tuple[Tensor, Layer]] = {}

        def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
            assert request.keys is not None, "sources judge maps of the images themselves"
            if request.keys not in computed:
                computed[request.keys] = self.explain(request)
            return computed[request.keys]

        inputs = replace(self, explain=explain)
        return [self.outcomes_of(source, inputs) for source in sources]

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
