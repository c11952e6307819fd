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
VITS = of("ViT, DeiT-III, DINOv2, DINOv3, EVA02, BEiT")
"""All blocks attend among the same tokens, and the head reads the class token or their mean."""
MIXED = of("MobileNetV4 hybrid, MaxViT, SigLIP, Swin, SwinV2, CaiT")
"""They attend in windows, to pooled keys, or from a query of the head."""
ATTENTION = "Raw attention, Rollout, Attention Grad-CAM, Chefer, CheferLRP"
RECTIFIERS = "Guided Backprop, Deconvolution, Guided Grad-CAM"


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
    Refusal(ATTENTION, "does not attend among the same tokens in every block", MIXED),
    Refusal("Raw attention@Final, Rollout@Final, Attention Grad-CAM@Final, Chefer@Final, CheferLRP@Final",
            "has no attention downstream of Final", of("DINOv3, EVA02, BEiT, FastViT")),
    Refusal("CheferLRP@Input, CheferLRP@Middle", "has no rule for mul", of("EVA02")),
    Refusal("CheferLRP@Input", "has no rule for neg", of("DINOv3")),
    Refusal("CheferLRP@Input, CheferLRP@Middle", "has no rule for conv2d", of("FastViT")),
    # Rules of rectifiers
    Refusal(RECTIFIERS, "defined for ReLU networks, but .* has Silu", of("EfficientNet, EVA02")),
    Refusal(RECTIFIERS, "defined for ReLU networks, but .* has Gelu, Silu, Tanh", of("MaxViT")),
    Refusal(RECTIFIERS, "defined for ReLU networks, but .* has Gelu downstream", ALL - of("ResNet, VGG, DenseNet, EfficientNet, MobileNetV4, MobileNetV4 hybrid, MaxViT, EVA02, Swin, SwinV2")),
    Refusal("Guided Backprop@Input, Deconvolution@Input, Guided Grad-CAM@Input", "defined for ReLU networks, but .* has (ClampMin, )?Gelu downstream", of("Swin, SwinV2")),
)  # fmt: skip


def expected(method: str, layer: str, family: str) -> re.Pattern[str] | None:
    """Return the pattern of the reason for which a method is refused on a member at a layer; None if it works."""
    reasons = [refusal.reason for refusal in REFUSALS if refusal.names(method, layer, family)]
    assert len(reasons) <= 1, f"{method}@{layer} on {family} has several lines: {reasons}"
    return re.compile(reasons[0]) if reasons else None
