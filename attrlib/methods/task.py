"""What a method is given: a batch of images, their targets, and the model behind a layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrlib.models import Classifier, Layer
from attrlib.specs import digest

Progress = Callable[[int, int], None]
"""Called with (done, total) passes between chunks; raises `Cancelled` to stop the work."""


def no_progress(_done: int, _total: int) -> None:
    """Neither shows nor stops anything."""


@dataclass
class Task:
    """Attribute the target logits of `images` (B,3,H,W), normalised, to the output of `layer`.

    To be made and used inside `classifier.session()`. `chunk` bounds how many rows go through the model at once; no result
    depends on it. Methods see `inputs`, the layer's output f_pre(images), in the layer's own layout.
    """

    classifier: Classifier
    layer: Layer
    images: Tensor
    targets: Tensor
    seed: int = 0
    chunk: int = 16
    progress: Progress = no_progress
    diagnostics: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._split = self.classifier.split(self.layer, self.images.shape[1:]).fresh()
        self.inputs = self._split.before(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def before(self, images: Tensor) -> Tensor:
        """f_pre of other images of the same size; only for values that do not go through `scores` as other rows."""
        inputs = self._split.before(images)
        if not self._split.cut:
            self._split.before(self.images)
        return inputs

    def logits(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Logits (N,C) when the layer's output is `inputs` (N,...), each row derived from the image `rows` (N,) names."""
        if self.layer.layout.kind == "NCHW":
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self._split.after(inputs, rows)

    def scores(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Target logits (N,), without gradient."""
        with torch.no_grad():
            return self._pick(self.logits(inputs, rows), rows)

    def probabilities(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Softmax probabilities of the targets (N,), without gradient."""
        with torch.no_grad():
            return self._pick(self.logits(inputs, rows).softmax(1), rows)

    def gradient(self, inputs: Tensor, rows: Tensor, visit: Callable[[Tensor], None] | None = None) -> Tensor:
        """d target logit / d inputs, of the shape of `inputs`. `visit` sees the logits' graph before the backward pass."""
        leaf = inputs.detach().requires_grad_()
        with torch.enable_grad():
            scores = self._pick(self.logits(leaf, rows), rows)
            if visit is not None:
                visit(scores)
            if not scores.requires_grad:
                return torch.zeros_like(inputs)
            (gradient,) = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)
        return torch.zeros_like(inputs) if gradient is None else gradient

    def _pick(self, values: Tensor, rows: Tensor) -> Tensor:
        return values.gather(1, self.targets[rows][:, None])[:, 0]

    @property
    def rows(self) -> Tensor:
        """Each image once."""
        return torch.arange(len(self), device=self.images.device)

    def variants(self, count: int) -> Iterator[tuple[range, Tensor]]:
        """Chunks of `count` variants of every image: which variants, and the rows, variant by variant. Reports progress."""
        step = max(1, self.chunk // len(self))
        for start in range(0, count, step):
            self.progress(start, count)
            which = range(start, min(start + step, count))
            yield which, self.rows.repeat(len(which))
        self.progress(count, count)

    def masked(self, factors: Tensor) -> Tensor:
        """The inputs times factors (k,1,h,w), as k * B rows, variant by variant; prefix tokens stay."""
        factors = self.layer.layout.native(factors)
        count, images = len(factors), len(self)
        shape = (count * images, *self.inputs.shape[1:])
        # Written once, in the memory format that convolutions want.
        form = torch.channels_last if self.layer.layout.kind == "NCHW" else torch.contiguous_format
        rows = torch.empty(shape, dtype=self.inputs.dtype, device=self.inputs.device, memory_format=form)
        torch.mul(self.inputs[None], factors[:, None], out=rows.unflatten(0, (count, images)))
        return rows

    def spatial(self, values: Tensor) -> Tensor:
        """Values in the layer's layout as (N,C,h,w)."""
        return self.layer.layout.spatial(values)

    def reduce(self, values: Tensor) -> Tensor:
        """Sum over channels: (N,1,h,w)."""
        return self.spatial(values).sum(1, keepdim=True)

    def generator(self, *parts: int | str) -> torch.Generator:
        """A generator on the CPU (so that every device gets the same numbers), seeded by the seed and `parts` alone."""
        return torch.Generator().manual_seed(int(digest(self.seed, *parts)[:15], 16))
