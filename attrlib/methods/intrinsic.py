"""Intrinsic explanations: maps that inherently interpretable networks provide themselves."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.models import Classifier, Layer
from attrlib.models.architectures import BagNet, BcosNetwork, dynamic_weights, patch_logits
from attrlib.registry import Paper
from attrlib.targets.inner import InnerOutputs

BAGNET = Paper("Brendel and Bethge 2019", "Approximating CNNs with Bag-of-local-Features models", "https://arxiv.org/abs/1904.00760")
BCOS = Paper("Böhle et al. 2022", "B-cos Networks: Alignment is All We Need for Interpretability", "https://arxiv.org/abs/2205.10268")


class OwnMap(Method):
    """Base class of the intrinsic maps of a network, at the input, for single images or grids of them. A subclass names the network."""

    network: type
    linear = True

    def check(self, model: Classifier, layer: Layer) -> None:
        if not isinstance(model.module, self.network):
            raise MethodError(
                f"{self.name} is the built-in explanation of {self.needs[0]}, which {model.name} is not; choose another method"
            )
        if isinstance(model.outputs, InnerOutputs):
            raise MethodError(f"{self.name} explains the logits, not an inner layer; choose another method for this target")
        if layer.path or type(model) is not Classifier:
            raise MethodError(
                f"{self.name} explains the whole network at its input; leave out @{layer.name}, and use GridPG rather than DiFull or DiPart"
            )


@METHODS.register
@dataclass(frozen=True)
class PatchLogits(OwnMap):
    """BagNet: the target's logit of the patch around each pixel; its mean over positions eight pixels apart is the model's logit."""

    name, family, paper, network = "BagNet", "intrinsic", BAGNET, BagNet
    needs = ("a BagNet",)

    def attribute(self, context: AttributionContext) -> Tensor:
        module, images, maps = context.classifier.module, context.per_item(context.images), []
        assert isinstance(module, BagNet), "check() refuses others"
        logits = torch.zeros(len(context), module.fc.out_features, device=images.device, requires_grad=True)
        with torch.enable_grad():
            explained = context.explained(context.classifier.outputs.logits(logits), context.rows)
        weights = torch.autograd.grad(explained.sum(), logits)[0]
        for k in range(len(context)):
            context.on_progress(64 * k, 64 * len(context))
            maps.append(patch_logits(module, images[k : k + 1], weights=weights[k : k + 1]))
        return torch.cat(maps)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=64)


@METHODS.register
@dataclass(frozen=True)
class DynamicLinear(OwnMap):
    """B-cos: the input times the linear map W(x) that the network applies to it, summed over its six channels.

    The map sums to the logit minus the constant bias, for transformers also minus what their position embeddings contribute. It is defined
    for the B-cos networks of this package and for `bcos:NAME`.
    """

    name, family, paper, network, fast = "B-cos", "intrinsic", BCOS, BcosNetwork, True
    needs = ("a B-cos network",)

    def attribute(self, context: AttributionContext) -> Tensor:
        module, images = context.classifier.module, context.per_item(context.images)
        assert isinstance(module, BcosNetwork), "check() refuses others"

        def explained(rows: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda logits: context.explained(context.classifier.outputs.logits(logits), rows)

        parts = zip(images.split(context.chunk), context.rows.split(context.chunk), strict=True)
        return torch.cat([(dynamic_weights(module, x, explained(rows)) * module.encode(x)).sum(1, keepdim=True) for x, rows in parts])

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)
