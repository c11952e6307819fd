"""Class activation maps: the positive part of weighted sums of activations."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.cancelled import check_sum
from attrlib.methods.context import AttributionContext
from attrlib.methods.trial import check_by_trial
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

GRAD_CAM = Paper("Selvaraju et al. 2017", "Grad-CAM: Visual Explanations from Deep Networks", "https://arxiv.org/abs/1610.02391")
GRAD_CAM_PP = Paper("Chattopadhay et al. 2018", "Grad-CAM++: Improved Visual Explanations", "https://arxiv.org/abs/1710.11063")
XGRAD_CAM = Paper("Fu et al. 2020", "Axiom-based Grad-CAM", "https://arxiv.org/abs/2008.02312")
HIRES_CAM = Paper("Draelos and Carin 2020", "Use HiResCAM instead of Grad-CAM", "https://arxiv.org/abs/2011.08891")
LAYER_CAM = Paper(
    "Jiang et al. 2021", "LayerCAM: Exploring Hierarchical Class Activation Maps", "https://ieeexplore.ieee.org/document/9462463"
)
SHAPLEY_CAM = Paper("Cai 2025", "CAMs as Shapley Value-based Explainers", "https://arxiv.org/abs/2501.06261")
SMOOTH_GRAD_CAM_PP = Paper("Omeiza et al. 2019", "Smooth Grad-CAM++", "https://arxiv.org/abs/1908.01224")
EIGEN_CAM = Paper(
    "Muhammad and Yeasin 2020", "Eigen-CAM: Class Activation Map using Principal Components", "https://arxiv.org/abs/2008.00299"
)


def weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """Return relu(sum_c w_c A_c), (B,1,h,w), for activations A (B,C,h,w) and weights w that broadcast against them."""
    return (weights * activations).sum(1, keepdim=True).relu()


@dataclass(frozen=True)
class GradientCAM(Method):
    """Base class of CAMs whose weights are computed from the gradient: relu(sum_c w_c A_c). A subclass defines `weights`."""

    default_layer, signed, fast = "Final", False, True

    @abstractmethod
    def weights(self, activations: Tensor, gradient: Tensor) -> Tensor:
        """Return weights that broadcast against the activations.

        Args:
            activations: Activations (B,C,h,w).
            gradient: Gradient of the target logit with respect to the activations (B,C,h,w).
        """

    def attribute(self, context: AttributionContext) -> Tensor:
        activations = context.spatial(context.inputs)
        return weighted(self.weights(activations, context.spatial(context.clean_gradient())), activations)

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
class GradCAMPlusPlus(GradientCAM):
    """Grad-CAM++: relu(sum_c w_c A_c), w_c = sum_ij a_ij relu(g_ij), a_ij = g_ij^2 / (2 g_ij^2 + g_ij^3 sum A_c), g = dy/dA_c.

    Intended for non-negative activations: if they sum to less than zero, the denominator can be close to zero, and a single position
    then dominates the weight.
    """

    name, family, paper = "Grad-CAM++", "CAM", GRAD_CAM_PP

    def weights(self, activations: Tensor, gradient: Tensor) -> Tensor:
        return plus_plus(activations, gradient, gradient)


def plus_plus(activations: Tensor, gradient: Tensor, ratio: Tensor) -> Tensor:
    """Return the weights of Grad-CAM++: sum_ij a_ij relu(g_ij), a_ij = 1 / (2 + r_ij sum A_c).

    This form does not underflow for small gradients. Where the denominator is zero, a_ij is zero.

    Args:
        activations: Activations A (B,C,h,w).
        gradient: Gradient g of the target logit (B,C,h,w).
        ratio: r = g^3 / g^2 (B,C,h,w).

    Returns:
        Weights (B,C,1,1).
    """
    denominator = 2 + ratio * activations.sum((2, 3), keepdim=True)
    alpha = torch.where(denominator == 0, 0.0, 1 / denominator)
    return (alpha * gradient.relu()).sum((2, 3), keepdim=True)


@METHODS.register
@dataclass(frozen=True)
class SmoothGradCAMPlusPlus(Method):
    """Smooth Grad-CAM++: Grad-CAM++ with g, g^2 and g^3 averaged over noisy images, x + N(0, std^2); the activations A are those of x.

    At every layer, the noise is added to the normalised image. As in torch-cam and IDSDS, the numerator of a_ij is the mean g^2; the
    paper prints the mean g, which is inconsistent with Grad-CAM++.
    """

    name, family, paper = "Smooth Grad-CAM++", "CAM", SMOOTH_GRAD_CAM_PP
    default_layer, signed, seeded = "Final", False, True
    samples: int = param(4, "Number of noisy images", low=1, high=1000)
    std: float = param(0.3, "Standard deviation of the noise in units of the normalised image", low=0.0, high=10.0)

    def attribute(self, context: AttributionContext) -> Tensor:
        moments = [torch.zeros_like(context.inputs) for _ in range(3)]
        for which, _ in context.variants(self.samples):
            noisy = torch.cat([context.images + self.std * noise(context, i) for i in which])
            gradient = context.with_images(noisy).clean_gradient().unflatten(0, (len(which), len(context)))
            for power, total in enumerate(moments, start=1):
                total += gradient.pow(power).sum(0)
        first, second, third = (context.spatial(m / self.samples) for m in moments)
        activations = context.spatial(context.inputs)
        return weighted(plus_plus(activations, first, torch.where(second == 0, 0.0, third / second)), activations)

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=self.samples, before=1 + self.samples)


def noise(context: AttributionContext, sample: int) -> Tensor:
    """Return the noise (1,C,H,W) of one sample. It is the same for every image, so that maps do not depend on the batch or its order."""
    generator = context.generator("noisy image", sample)
    return torch.randn(1, *context.images.shape[1:], generator=generator).to(context.images.device)


@METHODS.register
@dataclass(frozen=True)
class XGradCAM(GradientCAM):
    """XGrad-CAM: relu(sum_c w_c A_c), w_c = sum_ij g_ij A_ij / sum_ij A_ij, the gradient's mean weighted by the activations.

    Directly before pooling and a linear head it equals Grad-CAM. A channel whose activations sum to zero has weight zero.
    """

    name, family, paper = "XGrad-CAM", "CAM", XGRAD_CAM

    def weights(self, activations: Tensor, gradient: Tensor) -> Tensor:
        total = activations.sum((2, 3), keepdim=True)
        return torch.where(total == 0, 0.0, (gradient * activations).sum((2, 3), keepdim=True) / total)


@METHODS.register
@dataclass(frozen=True)
class HiResCAM(GradientCAM):
    """HiRes-CAM: relu(sum_c dy/dA_c A_c), position by position: the positive part of IxG at the layer."""

    name, family, paper = "HiRes-CAM", "CAM", HIRES_CAM
    needs = ("a layer that no norm over channels follows",)

    def check(self, model: Classifier, layer: Layer) -> None:
        super().check(model, layer)
        check_sum(self.name, model, layer, product=True)

    def weights(self, activations: Tensor, gradient: Tensor) -> Tensor:
        return gradient


@METHODS.register
@dataclass(frozen=True)
class LayerCAM(GradientCAM):
    """Layer-CAM: relu(sum_c relu(dy/dA_c) A_c), a weight for every position."""

    name, family, paper = "Layer-CAM", "CAM", LAYER_CAM

    def weights(self, activations: Tensor, gradient: Tensor) -> Tensor:
        return gradient.relu()


@METHODS.register
@dataclass(frozen=True)
class ShapleyCAM(Method):
    """ShapleyCAM: relu(sum_c w_c A_c), w_c the mean over positions of g - H A / 2: gradient g, and Hessian H of the target times A.

    This is the Shapley value of each activation if the target is replaced by its second-order expansion at A. Downstream of the layer,
    ReLU networks are linear at A: there H is zero for the target `logit`, and the map is that of Grad-CAM.
    """

    name, family, paper = "ShapleyCAM", "CAM", SHAPLEY_CAM
    default_layer, signed = "Final", False
    needs = ("operations with a second derivative",)

    def check(self, model: Classifier, layer: Layer) -> None:
        check_by_trial(self, model, layer)

    def attribute(self, context: AttributionContext) -> Tensor:
        try:
            for _, rows in context.variants(1):
                gradient, product = context.curvature(context.inputs, rows).unbind(1)
        except RuntimeError as error:
            if not any(sign in str(error) for sign in ("not implemented", "twice")):
                raise
            raise MethodError(
                f"{self.name} needs second derivatives, but {context.classifier.name} has an operation without one "
                f"({str(error).splitlines()[0][:160]}); choose Grad-CAM or HiRes-CAM"
            ) from error
        weights = context.spatial(gradient - product / 2).mean((2, 3), keepdim=True)
        return weighted(weights, context.spatial(context.inputs))

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=2)


@METHODS.register
@dataclass(frozen=True)
class EigenCAM(Method):
    """Eigen-CAM: relu(A v), v the first right singular vector of the activations A (h*w, C), not centred. The same for every class.

    The sign of a singular vector is arbitrary; it is chosen so that A v sums to at least zero. If A is non-negative, so is A v.
    """

    name, family, paper = "Eigen-CAM", "CAM", EIGEN_CAM
    default_layer, signed, fast, class_specific = "Final", False, True, False

    def attribute(self, context: AttributionContext) -> Tensor:
        activations = context.spatial(context.sources).flatten(2)
        channels, positions = activations.shape[1:]
        tall = channels <= positions
        gram = activations @ activations.mT if tall else activations.mT @ activations
        # On the CPU, because not every device supports float64.
        _, vectors = torch.linalg.eigh(gram.cpu().double())
        first = vectors[:, :, -1].to(activations)
        first = (first[:, None] @ activations)[:, 0] if tall else first * (activations @ first[:, :, None]).norm(dim=1)
        first = first * torch.where(first.sum(1, keepdim=True) < 0, -1.0, 1.0)
        return context.per_item(first.relu().view(-1, 1, *context.layer.shape[1:]))

    def passes(self, layer: Layer) -> Passes:
        return Passes()
