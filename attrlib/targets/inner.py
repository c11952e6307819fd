"""Targets that read an inner layer: a channel, or a single neuron."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attrlib.errors import TargetError
from attrlib.models import Classifier, Layer
from attrlib.models.layers import NAMED
from attrlib.models.modules.ending import replaced_forward
from attrlib.models.modules.tracing import first_tensor
from attrlib.models.outputs import Outputs
from attrlib.registry import Paper, param, params_of
from attrlib.targets.base import TARGETS, Target
from attrlib.targets.readout import ClassLogit, Readout

FEATURES = Paper("Olah et al. 2017", "Feature Visualization", "https://doi.org/10.23915/distill.00007")


class _ReachedError(Exception):
    """Ends a forward pass as soon as the value to explain is known."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = values


@dataclass(frozen=True)
class InnerOutputs(Outputs):
    """Outputs of a forward pass that ends at an inner module, with K numbers for each image.

    Attributes:
        path: Path of the module.
        reading: Returns the numbers (B,K) of the module's output.
        of_input: Whether they are read from the module's input instead.
    """

    path: str = ""
    reading: Callable[[Tensor], Tensor] = field(default=lambda values: values, compare=False)
    of_input: bool = False

    @contextmanager
    def shown(self, module: nn.Module) -> Iterator[None]:
        if getattr(vars(module).get("forward"), "shows", None) is self:
            # A session inside another one.
            yield
            return
        part = module.get_submodule(self.path)
        original, whole = part.forward, module.forward

        def read(*args: Any, **kwargs: Any) -> Any:
            values = args[0] if self.of_input else first_tensor(original(*args, **kwargs))
            assert values is not None, "a layer yields a tensor"
            raise _ReachedError(values)

        def shortened(*args: Any, **kwargs: Any) -> Tensor:
            try:
                whole(*args, **kwargs)
            except _ReachedError as reached:
                return self.reading(reached.values)
            raise TargetError(f"the forward pass does not reach {self.path}; choose another layer as target")

        shortened.shows = self  # type: ignore[attr-defined]
        with ExitStack() as stack:
            stack.enter_context(replaced_forward(part, read))
            stack.enter_context(replaced_forward(module, shortened))
            yield


def inner_view(model: Classifier, outputs: InnerOutputs, names: tuple[str, ...]) -> Classifier:
    """Return the classifier whose outputs are numbers read at an inner module, created once per model.

    Args:
        model: The classifier.
        outputs: Where and how the numbers are read.
        names: Names of the numbers.
    """
    key = ("target", *names)
    if key not in model.derived:
        view = copy.copy(model)
        for cached in ("layers", "behaviour"):
            view.__dict__.pop(cached, None)
        view.__dict__ |= dict(outputs=outputs, class_names=names, derived={}, unreachable={}, _splits={}, _layouts={}, _layer_names={})
        paths = set(view.layers)
        # The names stand for the same layers as in the model, not for those of the shortened network.
        layers = {name: layer for name, layer in model.layers.items() if layer.path in paths or not layer.path}
        view.__dict__ |= dict(layers=layers, _layer_names={name: layers[name].path for name in NAMED[1:] if name in layers})
        model.derived[key] = view
    return model.derived[key]


class _AtLayer(Target):
    """Base class of targets that read the output of a layer."""

    layer: str

    def check(self, model: Classifier, layer: Layer) -> None:
        if type(model) is not Classifier:
            raise TargetError(f"{self.name} reads a layer of a single image; explain the grid by the target logit")
        at = self._at(model)
        check_upstream(model, layer, at.path, f"{self.name}:layer={self.layer}")
        self._check_position(at)

    def _at(self, model: Classifier) -> Layer:
        """Return the layer that the target reads."""
        if not self.layer:
            raise TargetError(f"{self.name} needs a layer: write {self.name}:layer=LAYER with Middle, Final or a module path")
        at = model.layer(self.layer)
        if not at.path:
            raise TargetError(f"{self.name}:layer=Input is the image itself; choose Middle, Final or a module path")
        return at

    @abstractmethod
    def _check_position(self, at: Layer) -> None:
        """Check that the layer has what the parameters name."""

    @abstractmethod
    def read(self, values: Tensor) -> Tensor:
        """Return the number (B,) of the layer's values (B,C,h,w)."""

    def key(self, model: Classifier) -> tuple[object, ...]:
        return (self.name, self._at(model).path, *(getattr(self, p.name) for p in params_of(type(self)) if p.name != "layer"))

    def view(self, model: Classifier) -> Classifier:
        at = self._at(model)
        batch_dim = model.split(at).batch_dim

        def reading(values: Tensor) -> Tensor:
            return self.read(at.layout.spatial(values.transpose(0, batch_dim)))[:, None]

        outputs = InnerOutputs("scalar", activation=model.outputs.activation, path=at.path, reading=reading)
        return inner_view(model, outputs, (":".join(map(str, self.key(model))),))

    def readout(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Readout:
        return ClassLogit(torch.zeros_like(classes))


def check_upstream(model: Classifier, layer: Layer, path: str, owner: str) -> None:
    """Check that a layer runs before the module at which a target is read.

    Args:
        model: The classifier.
        layer: The layer to explain at.
        path: Path of the module.
        owner: The target, for the message.

    Raises:
        TargetError: It does not.
    """
    order = list(model.layers)
    if layer.path and (layer.path == path or (path in order and order.index(layer.path) >= order.index(path))):
        raise TargetError(f"layer {layer.name} is not upstream of {owner}; explain at Input or an earlier layer")


@TARGETS.register
@dataclass(frozen=True)
class Channel(_AtLayer):
    """The mean activation of one channel of a layer over all positions, whatever the class."""

    name, title, paper = "channel", "Channel of a layer", FEATURES
    needs = ("an inner layer",)
    layer: str = param("", "Middle, Final or a module path", names="layer")
    index: int = param(0, "Index of the channel", label="Channel", low=0, high=1_000_000)

    def phrase(self, model: Classifier, target: int) -> str:
        return f"channel {self.index} of {self.layer}"

    def _check_position(self, at: Layer) -> None:
        _check_index(self.name, "index", self.index, at.layout.channels, "channels", at)

    def read(self, values: Tensor) -> Tensor:
        return values[:, self.index].mean((1, 2))


@TARGETS.register
@dataclass(frozen=True)
class Neuron(_AtLayer):
    """The activation of one channel of a layer at one position, whatever the class."""

    name, title, paper = "neuron", "Neuron of a layer", FEATURES
    needs = ("an inner layer",)
    layer: str = param("", "Middle, Final or a module path", names="layer")
    index: int = param(0, "Index of the channel", label="Channel", low=0, high=1_000_000)
    row: int = param(0, "Row of the position", low=0, high=100_000)
    column: int = param(0, "Column of the position", low=0, high=100_000)

    def phrase(self, model: Classifier, target: int) -> str:
        return f"channel {self.index} of {self.layer} at row {self.row}, column {self.column}"

    def _check_position(self, at: Layer) -> None:
        _check_index(self.name, "index", self.index, at.layout.channels, "channels", at)
        _check_index(self.name, "row", self.row, at.layout.height, "rows", at)
        _check_index(self.name, "column", self.column, at.layout.width, "columns", at)

    def read(self, values: Tensor) -> Tensor:
        return values[:, self.index, self.row, self.column]


def _check_index(target: str, name: str, value: int, count: int, noun: str, layer: Layer) -> None:
    if value >= count:
        raise TargetError(f"{target}:{name}={value} does not exist: layer {layer.name} has {count} {noun}, counted from 0")
