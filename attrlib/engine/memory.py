"""Measure how many images fit into memory at once, and what a pass through a model costs."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor

from attrlib.errors import SpecError
from attrlib.methods import BATCH_SIZE, rows_at_once
from attrlib.models import Classifier
from attrlib.models.chunks import in_chunks, out_of_memory

SHARE = 0.5
"""Share of the free memory that a run may use by default."""


@dataclass(frozen=True)
class Probe:
    """The cost of one image.

    Attributes:
        forward: Seconds of a forward pass.
        gradient: Seconds of a forward pass with its backward pass.
        row_bytes: Bytes that a forward pass with its backward pass keeps.
    """

    forward: float
    gradient: float
    row_bytes: int


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes, including what PyTorch has reserved but does not use."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def row_bytes(model: Classifier) -> int:
    """Return the bytes that the gradient pass of one image keeps, without the weights; measured once for each model."""
    if model not in _row_bytes:
        _row_bytes[model] = _measured(model)
    return _row_bytes[model]


@contextmanager
def _gradients_optional() -> Iterator[None]:
    """Run a gradient pass of a model that may have no gradients; the methods that need them are refused on it."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise


def _measured(model: Classifier) -> int:
    weights = {p.untyped_storage().data_ptr() for p in (*model.module.parameters(), *model.module.buffers())}
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved)
    with model.session(), torch.enable_grad(), saving, _gradients_optional():
        # A copy, since the model may modify its input in place.
        in_chunks(1, lambda rows: model.logits(rows.clone()), _images(model, 1).requires_grad_())
    # The backward pass holds gradients of about the size of the largest activations.
    return sum(kept.values()) + 4 * max(kept.values(), default=0)


def rows_within(model: Classifier, max_memory: int | None = None, area: float = 1) -> int:
    """Return the number of images that fit into memory at once and are not slower together.

    Args:
        model: The classifier.
        max_memory: Maximum memory in bytes, weights included; None for half of the free memory.
        area: Size of the largest input, as a multiple of the model's input size.

    Raises:
        SpecError: If not even one input of size `area` fits.
    """
    allowed = max_memory - model.nbytes if max_memory is not None else int(SHARE * free_bytes(model.device))
    each = row_bytes(model)
    if allowed < each * area:
        needed = int(each * area) + (model.nbytes if max_memory is not None else 0)
        budget = allowed if max_memory is None else max_memory
        what = "image" if area == 1 else "grid"
        raise SpecError(f"{model.name} needs {_size(needed)} for a single {what}, more than the {_size(budget)} allowed; raise max_memory")
    return rows_at_once(model, model.input_size, max(1, min(BATCH_SIZE, allowed // max(1, each))))


_row_bytes: WeakKeyDictionary[Classifier, int] = WeakKeyDictionary()
_probes: WeakKeyDictionary[Classifier, dict[tuple[int, bool], Probe]] = WeakKeyDictionary()


def probe(model: Classifier, rows: int, fast: bool = False) -> Probe:
    """Measure the cost of passes, once for each model: the fastest of three passes.

    Args:
        model: The classifier.
        rows: Number of images in one pass.
        fast: Whether passes run in bfloat16.
    """
    known = _probes.setdefault(model, {})
    if (rows, fast) not in known:
        known[rows, fast] = _timed(model, rows, fast)
    return known[rows, fast]


def _timed(model: Classifier, rows: int, fast: bool) -> Probe:
    images = _images(model, rows)

    def forward() -> None:
        with torch.no_grad():
            model.logits(images.clone())

    def gradient() -> None:
        leaf = images.detach().requires_grad_()
        with _gradients_optional():
            torch.autograd.grad(model.logits(leaf.clone())[:, 0].sum(), leaf, allow_unused=True)

    with model.session(fast):
        seconds = [min(_seconds(work, model.device) for _ in range(3)) / rows for work in (forward, gradient)]
    return Probe(seconds[0], seconds[1], row_bytes(model))


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MB" if count >= 10 * 2**20 else f"{math.ceil(count / 1024)} KB"


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _images(model: Classifier, count: int) -> Tensor:
    return model.place(torch.randn(count, *model.input_shape, generator=torch.Generator().manual_seed(0)))
