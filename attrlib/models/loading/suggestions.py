"""Suggest architectures for a checkpoint from its keys and shapes."""

import re
import time
from collections.abc import Iterator, Mapping
from fnmatch import filter as matching
from functools import lru_cache

from torch import Tensor

from attrlib.errors import ModelError
from attrlib.models.loading.outline import COUNTER, Shape, outline_of
from attrlib.models.loading.prefixes import below, prefixes_of, without_wrappers
from attrlib.models.sources import architectures

SECONDS = 4.0
"""Time after which no further architecture is compared."""
_ENOUGH = 0.97
"""Share of the weights whose shapes have to agree. Input size, channels and classes change a few."""
_MORE = 8
"""Architectures that are compared after the first that fits: relatives follow one another."""
_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
# A key that tells a family, wherever it stands in a name, and the members in the order of their use.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"layer1\.0\.conv1\.weight$", ("torchvision:resnet*", "torchvision:wide_resnet*", "torchvision:resnext*", "timm:resnet*", "timm:seresnet*", "timm:*resne*", "attrlib:*resnet*")),
    (r"features\.denseblock1\.denselayer1\.", ("torchvision:densenet*", "timm:densenet*")),
    (r"features\.0\.0\.weight$", ("torchvision:mobilenet*", "torchvision:efficientnet*", "torchvision:convnext*", "torchvision:swin*")),
    (r"features\.3\.squeeze\.weight$", ("torchvision:squeezenet*",)),
    (r"features\.\d+\.weight$", ("torchvision:vgg*", "torchvision:alexnet", "timm:vgg*", "attrlib:*vgg*")),
    (r"Conv2d_1a_3x3\.conv\.weight$", ("torchvision:inception_v3", "timm:inception_v3")),
    (r"inception3a\.branch1\.conv\.weight$", ("torchvision:googlenet",)),
    (r"encoder_layer_0\.", ("torchvision:vit*",)),
    (r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table$", ("timm:swin_*_224", "timm:swin_*")),
    (r"layers\.0\.blocks\.0\.attn\.cpb_mlp", ("timm:swinv2_*",)),
    (r"blocks\.0\.attn\.(qkv|q_proj)\.weight$", ("timm:vit_*_patch*_224", "timm:deit*_patch16_224", "timm:beit*_224", "timm:vit_*dinov2*", "timm:vit_*reg*", "timm:eva*", "timm:cait*", "timm:vit*")),
    (r"stages\.0\.(blocks\.)?0\.(conv_dw|dwconv)\.weight$", ("timm:convnext_*", "timm:convnextv2_*")),
    (r"conv_stem\.weight$", ("timm:efficientnet_*", "timm:tf_efficientnet*", "timm:mobilenetv*", "timm:*net*_lite*", "timm:mnasnet*")),
    (r"block1\.block1-0\.|trunk_output\.block1\.", ("torchvision:regnet*",)),
    (r"s1\.b1\.conv1\.conv\.weight$", ("timm:regnet*",)),
    (r"stem\.conv\.weight$", ("timm:*",)),
)  # fmt: skip


def suggest(state: Mapping[str, Tensor], limit: int = 5, seconds: float = SECONDS) -> list[str]:
    """Return the architectures of timm, torchvision and this package that fit a state dict, best first.

    The family is told by characteristic keys; its members are built without values and compared, until the time is up. Input size,
    channels, classes and head need not agree.

    Args:
        state: The state dict, with any prefix.
        limit: Greatest number of names.
        seconds: Time after which no further architecture is compared.

    Returns:
        Names such as `timm:vit_small_patch16_224`; empty if none fits.
    """
    plain, end = without_wrappers(state), time.monotonic() + seconds
    scores: dict[str, float] = {}
    left = _MORE
    for name in _shortlist(plain):
        if time.monotonic() > end or not left:
            break
        left -= bool(scores)
        try:
            score = _agreement(plain, _shapes(name))
        except (ModelError, RuntimeError):
            continue
        if score >= _ENOUGH:
            scores[name] = score
    return sorted(scores, key=lambda name: -scores[name])[:limit]


def _shortlist(state: Mapping[str, Tensor]) -> Iterator[str]:
    known, seen = architectures(), set[str]()
    width = next((value.shape[-1] for key, value in state.items() if key.endswith("blocks.0.norm1.weight")), 0)
    word = _WIDTHS.get(width, "")

    def usual(name: str) -> tuple[bool, int, str]:
        """Sort names of that width first, and short ones before those of variants."""
        return word not in name, len(name), name

    for key_pattern, patterns in _FAMILIES:
        if not any(re.search(key_pattern, key) for key in state):
            continue
        for pattern in patterns:
            source, _, short = pattern.partition(":")
            for name in sorted(matching(known[source], short), key=usual):
                full = f"{source}:{name}"
                if full not in seen:
                    seen.add(full)
                    yield full


@lru_cache(maxsize=512)
def _shapes(name: str) -> dict[str, Shape]:
    return {key: shape for key, shape in outline_of(name, {}).shapes.items() if not key.endswith(COUNTER)}


def _agreement(state: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> float:
    """Return the share of keys, of both sides, that agree in name and shape under the best prefix."""
    prefix = next(iter(prefixes_of(state, shapes)), "")
    own = {key: tuple(value.shape) for key, value in below(state, prefix).items() if not key.endswith(COUNTER)}
    # Only what is not the first or last layer: these depend on channels and classes.
    agreed = sum(own.get(key) == shape for key, shape in shapes.items())
    return min(1.0, (agreed + _FREE) / len({*shapes, *own}))


_FREE = 3
"""Weights that may differ: those of the head and of the first layer, or of the position embedding."""
