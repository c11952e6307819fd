"""Which methods are refused on which members of the zoo, and with what reason: one line for each set of methods and reason.

A method that starts to work, or that is refused for another reason, fails `tests/methods/test_zoo.py` until its line here is right.
"""

import re
from dataclasses import dataclass

from support.zoo import FAMILIES


def of(names: str) -> frozenset[str]:
    """Return the members named in a text, separated by commas."""
    return frozenset(name.strip() for name in names.split(","))


ALL = frozenset(FAMILIES)
WITHOUT_ATTENTION = of("ResNet, VGG, DenseNet, EfficientNet, MobileNetV4, ConvNeXt, MLP-Mixer, PoolFormer")
WITHOUT_TOKENS = of(
    "ResNet, VGG, DenseNet, EfficientNet, MobileNetV4, MobileNetV4 hybrid, ConvNeXt, MaxViT, Swin, SwinV2, PoolFormer, FastViT"
)
"""No layer is a sequence of tokens: the layers of Swin are grids."""
WINDOWED = of("Swin, SwinV2")
GELU = of("ConvNeXt, ViT, DeiT-III, DINOv2, DINOv3, SigLIP, CaiT, BEiT, MLP-Mixer, PoolFormer, FastViT")
"""GELU is their only activation, at all layers."""
CENTRED = of("ConvNeXt, ViT, DeiT-III, DINOv2, DINOv3, EVA02, SigLIP, CaiT, BEiT, MLP-Mixer")
"""A LayerNorm reads Middle, so that the gradient has no component along its mean over channels."""
SCALED = of("ConvNeXt, ViT, DeiT-III, DINOv2")
"""Those in which nothing passes around this LayerNorm, so that the gradient has none along the activations."""
ATTENTION = "Raw attention, Rollout, Attention Grad-CAM, Chefer, CheferLRP, LeGrad"
RECTIFIERS = "Guided Backprop, Deconvolution, Guided Grad-CAM"
CANCELS = "sums over channels to zero at every position of .*, because a norm over channels follows, and would map rounding errors"


@dataclass(frozen=True)
class Refusal:
    """Methods that are refused on members.

    Attributes:
        methods: Names of methods separated by commas, each with a layer (`LRP@Input`) if it is refused at this layer alone.
        reason: Regular expression that the message matches.
        members: The members.
    """

    methods: str
    reason: str
    members: frozenset[str]

    def names(self, method: str, layer: str, family: str) -> bool:
        """Return whether a method is refused on a member at a layer."""
        named = {name.strip() for name in self.methods.split(",")}
        return family in self.members and bool(named & {method, f"{method}@{layer}"})


REFUSALS = (
    Refusal("BagNet", "BagNet is the built-in explanation of a BagNet, which .* is not", ALL),
    Refusal("B-cos", "B-cos is the built-in explanation of a B-cos network, which .* is not", ALL),
    # Attention
    Refusal(ATTENTION, "has no self-attention", WITHOUT_ATTENTION),
    Refusal(ATTENTION, "attention of block 0 of .* is not .* with keys and values of its own for each head", of("MobileNetV4 hybrid")),
    Refusal(ATTENTION, "tokens of block 2 of .* do not consist of whole tokens of block 1", of("MaxViT")),
    Refusal("CheferLRP", "has no rule for add in place", of("FastViT")),
    Refusal("LeGrad", "do not all return the same sequence of tokens as the last", of("Swin, SwinV2, CaiT, FastViT")),
    # Tokens
    Refusal("TIS@Input", "has no blocks that take a sequence of tokens", WITHOUT_TOKENS),
    Refusal("TIS@Middle", "Middle of .* is not a sequence of tokens", WITHOUT_TOKENS),
    Refusal("TIS", "identifies those of .* by their place in the sequence", of("DINOv3, EVA02, BEiT, MLP-Mixer")),
    Refusal("ViT-CX", "is not a layer of tokens", WITHOUT_TOKENS - WINDOWED),
    # Sums that cancel
    Refusal("Gradient@Middle, SmoothGrad@Middle", CANCELS, CENTRED),
    Refusal("IxG@Middle, HiRes-CAM@Middle", CANCELS, SCALED),
    Refusal("HiRes-CAM@Final", CANCELS, of("ViT, DeiT-III, DINOv2, DINOv3, SigLIP, CaiT, MLP-Mixer")),
    # Rules of rectifiers
    Refusal(RECTIFIERS, "defined for ReLU networks, but .* has SiLU", of("EfficientNet, EVA02")),
    Refusal(RECTIFIERS, "defined for ReLU networks, but .* has GELU, SiLU, tanh", of("MaxViT")),
    Refusal(RECTIFIERS, "defined for ReLU networks, but .* has GELU downstream", GELU | of("Swin")),
    Refusal(RECTIFIERS, "defined for ReLU networks, but .* has GELU, clamping downstream", of("SwinV2")),
)


def expected(method: str, layer: str, family: str) -> re.Pattern[str] | None:
    """Return the pattern of the reason for which a method is refused on a member at a layer; None if it works."""
    reasons = [refusal.reason for refusal in REFUSALS if refusal.names(method, layer, family)]
    assert len(reasons) <= 1, f"{method}@{layer} on {family} has several lines: {reasons}"
    return re.compile(reasons[0]) if reasons else None
