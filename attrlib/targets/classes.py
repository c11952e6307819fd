"""Targets that are functions of the logits."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.errors import ModelError, SpecError, TargetError
from attrlib.models import Classifier, Layer
from attrlib.models.cells import CellView
from attrlib.models.embedding import embedding
from attrlib.registry import Paper, param
from attrlib.targets.base import TARGETS, Target, class_name
from attrlib.targets.readout import ClassLogit, ClassProbability, Readout, Weighted

FINER = Paper("Zhang et al. 2025", "Finer-CAM: Spotting the Difference Reveals Finer Details", "https://arxiv.org/abs/2501.11309")
SIMILAR = 3
"""Number of similar classes in a contrast, if the model has as many others."""
JOIN = "+"
"""Separates the classes of a set in text form."""


@TARGETS.register
@dataclass(frozen=True)
class Logit(Target):
    """The logit of the class, or the number that a regression model predicts."""

    name, title, about_class = "logit", "Logit", True

    def readout(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Readout:
        return ClassLogit(classes)


@TARGETS.register
@dataclass(frozen=True)
class Probability(Target):
    """The probability of the class: softmax or sigmoid, by the model's outputs."""

    name, title, linear, about_class = "probability", "Probability", False, True
    needs = ("a model of classes",)

    def check(self, model: Classifier, layer: Layer) -> None:
        if not model.outputs.has_classes:
            raise TargetError(f"{model.name} predicts a number, which has no probability; choose target=logit")

    def phrase(self, model: Classifier, target: int) -> str:
        return f"probability of {super().phrase(model, target)}"

    def readout(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Readout:
        return ClassProbability(classes, model.outputs)


class _Weighted(Target):
    """Base class of targets that are sums of the logits with weights."""

    @abstractmethod
    def weights(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Tensor:
        """Return the weights (B,C); the arguments are those of `readout`."""

    def readout(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Readout:
        return Weighted(self.weights(model, classes, logits))


def _one_hot(model: Classifier, classes: Tensor) -> Tensor:
    return F.one_hot(classes, len(model.class_names)).float()


@TARGETS.register
@dataclass(frozen=True)
class Contrast(_Weighted):
    """The logit less `strength` times the mean logit of the k most similar other classes: what sets the class apart.

    With Grad-CAM this is Finer-CAM. Classes are similar if the cosine of their weights in the last layer is high, or, `by=logits`, if their
    logits for the image are the closest to that of the class.
    """

    name, title, paper, about_class = "contrast", "Contrast with similar classes", FINER, True
    needs = ("two classes",)
    k: int | None = param(
        None, "Number of similar classes", label="Similar classes", low=1, high=1000, auto=f"{SIMILAR}, or all others if there are fewer"
    )
    by: str = param("weights", "How similar classes are found", label="Similar by", choices=("weights", "logits"))
    strength: float = param(1.0, "Factor of the similar classes", above=0.0, high=1.0)

    def check(self, model: Classifier, layer: Layer) -> None:
        others = len(model.class_names) - 1
        if not model.outputs.has_classes:
            raise TargetError(f"contrast compares classes, but the outputs of {model.name} are numbers; choose target=logit")
        if others < 1:
            raise TargetError(f"contrast needs another class to compare with, but {model.name} has a single output; choose target=logit")
        if self.k is not None and self.k > others:
            raise TargetError(f"contrast:k={self.k} needs {self.k} other classes, but {model.name} has {others}; choose a smaller k")
        if self.by == "weights":
            _class_weights(model)

    def phrase(self, model: Classifier, target: int) -> str:
        return f"{super().phrase(model, target)} rather than similar classes"

    def weights(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Tensor:
        if self.by == "weights":
            unit = F.normalize(_class_weights(model), dim=1)
            closeness = unit[classes] @ unit.T
        else:
            values = logits()
            closeness = -(values - values.gather(1, classes[:, None])).abs()
        one = _one_hot(model, classes)
        k = self.k or min(SIMILAR, len(model.class_names) - 1)
        similar = closeness.masked_fill(one.bool(), -torch.inf).topk(k, 1).indices
        return one.scatter_add_(1, similar, one.new_full((), -self.strength / k).expand(similar.shape))


def _class_weights(model: Classifier) -> Tensor:
    """Return the weights of the classes (C,D) in the last layer. Raises `TargetError` if no single linear layer yields the logits."""
    if isinstance(model, CellView):
        return _class_weights(model.model)
    try:
        path = embedding(model).path
    except ModelError:
        path = ""
    if not path:
        raise TargetError(
            f"contrast compares the weights of classes, but the logits of {model.name} are not the output of one linear layer; choose "
            "contrast:by=logits"
        )
    weight: Any = model.module.get_submodule(path).weight
    rows = weight.detach().flatten(1)
    # The one logit of two classes is that of the second; the first has the negative weights.
    return torch.cat([-rows, rows]) if len(rows) == 1 else rows


@TARGETS.register
@dataclass(frozen=True)
class Versus(_Weighted):
    """The logit of the class less that of another class: why this class rather than the other."""

    name, title = "versus", "Versus another class"
    needs = ("two classes",)
    other: str = param("", "Index or name of the other class", names="class", label="Other class")

    def check(self, model: Classifier, layer: Layer) -> None:
        self._index(model)

    def check_class(self, model: Classifier, target: int) -> None:
        if target == self._index(model):
            raise TargetError(f"versus compares class {target} ({class_name(model, target)}) with itself; choose another class as `other`")

    def phrase(self, model: Classifier, target: int) -> str:
        return f"{super().phrase(model, target)} rather than {class_name(model, self._index(model))}"

    def key(self, model: Classifier) -> tuple[object, ...]:
        return self.name, self._index(model)

    def _index(self, model: Classifier) -> int:
        if not self.other:
            raise TargetError("versus needs another class: write versus:other=CLASS, with its index or name")
        return _index(model, self.other, f"versus:other={self.other}")

    def weights(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Tensor:
        one = _one_hot(model, classes)
        one[:, self._index(model)] -= 1
        return one


@TARGETS.register
@dataclass(frozen=True)
class Labels(_Weighted):
    """The sum of the logits of a set of classes, such as all labels of a picture with several."""

    name, title = "labels", "Set of classes"
    classes: str = param("", f"Indices or names of the classes, separated by {JOIN}", names="classes")

    def check(self, model: Classifier, layer: Layer) -> None:
        indices = self._indices(model)
        if len(set(indices)) < len(indices):
            raise TargetError(f"labels:classes={self.classes} names a class twice; name each once")
        if model.outputs.kind == "binary" and len(indices) > 1:
            raise TargetError(f"{model.name} has one logit for two classes, whose sum is zero for every image; name one of them")

    def phrase(self, model: Classifier, target: int) -> str:
        return f" {JOIN} ".join(class_name(model, index) for index in self._indices(model))

    def key(self, model: Classifier) -> tuple[object, ...]:
        return self.name, *sorted(self._indices(model))

    def _indices(self, model: Classifier) -> list[int]:
        if not self.classes:
            raise TargetError(f"labels needs a set of classes: write labels:classes=CLASS{JOIN}CLASS, with their indices or names")
        try:
            return [_index(model, text, f"labels:classes={self.classes}") for text in self.classes.split(JOIN)]
        except TargetError as error:
            if any(JOIN in name for name in model.class_names):
                raise TargetError(f"{error} Give a class whose name contains {JOIN} by its index.") from None
            raise

    def weights(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Tensor:
        weights = torch.zeros(len(classes), len(model.class_names), device=classes.device)
        weights[:, self._indices(model)] = 1
        return weights


@TARGETS.register
@dataclass(frozen=True)
class Negative(_Weighted):
    """The negative of the logit: what speaks against the class."""

    name, title = "negative", "Against the class"

    def phrase(self, model: Classifier, target: int) -> str:
        return f"against {super().phrase(model, target)}"

    def weights(self, model: Classifier, classes: Tensor, logits: Callable[[], Tensor]) -> Tensor:
        return -_one_hot(model, classes)


def _index(model: Classifier, text: str, owner: str) -> int:
    try:
        return model.target(text)
    except SpecError as error:
        raise TargetError(f"{owner}: {str(error).removeprefix('target=')}") from None
