"""Find the attention of a model and the tokens that it is among, by forward passes with probe images."""

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attrlib.errors import AttrlibError, MethodError
from attrlib.methods.attention.chain import INSTEAD, find_steps
from attrlib.methods.attention.steps import Blocks, Step
from attrlib.methods.attention.tracing import Trace, traced
from attrlib.models import Classifier, Layer, Layout
from attrlib.models.attention import Attentions

_cache: WeakKeyDictionary[Classifier, dict[tuple[object, ...], Blocks | str]] = WeakKeyDictionary()


def find_blocks(model: Classifier, layer: Layer, size: tuple[int, int], mode: type[Attentions] = Attentions) -> Blocks:
    """Return the attention blocks downstream of a layer. The result is cached.

    Args:
        model: The classifier.
        layer: The layer.
        size: Height and width of the images.
        mode: Records the attention matrices of the forward pass, and may refuse one of its operations.

    Raises:
        MethodError: If the attention methods are not defined for the model at this layer; the message gives the reason.
    """
    cached = _cache.setdefault(model, {})
    key = (layer.path, size, mode)
    if key not in cached:
        try:
            with model.session():
                cached[key] = _whole(model, size) if not layer.path and mode is Attentions else _downstream(model, layer, size, mode)
        except AttrlibError as error:
            cached[key] = str(error)
    blocks = cached[key]
    if isinstance(blocks, str):
        raise MethodError(blocks)
    return blocks


def _image(model: Classifier, size: tuple[int, int], seed: int = 0) -> Tensor:
    return model.place(torch.randn(1, model.channels, *size, generator=torch.Generator().manual_seed(seed)))


def _downstream(model: Classifier, layer: Layer, size: tuple[int, int], mode: type[Attentions]) -> Blocks:
    whole = find_blocks(model, model.layer("Input", size), size)
    split = model.split(layer, torch.Size((model.channels, *size))).fresh()
    leaf = split.before(_image(model, size)).detach().requires_grad_()
    with torch.enable_grad(), mode() as seen:
        split.after(leaf, torch.zeros(1, dtype=torch.long, device=leaf.device))
    attentions = [a for a in seen.matrices if a.requires_grad]
    if len(attentions) <= whole.unused:
        raise MethodError(f"{model.name} has no attention downstream of {layer.name}; choose an earlier layer, or Input")
    return replace(whole, first=whole.total - len(attentions) + whole.unused)


def _whole(model: Classifier, size: tuple[int, int]) -> Blocks:
    trace = traced(model, _image(model, size))
    skipped = [not a.requires_grad for a in trace.matrices]
    start, attentions = sum(skipped), trace.matrices[sum(skipped) :]
    if not attentions:
        raise MethodError(f"{model.name} has no self-attention; {INSTEAD}")
    if any(skipped[start:]):
        raise MethodError(f"{model.name} computes a softmax that does not depend on the image between its blocks; {INSTEAD}")
    gradients = torch.autograd.grad(trace.logits.square().sum(), attentions, allow_unused=True, retain_graph=True)
    used = max((i for i, g in enumerate(gradients, 1) if g is not None), default=len(attentions))
    unused, attentions = len(attentions) - used, attentions[:used]
    layout = _plain(model, attentions, size)
    steps = (Step(layout),) * used if layout is not None else find_steps(model.name, trace, range(start, start + used))
    if any(step.windows > 1 for step in steps):
        _check_order(model, size, trace.matrices)
    return Blocks(0, steps, _read(model, steps[-1], gradients[used - 1]), unused, _paths(trace, start, steps))


def _plain(model: Classifier, attentions: Sequence[Tensor], size: tuple[int, int]) -> Layout | None:
    """Return the layout of the tokens that all blocks attend among, if these are the same and not in windows."""
    layouts = [model.layer(name, size).layout for name, layer in model.layers.items() if layer.layout.kind == "tokens"]
    counts = {a.shape[-1] for a in attentions} | {a.shape[-2] for a in attentions}
    fitting = [layout for layout in layouts if counts == {layout.prefix + layout.height * layout.width}]
    return fitting[0] if fitting and all(len(a) == 1 for a in attentions) else None


def _read(model: Classifier, step: Step, gradient: Tensor | None) -> tuple[int, ...]:
    """Return the tokens whose attention in the last step the logits depend on."""
    asking = step.asking.cpu().nonzero().flatten()
    if gradient is not None and bool(gradient.any()):
        by_row = gradient.abs().amax(-1)
        slots = (by_row.amax(1) if by_row.ndim == 3 else by_row).flatten().cpu()
        queries = asking if step.queries is None else step.queries[step.queries >= 0].cpu()
        if bool((slots > 0).sum() != (slots[queries] > 0).sum()):
            raise MethodError(f"the head of {model.name} reads a token that is not among the positions of any layer; {INSTEAD}")
        return tuple(asking[(slots[queries] > 0)].tolist())
    # An untrained head that is all zero has no gradient. Assume the class token if there is one, else all patches.
    return (0,) if step.layout.prefix and not step.latents else tuple(asking.tolist())


def _check_order(model: Classifier, size: tuple[int, int], attentions: Sequence[Tensor]) -> None:
    """Check that in a batch the windows of each image follow each other."""
    pair = torch.cat([_image(model, size), _image(model, size, 1)])
    split = model.split(model.layer("Input", size), pair.shape[1:]).fresh()
    with torch.no_grad(), Attentions() as seen:
        split.after(split.before(pair), torch.arange(2, device=pair.device))
    for one, two in zip(attentions, seen.matrices[-len(attentions) :], strict=True):
        if len(two) != 2 * len(one) or not torch.allclose(two[: len(one)], one, rtol=1e-2, atol=1e-4):
            raise MethodError(f"in a batch, {model.name} mixes the windows of its images; {INSTEAD}")


def _paths(trace: Trace, start: int, steps: Sequence[Step]) -> tuple[str, ...]:
    return tuple("" if step.keys is not None else trace.block_of(b, step.layout) for b, step in enumerate(steps, start))
