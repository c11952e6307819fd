"""What a method is given: images, what is to be explained of them, and the model behind a layer."""

import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from attrlib.models import Classifier, Layer
from attrlib.models.chunks import in_chunks
from attrlib.models.split import Split
from attrlib.progress import Progress, no_progress
from attrlib.specs import digest

T = TypeVar("T")


@dataclass
class AttributionContext:
    """Attribute the target logits of items to the output of `layer`. An item is an image of `images` (U,3,H,W), normalised, and a class.

    `targets` (B,) are the items' classes, `owners` (B,) their images, by default each image once. To be made and used inside
    `classifier.session()`. `chunk` bounds how many rows go through the model at once; no result depends on it. Methods see
    `inputs` (B,...), the layer's output f_pre(image) of each item, in the layer's own layout, and `sources` (U,...), that of each image.

    Methods that are asked for together have one context, one after the other: what they have in common is computed once, by `shared`.
    `spared` counts the seconds that others had spent on what the present method has used, and `prepared` those of f_pre. No method may
    write into what is shared, nor into the context's tensors.
    """

    classifier: Classifier
    layer: Layer
    images: Tensor
    targets: Tensor
    owners: Tensor | None = None
    seed: int = 0
    chunk: int = 16
    progress: Progress = no_progress
    clock: Callable[[], float] = time.perf_counter
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    spared: float = 0.0
    _memo: dict[Hashable, tuple[Any, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        start = self.clock()
        self._split = self.classifier.split(self.layer, self.images.shape[1:]).fresh()
        self.sources = self._before(self._split, self.images)
        self._owners = torch.arange(len(self.images), device=self.images.device) if self.owners is None else self.owners
        self.inputs = self.per_item(self.sources)
        self.prepared = self.clock() - start

    def __len__(self) -> int:
        return len(self.targets)

    def per_item(self, values: Tensor) -> Tensor:
        """Values (U,...) of the images as those of the items (B,...)."""
        return values if self.owners is None else values[self._owners]

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, or what it has returned to whoever asked for `key` before; the key must say all that the value depends on."""
        if key in self._memo:
            self.spared += self._memo[key][1]
        else:
            start = self.clock() + self.spared
            value = make()
            self._memo[key] = value, self.clock() + self.spared - start
        return self._memo[key][0]

    def clean_logits(self) -> Tensor:
        """Logits (U,C) of the images as they are, without gradient; shared."""

        def make() -> Tensor:
            with torch.no_grad():
                return self.in_chunks(self._logits, self.sources, torch.arange(len(self.sources), device=self.images.device))

        return self.shared("logits", make)

    def clean_scores(self) -> Tensor:
        """Target logits (B,) of the items as they are; shared."""
        return self.clean_logits()[self._owners, self.targets]

    def clean_gradient(self) -> Tensor:
        """d target logit / d `inputs`, of their shape, at the items as they are; shared."""
        return self.shared("gradient", lambda: self.gradient(self.inputs, self.rows))

    def before(self, images: Tensor) -> Tensor:
        """f_pre (B,...) of images (U,3,H,W) in place of the context's own."""
        return self.per_item(self._before(self._split.fresh(), images))

    def _before(self, split: Split, images: Tensor) -> Tensor:
        # Where the layer is no cut, the split must have seen all images together.
        return (self.in_chunks(split.before, images) if split.cut else split.before(images)).float()

    def reference(self, images: Tensor) -> Tensor:
        """f_pre (n,...) of images (n,3,H,W) that are compared with all items."""
        return self._split.fresh().before(images).float()

    def at(self, layer: str) -> "AttributionContext":
        """The same items at another layer of the model; shared."""
        found = self.classifier.layer(layer, (self.images.shape[2], self.images.shape[3]))
        return self if found.path == self.layer.path else self.shared(("at", found.path), lambda: replace(self, layer=found, _memo={}))

    def instead(self, images: Tensor) -> "AttributionContext":
        """The same items k times, copy by copy, of images (k*U,3,H,W) in place of the context's own."""
        copies = len(images) // len(self.images)
        first = len(self.images) * torch.arange(copies, device=images.device)
        owners = (first[:, None] + self._owners).flatten()
        return replace(self, images=images, targets=self.targets.repeat(copies), owners=owners, _memo={})

    def logits(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Logits (N,C) when the layer's output is `inputs` (N,...), each row derived from the item `rows` (N,) names."""
        return self._logits(inputs, self._owners[rows])

    def _logits(self, inputs: Tensor, owners: Tensor) -> Tensor:
        if self.layer.layout.kind == "NCHW":
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self._split.after(inputs, owners).float()

    def scores(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Target logits (N,), without gradient."""
        with torch.no_grad():
            return self.in_chunks(lambda some, own: self._pick(self.logits(some, own), own), inputs, rows)

    def gradient(self, inputs: Tensor, rows: Tensor, visit: Callable[[Tensor], None] | None = None) -> Tensor:
        """d target logit / d inputs, of the shape of `inputs`. `visit` sees the logits' graph before the backward pass."""
        return self.in_chunks(lambda some, own: self.scored_gradient(some, own, visit)[1], inputs, rows)

    def scored_gradient(self, inputs: Tensor, rows: Tensor, visit: Callable[[Tensor], None] | None = None) -> tuple[Tensor, Tensor]:
        """Target logits (N,) and their gradient, of the shape of `inputs`, in one pass of all rows at once."""
        leaf = inputs.detach().requires_grad_()
        with torch.enable_grad():
            scores = self._pick(self.logits(leaf, rows), rows)
            if visit is not None:
                visit(scores)
            gradient = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
        return scores.detach(), torch.zeros_like(inputs) if gradient is None else gradient

    def in_chunks(self, work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """`work` of `chunk` rows of each tensor at a time, put together; where memory runs out, of half as many from then on."""
        found, self.chunk = in_chunks(self.chunk, work, *rows)
        return found

    def _pick(self, values: Tensor, rows: Tensor) -> Tensor:
        return values.gather(1, self.targets[rows][:, None])[:, 0]

    @property
    def rows(self) -> Tensor:
        """Each item once."""
        return torch.arange(len(self), device=self.images.device)

    def variants(self, count: int) -> Iterator[tuple[range, Tensor]]:
        """Chunks of `count` variants of every item: which variants, and the rows, variant by variant. Reports progress."""
        for which in self._chunks(count, len(self)):
            yield which, self.rows.repeat(len(which))

    def perturbed(
        self, count: int, make: Callable[[range], Tensor], softmax: bool = False, fill: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks of `count` factors, made by `make`, and the target logits or probabilities (k,B) of the inputs times them.

        Factors are the same for all images, (k,1|C,h,w), or each image's own, (k,U,1|C,h,w). What they take away, `fill` (1|U,...) gives
        instead: m x + (1 - m) fill. Items that share an image share its passes; factors that change nothing the model looks at take none.
        """
        for which in self._chunks(count, len(self.sources)):
            factors = make(which).to(self.images.device)
            seen = self._split.seen(factors.flatten(0, -4)) != 1
            changed = seen.view(len(factors), -1).any(1)
            values = factors.new_empty(len(factors), len(self))
            if not bool(changed.all()):
                clean = self.clean_logits()
                values[~changed] = (clean.softmax(1) if softmax else clean)[self._owners, self.targets]
            if bool(changed.any()):
                values[changed] = self._masked(factors[changed], softmax, fill)
            yield factors, values

    def _chunks(self, count: int, rows: int) -> Iterator[range]:
        start = 0
        while start < count:
            self.progress(start, count)
            step = min(max(1, self.chunk // rows), count - start)
            yield range(start, start + step)
            start += step
        self.progress(count, count)

    def _masked(self, factors: Tensor, softmax: bool, fill: Tensor | None) -> Tensor:
        """Target logits or probabilities (k,B) of the inputs times factors (k,[U,]1|C,h,w); prefix tokens stay."""
        count, images = len(factors), len(self.sources)
        native = self.layer.layout.native(factors.flatten(0, -4)).unflatten(0, (count, -1))
        # Written once, in the memory format that convolutions want.
        form = torch.channels_last if self.layer.layout.kind == "NCHW" else torch.contiguous_format
        shape = (count * images, *self.sources.shape[1:])
        rows = torch.empty(shape, dtype=self.sources.dtype, device=self.sources.device, memory_format=form)
        perturbed = rows.unflatten(0, (count, images))
        torch.mul(self.sources[None], native, out=perturbed)
        if fill is not None:
            perturbed.addcmul_(fill[None], 1 - native)
        with torch.no_grad():
            logits = self.in_chunks(self._logits, rows, torch.arange(images, device=rows.device).repeat(count))
            outputs = logits.softmax(1) if softmax else logits
        return outputs.unflatten(0, (count, images))[:, self._owners, self.targets]

    def spatial(self, values: Tensor) -> Tensor:
        """Values in the layer's layout as (N,C,h,w)."""
        return self.layer.layout.spatial(values)

    def reduce(self, values: Tensor) -> Tensor:
        """Sum over channels: (N,1,h,w)."""
        return self.spatial(values).sum(1, keepdim=True)

    def generator(self, *parts: int | str) -> torch.Generator:
        """A generator on the CPU (so that every device gets the same numbers), seeded by the seed and `parts` alone."""
        return torch.Generator().manual_seed(int(digest(self.seed, *parts)[:15], 16))
