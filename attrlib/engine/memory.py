"""How many images fit through the model at once, and what a pass costs: measured, not guessed."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor

from attrlib.errors import SpecError
from attrlib.methods import BATCH_SIZE, rows_at_once
from attrlib.models import Classifier
from attrlib.models.chunks import in_chunks

SHARE = 0.5
"""Of the memory that is free, what a run may use unless it is told otherwise."""


@dataclass(frozen=True)
class Probe:
    """What one image costs: seconds of a forward pass and of one with its backward pass, and bytes that the latter keeps."""

    forward: float
    gradient: float
    row_bytes: int


def free_bytes(device: torch.device) -> int:
    """Memory that is free where the model is; what PyTorch holds there and does not use is."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def row_bytes(model: Classifier) -> int:
    """Bytes that the gradient pass of one image keeps, besides the weights; measured once for each model."""
    if model not in _row_bytes:
        _row_bytes[model] = _measured(model)
    return _row_bytes[model]


def _measured(model: Classifier) -> int:
    weights = {p.untyped_storage().data_ptr() for p in (*model.module.parameters(), *model.module.buffers())}
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with model.session(), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        # A copy, since the model may write into what it is given.
        in_chunks(1, lambda rows: model.module(rows.clone()), _images(model, 1).requires_grad_())
    # The backward pass holds gradients of about the size of the largest activations.
    return sum(kept.values()) + 4 * max(kept.values(), default=0)


def rows_within(model: Classifier, max_memory: int | None = None, area: float = 1) -> int:
    """Images at once that stay within `max_memory` bytes, weights included, and are no slower together; by default within half of what is free.

    Raises `SpecError` where not even one does that is `area` times the size of the model's input.
    """
    allowed = max_memory - model.nbytes if max_memory is not None else int(SHARE * free_bytes(model.device))
    each = row_bytes(model)
    if allowed < each * area:
        needed = int(each * area) + (model.nbytes if max_memory is not None else 0)
        given = allowed if max_memory is None else max_memory
        what = "image" if area == 1 else "grid"
        raise SpecError(f"{model.name} needs {_size(needed)} for a single {what}, more than the {_size(given)} allowed; raise max_memory")
    return rows_at_once(model, model.input_size, max(1, min(BATCH_SIZE, allowed // max(1, each))))


_row_bytes: WeakKeyDictionary[Classifier, int] = WeakKeyDictionary()
_probes: WeakKeyDictionary[Classifier, dict[tuple[int, bool], Probe]] = WeakKeyDictionary()


def probe(model: Classifier, rows: int, fast: bool = False) -> Probe:
    """Times passes of `rows` images, once for each model: the best of two, after one to warm up."""
    known = _probes.setdefault(model, {})
    if (rows, fast) not in known:
        known[rows, fast] = _timed(model, rows, fast)
    return known[rows, fast]


def _timed(model: Classifier, rows: int, fast: bool) -> Probe:
    images = _images(model, rows)

    def forward() -> None:
        with torch.no_grad():
            model.module(images.clone())

    def gradient() -> None:
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(model.module(leaf.clone())[:, 0].sum(), leaf)

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
    return model.place(torch.randn(count, 3, *model.input_size, generator=torch.Generator().manual_seed(0)))
