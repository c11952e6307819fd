"""Guided Backpropagation on any rectifier, by way of the autograd graph."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.gradients import REDUCTIONS, reduce_channels
from attrlib.methods.task import Task
from attrlib.models import Layer
from attrlib.registry import Paper, param

ALL_CONVOLUTIONAL = Paper(
    "Springenberg et al. 2015", "Striving for Simplicity: The All Convolutional Net", "https://arxiv.org/abs/1412.6806"
)
_OTHER_ACTIVATIONS = re.compile(r"(gelu|silu|swish|mish|elu|softplus|hardtanh|threshold|maximum|clamp|tanh|erf)", re.IGNORECASE)


@METHODS.register
@dataclass(frozen=True)
class GuidedBackprop(Method):
    """Guided Backpropagation: the gradient with only positive values passed back through every ReLU.

    Works on nn.ReLU and nn.ReLU6, in place or not, and on their functional forms; where the part of the model behind the
    layer has other activations (GELU, SiLU, ...) the rule is not defined and the method is refused.
    """

    name, family, paper, fast = "Guided Backprop", "gradient", ALL_CONVOLUTIONAL, True
    needs = ("ReLU or ReLU6 as the only activations",)
    channels: str = param("sum", "Sum over channels of the guided gradient, or of its magnitude", choices=REDUCTIONS)

    def attribute(self, task: Task) -> Tensor:
        return reduce_channels(task, guided_gradient(task), self.channels)

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


def guided_gradient(task: Task) -> Tensor:
    """The guided gradient at the task's inputs, of their shape; shared. Raises `MethodError` where other activations are."""
    return task.shared("guided gradient", lambda: task.gradient(task.inputs, task.rows, visit=_guide(task)))


def _guide(task: Task) -> Any:
    def visit(scores: Tensor) -> None:
        nodes = list(_graph(scores.grad_fn))
        others = sorted({n.name().split("Backward")[0] for n in nodes if not _is_rectifier(n) and _OTHER_ACTIVATIONS.search(n.name())})
        if others:
            raise MethodError(
                f"Guided Backprop is defined for ReLU networks, but {task.classifier.name} has {', '.join(others)} behind "
                f"{task.layer.name}; use Gradient or IxG instead"
            )
        for node in filter(_is_rectifier, nodes):
            # relu'(x) * max(g, 0) = max(relu'(x) * g, 0): clamping what leaves the node is the guided rule.
            node.register_hook(_only_positive)

    return visit


def _only_positive(inputs: tuple[Tensor | None, ...], _outputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else g.clamp_min(0) for g in inputs)


def _is_rectifier(node: Any) -> bool:
    name = node.name()
    if name.startswith("ReluBackward"):
        return True
    floors = {"HardtanhBackward": "_saved_min_val", "ThresholdBackward": "_saved_threshold", "Clamp": "_saved_min"}
    return any(name.startswith(kind) and _is_zero(getattr(node, attribute, None)) for kind, attribute in floors.items())


def _is_zero(value: Any) -> bool:
    return bool((value == 0).all()) if isinstance(value, Tensor) else value == 0


def _graph(node: Any) -> Iterator[Any]:
    seen, queue = set(), [node]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            queue.extend(following for following, _ in node.next_functions)
