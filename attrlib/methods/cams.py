"""Class activation maps: activations weighted by what the logit makes of them, positive part."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.task import Task
from attrlib.models import Layer
from attrlib.registry import Paper

GRAD_CAM = Paper("Selvaraju et al. 2017", "Grad-CAM: Visual Explanations from Deep Networks", "https://arxiv.org/abs/1610.02391")
LAYER_CAM = Paper(
    "Jiang et al. 2021", "LayerCAM: Exploring Hierarchical Class Activation Maps", "https://ieeexplore.ieee.org/document/9462463"
)


@dataclass(frozen=True)
class GradientCAM(Method):
    """relu(sum_c w_c * A_c) with weights made from the activations' gradient; a subclass says how."""

    default_layer, signed, fast = "Final", False, True

    @abstractmethod
    def weights(self, activations: Tensor, gradient: Tensor) -> Tensor:
        """Weights that broadcast against activations (B,C,h,w), from them and the logit's gradient (B,C,h,w)."""

    def attribute(self, task: Task) -> Tensor:
        activations = task.spatial(task.inputs)
        gradient = task.spatial(task.clean_gradient())
        return (self.weights(activations, gradient) * activations).sum(1, keepdim=True).relu()

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@METHODS.register
@dataclass(frozen=True)
class GradCAM(GradientCAM):
    """Grad-CAM: relu(sum_c w_c A_c), w_c the mean gradient of channel c over positions."""

    name, family, paper = "Grad-CAM", "CAM", GRAD_CAM

    def weights(self, activations: Tensor, gradient: Tensor) -> Tensor:
        return gradient.mean((2, 3), keepdim=True)


@METHODS.register
@dataclass(frozen=True)
class LayerCAM(GradientCAM):
    """Layer-CAM: relu(sum_c relu(dy/dA_c) A_c), a weight for every position."""

    name, family, paper = "Layer-CAM", "CAM", LAYER_CAM

    def weights(self, activations: Tensor, gradient: Tensor) -> Tensor:
        return gradient.relu()
