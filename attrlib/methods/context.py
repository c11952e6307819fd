"""The input of an attribution method: images, target classes and the model, split at a layer."""

import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from attrlib.methods.curvature import curvature
from attrlib.methods.unfused import Unfused
from attrlib.models import Classifier, Layer
from attrlib.models.chunks import in_chunks
from attrlib.models.split import Split
from attrlib.progress import Progress, no_progress
from attrlib.specs import digest
from attrlib.targets import LOGIT, Logit, Readout, Target

T = TypeVar("T")


@dataclass
class AttributionContext:
    """Items whose target is attributed to the output of a layer. An item is an image and a class; a target is a function of the logits.

    Create and use a context inside `classifier.session()`. The model is split at the layer: f_pre maps an image to the layer's output.
    Methods read `inputs` (B,...), the f_pre of each item, and `sources` (U,...), the f_pre of each image, both in the layer's layout.

    Methods that are computed together use one context in turn, so that `shared` computes only once what they have in common. A method
    must not write into shared values or into the tensors of the context.

    Attributes:
        classifier: The model.
        layer: The layer whose output is explained.
        images: Normalised images (U,C,H,W).
        targets: Target class of each item (B,).
        owners: Image index of each item (B,). By default, one item per image.
        target: What is explained of the class: by default its logit.
        seed: Seed of all random draws.
        chunk: Maximum number of rows in one pass. Results do not depend on it.
        on_progress: Progress callback.
        clock: Returns the time in seconds.
        readout: The target of the items; by default, it is made from `target`.
        diagnostics: Values per item (B,) by name, to be filled by the method.
        shared_seconds: Seconds that other methods spent on shared values used by the current method.
        setup_seconds: Seconds of computing f_pre.
    """

    classifier: Classifier
    layer: Layer
    images: Tensor
    targets: Tensor
    owners: Tensor | None = None
    target: Target = LOGIT
    seed: int = 0
    chunk: int = 16
    on_progress: Progress = no_progress
    clock: Callable[[], float] = time.perf_counter
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    shared_seconds: float = 0.0
    readout: Readout = field(default=None, repr=False)  # type: ignore[assignment]
    _memo: dict[Hashable, tuple[Any, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        start = self.clock()
        # Found out here, because methods run passes with rules and hooks that would apply to the probes as well.
        self._alone = self.classifier.behaviour.one_by_one
        self._split = self.classifier.split(self.layer, self.images.shape[1:]).fresh()
        self.sources = self._before(self._split, self.images)
        self._owners = torch.arange(len(self.images), device=self.images.device) if self.owners is None else self.owners
        self.inputs = self.per_item(self.sources)
        # At once, because methods may run later passes with rules that do not apply to those of the target.
        self.readout = self.readout or self.target.readout(self.classifier, self.targets, lambda: self.clean_logits()[self._owners])
        self.setup_seconds = self.clock() - start

    def __len__(self) -> int:
        return len(self.targets)

    def per_item(self, values: Tensor) -> Tensor:
        """Return the values of the images (U,...), repeated for their items (B,...)."""
        return values if self.owners is None else values[self._owners]

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`, computed only once for each key.

        Args:
            key: Must include everything that the value depends on.
            make: Computes the value.
        """
        if key in self._memo:
            self.shared_seconds += self._memo[key][1]
        else:
            start = self.clock() + self.shared_seconds
            value = make()
            self._memo[key] = value, self.clock() + self.shared_seconds - start
        return self._memo[key][0]

    def clean_logits(self) -> Tensor:
        """Return the logits (U,C) of the unperturbed images, without gradient; shared."""

        def make() -> Tensor:
            with torch.no_grad():
                return self.in_chunks(self._logits, self.sources, torch.arange(len(self.sources), device=self.images.device))

        return self.shared("logits", make)

    def clean_scores(self) -> Tensor:
        """Return the target (B,) of the unperturbed items; shared."""
        return self.explained(self.clean_logits()[self._owners], self.rows)

    def explained(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the target (N,) of logits, differentiable with respect to them.

        Args:
            logits: Logits (N,C).
            rows: Index of the item that each row is derived from (N,).
        """
        return self.readout.values(logits, rows)

    def slopes(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the derivative (N,C) of the target with respect to the logits, from which a propagation starts.

        Args:
            logits: Logits (N,C).
            rows: Index of the item that each row is derived from (N,).
        """
        return self.readout.slopes(logits.detach(), rows)

    def clean_gradient(self) -> Tensor:
        """Return the gradient of the target with respect to `inputs`, of the same shape, at the unperturbed items; shared."""
        return self.shared("gradient", lambda: self.gradient(self.inputs, self.rows))

    def before(self, images: Tensor) -> Tensor:
        """Return f_pre (B,...) of images (U,C,H,W) that replace those of the context."""
        return self.per_item(self._before(self._split.fresh(), images))

    def _before(self, split: Split, images: Tensor) -> Tensor:
        if not split.cut:
            # The split must see all images in one pass.
            return split.before(images).float()
        if self._alone:
            return in_chunks(1, split.before, images)[0].float()
        return self.in_chunks(split.before, images).float()

    def reference(self, images: Tensor) -> Tensor:
        """Return f_pre (n,...) of baseline images (n,C,H,W) that are the same for all items."""
        split = self._split.fresh()
        return in_chunks(1, split.before, images)[0].float() if self._alone else split.before(images).float()

    def at(self, layer: str) -> "AttributionContext":
        """Return the context of the same items at another layer of the model; shared."""
        target = self.classifier.layer(layer, (self.images.shape[2], self.images.shape[3]))
        if target.path == self.layer.path:
            return self
        return self.shared(("at", target.path), lambda: replace(self, layer=target, _memo={}, readout=self.readout))

    def with_images(self, images: Tensor) -> "AttributionContext":
        """Return the context of k copies of the items, copy by copy, whose images (k*U,C,H,W) replace those of this context."""
        copies = len(images) // len(self.images)
        first = len(self.images) * torch.arange(copies, device=images.device)
        owners = (first[:, None] + self._owners).flatten()
        targets, readout = self.targets.repeat(copies), self.readout.repeated(copies)
        return replace(self, images=images, targets=targets, owners=owners, _memo={}, readout=readout)

    def logits(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Return the logits for given outputs of the layer.

        Args:
            inputs: Outputs of the layer (N,...).
            rows: Index of the item that each row is derived from (N,).

        Returns:
            Logits (N,C).
        """
        return self._logits(inputs, self._owners[rows])

    def _logits(self, inputs: Tensor, owners: Tensor) -> Tensor:
        if self.layer.layout.kind == "NCHW":
            inputs = inputs.contiguous(memory_format=self._split.memory_format)
        if self._alone and len(inputs) > 1:
            rows = zip(inputs.split(1), owners.split(1), strict=True)
            return torch.cat([self.classifier.outputs.logits(self._split.after(*row)) for row in rows]).float()
        return self.classifier.outputs.logits(self._split.after(inputs, owners)).float()

    def scores(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Return the target (N,) for given outputs of the layer, without gradient."""
        with torch.no_grad():
            return self.in_chunks(lambda part, of: self.explained(self.logits(part, of), of), inputs, rows)

    def gradient(self, inputs: Tensor, rows: Tensor, visit: Callable[[Tensor], None] | None = None) -> Tensor:
        """Return the gradient of the target with respect to given outputs of the layer, of their shape.

        Args:
            inputs: Outputs of the layer (N,...).
            rows: Index of the item that each row is derived from (N,).
            visit: Called with the target (n,) of each chunk before the backward pass, for example to inspect the autograd graph.
        """
        return self.in_chunks(lambda part, of: self.scored_gradient(part, of, visit)[1], inputs, rows)

    def scored_gradient(self, inputs: Tensor, rows: Tensor, visit: Callable[[Tensor], None] | None = None) -> tuple[Tensor, Tensor]:
        """Return the target (N,) and its gradient, of the shape of `inputs`, from one pass with all rows at once.

        Args:
            inputs: Outputs of the layer (N,...).
            rows: Index of the item that each row is derived from (N,).
            visit: Called with the target before the backward pass, for example to inspect the autograd graph.
        """
        leaf = inputs.detach().requires_grad_()
        with torch.enable_grad():
            scores = self.explained(self.logits(leaf, rows), rows)
            if visit is not None:
                visit(scores)
            gradient = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
        return scores.detach(), torch.zeros_like(inputs) if gradient is None else gradient

    def curvature(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Return the gradient g of the target and the product H x of their Hessian with given outputs x of the layer.

        Args:
            inputs: Outputs x of the layer (N,...).
            rows: Index of the item that each row is derived from (N,).

        Returns:
            Both, (N,2,...).

        Raises:
            RuntimeError: If an operation of the model cannot be differentiated twice.
        """

        def work(inputs: Tensor, rows: Tensor) -> Tensor:
            leaf = inputs.detach().requires_grad_()
            with torch.enable_grad(), Unfused():
                return curvature(self.explained(self.logits(leaf, rows), rows), leaf)

        return self.in_chunks(work, inputs, rows)

    def in_chunks(self, work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """Apply `work` to `chunk` rows of each tensor at a time, and concatenate the results. If memory runs out, halve `chunk`."""
        result, self.chunk = in_chunks(self.chunk, work, *rows)
        return result

    @property
    def rows(self) -> Tensor:
        """Return the indices of all items (B,)."""
        return torch.arange(len(self), device=self.images.device)

    def variants(self, count: int) -> Iterator[tuple[range, Tensor]]:
        """Iterate over `count` variants of every item in chunks, and report progress.

        Yields:
            The indices of the variants in the chunk, and the item index of each row, variant by variant.
        """
        for which in self._chunks(count, len(self)):
            yield which, self.rows.repeat(len(which))

    def perturbed(
        self, count: int, make: Callable[[range], Tensor], probability: bool = False, fill: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate in chunks over the target outputs of the inputs multiplied by `count` factors, and report progress.

        Items that share an image share its passes. Factors that change nothing that the model reads take no pass.

        Args:
            count: Number of factors.
            make: Returns the factors m of a range of indices: (k,1|C,h,w) for all images, or (k,U,1|C,h,w) for each image.
            probability: Whether to take the probability of the class where the target is its logit; a model that predicts numbers has none.
            fill: What replaces the part that is removed, (1|U,...): the perturbed inputs are m x + (1 - m) fill. By default zero.

        Yields:
            The factors of a chunk, and the target (k,B) of the perturbed inputs.
        """
        for which in self._chunks(count, len(self.sources)):
            factors = make(which).to(self.images.device)
            seen = self._split.seen(factors.flatten(0, -4)) != 1
            changed = seen.view(len(factors), -1).any(1)
            values = factors.new_empty(len(factors), len(self))
            if not bool(changed.all()):
                clean = self.clean_logits()
                values[~changed] = self._of_items(clean[None], probability)[0]
            if bool(changed.any()):
                values[changed] = self._masked(factors[changed], probability, fill)
            yield factors, values

    @property
    def cell(self) -> tuple[int, int] | None:
        """Return the cell whose positions the operations that run now see, as in `Split.cell`."""
        return self._split.cell

    def _chunks(self, count: int, rows: int) -> Iterator[range]:
        start = 0
        while start < count:
            self.on_progress(start, count)
            step = min(max(1, self.chunk // rows), count - start)
            yield range(start, start + step)
            start += step
        self.on_progress(count, count)

    def _masked(self, factors: Tensor, probability: bool, fill: Tensor | None) -> Tensor:
        """Return the target (k,B) of the inputs times factors (k,[U,]1|C,h,w). Prefix tokens are unchanged."""
        count, images = len(factors), len(self.sources)
        native = self.layer.layout.native(factors.flatten(0, -4)).unflatten(0, (count, -1))
        # Written once, in the memory format that is fastest for convolutions.
        form = self._split.memory_format if self.layer.layout.kind == "NCHW" else torch.contiguous_format
        shape = (count * images, *self.sources.shape[1:])
        rows = torch.empty(shape, dtype=self.sources.dtype, device=self.sources.device, memory_format=form)
        perturbed = rows.unflatten(0, (count, images))
        torch.mul(self.sources[None], native, out=perturbed)
        if fill is not None:
            perturbed.addcmul_(fill[None], 1 - native)
        return self.outputs(perturbed, probability)

    def outputs(self, inputs: Tensor, probability: bool = False) -> Tensor:
        """Return the target (k,B) of the items for k given outputs of the layer for each image, without gradient.

        Args:
            inputs: Outputs of the layer (k,U,...).
            probability: Whether to take the probability of the class where the target is its logit; a model that predicts numbers has none.
        """
        count, images = inputs.shape[:2]
        with torch.no_grad():
            logits = self.in_chunks(self._logits, inputs.flatten(0, 1), torch.arange(images, device=inputs.device).repeat(count))
            return self._of_items(logits.unflatten(0, (count, images)), probability)

    def _of_items(self, logits: Tensor, probability: bool) -> Tensor:
        """Return the target (k,B) of the items from the logits (k,U,C) of the images; of the target `logit`, probabilities if asked for."""
        if isinstance(self.target, Logit):
            return (self.classifier.outputs.readings(logits) if probability else logits)[:, self._owners, self.targets]
        rows = self.rows.repeat(len(logits))
        return self.explained(logits[:, self._owners].flatten(0, 1), rows).unflatten(0, (len(logits), -1))

    def spatial(self, values: Tensor) -> Tensor:
        """Return values in the layer's layout as (N,C,h,w)."""
        return self.layer.layout.spatial(values)

    def reduce(self, values: Tensor) -> Tensor:
        """Return the sum over channels, (N,1,h,w)."""
        return self.spatial(values).sum(1, keepdim=True)

    def generator(self, *parts: int | str) -> torch.Generator:
        """Return a generator seeded by `seed` and `parts` only. It is on the CPU so that every device gets the same numbers."""
        return torch.Generator().manual_seed(int(digest(self.seed, *parts)[:15], 16))
