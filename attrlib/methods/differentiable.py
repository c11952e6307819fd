"""Check that a method is defined for a model, and that gradients reach the layer if the method needs them."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from attrlib.errors import LayerError, MethodError, TargetError, overwritten
from attrlib.methods.base import Method
from attrlib.models import Classifier, Layer
from attrlib.models.cells import CellView
from attrlib.models.chunks import out_of_memory
from attrlib.models.modules.forward import same, seeded
from attrlib.models.modules.tracing import first_tensor, observed
from attrlib.models.split import Split
from attrlib.targets import LOGIT, Target

POINTS = 4
"""Points on the line between two probe images at which the gradient must vanish: at one or two it may do so by chance."""


def check_defined(method: Method, model: Classifier, layer: Layer, target: Target = LOGIT, size: tuple[int, int] | None = None) -> None:
    """Check, before anything is computed, that a method and its target are defined for a model at a layer.

    Args:
        method: The method.
        model: The classifier.
        layer: The layer to explain at.
        target: What is explained.
        size: Height and width of the images in pixels; by default the model's input size.

    Raises:
        MethodError: The method is not, or it needs gradients and none reaches the layer. The message gives the reason.
        TargetError: The target is not.
    """
    target.check(model, layer)
    if method.linear and not target.linear:
        raise MethodError(
            f"{method.name} needs a target that is linear in the logits, which {target.name} is not; choose target=logit or contrast, or a "
            "method such as IG or Grad-CAM"
        )
    view = target.view(model)
    if view is model:
        _check_method(method, model, layer)
        return
    try:
        _check_method(method, view, view.layer(layer.name, size))
    except LayerError:
        raise TargetError(f"{method.name} needs a layer that is not upstream of the target {target.name}; choose another layer") from None


def _check_method(method: Method, model: Classifier, layer: Layer) -> None:
    if method.operations and (scripted := [path for path, m in model.module.named_modules() if isinstance(m, torch.jit.ScriptModule)]):
        raise MethodError(
            f"{method.name} needs the single operations of the model, but {scripted[0] or 'it'} is a TorchScript module, which runs outside "
            "of Python; wrap the module that it was made from, or choose IG, IxG or a method of forward passes"
        )
    if method.passes(layer).gradient and (reason := unreachable(model, layer)):
        raise MethodError(
            f"{method.name} needs gradients, but {reason}; choose a method of forward passes only, such as RISE, LIME or Occlusion"
        )
    method.check(model, layer)


def unreachable(model: Classifier, layer: Layer) -> str:
    """Return why the gradient of the logits does not reach a layer although they depend on it; empty if it does. Found out once."""
    if isinstance(model, CellView):
        return unreachable(model.model, model.model.layer(layer.name))
    if layer.path not in model.unreachable:
        try:
            with model.session(), seeded(model.device):
                model.unreachable[layer.path] = _reason(model, layer)
        except Exception:  # noqa: BLE001  a user's module may fail in any way
            # The method itself may manage, with less memory for example, or reports the failure.
            return ""
    return model.unreachable[layer.path]


def barriers(model: Classifier) -> list[str]:
    """Return the modules through which no gradient passes although their outputs depend on the image, each as `PATH (TYPE)`."""
    with model.session(), seeded(model.device):
        try:
            return _barriers(model.module, model.split(model.layer("Input")).fresh(), model._probe(2))
        except Exception:  # noqa: BLE001  a user's module may fail in any way
            # An in-place operation overwrites values of the graph, for example, or the module cannot record a graph at all.
            return []


def _reason(model: Classifier, layer: Layer) -> str:
    split = model.split(model.layer(layer.name)).fresh()
    start = split.before(model._probe(1)).float()
    try:
        gradient, _ = _gradient(split, start)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        if overwritten(error) or not _runs(split, start):
            return ""
        return f"the model fails while a gradient is recorded ({str(error).splitlines()[0][:160]})"
    if gradient is not None and bool(gradient.any()):
        return ""
    start, end = split.before(model._probe(2)).float().split(1)
    results = [_gradient(split, torch.lerp(start, end, k / (POINTS - 1))) for k in range(POINTS)]
    constant = all(same(logits, results[0][1], 1e-6) for _, logits in results)
    if constant or any(gradient is not None and bool(gradient.any()) for gradient, _ in results):
        return ""
    names = _barriers(model.module, split, torch.cat([start, end]))
    if names:
        return f"the gradient does not pass through {names[0]}"
    return "the model cuts the gradient outside of its modules, for example by detach, torch.no_grad, argmax or rounding"


def _gradient(split: Split, inputs: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the gradient of a random mixture of the logits, and the logits, with the first probe image upstream of the layer."""
    leaf = inputs.detach().requires_grad_()
    with torch.enable_grad():
        logits = split.after(leaf, torch.zeros(1, dtype=torch.long, device=leaf.device)).float()
        return _local(logits, leaf), logits.detach()


def _local(output: Tensor, inputs: Tensor) -> Tensor | None:
    """Return the gradient of a random mixture of the outputs; their sum would be constant after a normalisation."""
    if not output.requires_grad:
        return None
    mixture = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    return torch.autograd.grad(output, inputs, mixture, retain_graph=True, allow_unused=True)[0]


def _runs(split: Split, inputs: Tensor) -> bool:
    try:
        with torch.no_grad():
            split.after(inputs, torch.zeros(1, dtype=torch.long, device=inputs.device))
    except RuntimeError:
        return False
    return True


def _barriers(module: nn.Module, split: Split, values: Tensor) -> list[str]:
    """Return the innermost modules that block the gradient, for the two outputs (2,...) of a layer."""
    outputs: list[dict[str, Tensor]] = []
    blocked: list[str] = []

    def hook(path: str) -> Callable[..., None]:
        def look(_part: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            result = first_tensor(output)
            inputs = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.requires_grad]
            if result is None or not inputs or not result.is_floating_point():
                return
            outputs[-1][path] = result.detach().clone()
            try:
                gradients = [_local(result, each) for each in inputs]
            except RuntimeError:
                return
            inside = any(known.startswith(f"{path}.") for known in blocked)
            if path and not inside and not any(g is not None and bool(g.any()) for g in gradients) and path not in blocked:
                blocked.append(path)

        return look

    with ExitStack() as stack:
        for path, part in observed(module):
            stack.callback(part.register_forward_hook(hook(path), with_kwargs=True).remove)
        for value in values.split(1):
            outputs.append({})
            split.after(value.detach().requires_grad_(), torch.zeros(1, dtype=torch.long, device=value.device))
    one, two = outputs
    return [
        f"{path} ({module.get_submodule(path)._get_name()})"
        for path in blocked
        if path in one and path in two and not same(one[path], two[path], 1e-6)
    ]
