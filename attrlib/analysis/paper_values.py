"""Values reported in a paper, for scores that were computed in the paper's setting."""

from collections.abc import Iterator

from attrlib.methods import resolve
from attrlib.models.names import RANDOM
from attrlib.protocols import create
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec

SOURCE = "Hesse et al. 2024, read off the poster to about ±0.003; BagNet and B-cos to about ±0.01"
CLASSES = 1000
_MODELS = (
    *("resnet18", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "fixup_resnet50", "x_resnet50", "vgg16"),
    "vit_base_patch16_224",
)
_ROWS = {
    "SmoothGrad@Input:of=IxG:samples=4:noise=1:unit=absolute": (0.012, -0.005, 0.001, -0.003, -0.001, 0.029, 0.121, 0.034, -0.001),
    "SmoothGrad@Input:of=IG:samples=4:noise=1:unit=absolute:steps=50": (0.102, 0.049, 0.037, 0.033, 0.041, 0.122, 0.121, 0.115, 0.022),
    "IxG@Input": (0.097, 0.070, 0.064, 0.061, 0.063, 0.166, 0.241, 0.149, 0.067),
    "IG@Input:steps=50:baseline=zeros": (0.279, 0.196, 0.169, 0.157, 0.175, 0.305, 0.241, 0.388, 0.135),
    "IG@Input:steps=50:baseline=uniform": (0.354, 0.255, 0.218, 0.200, 0.230, 0.342, 0.379, 0.475, 0.146),
    "IG@Input:steps=50:baseline=uniform:channels=sum-abs": (0.157, 0.125, 0.088, 0.078, 0.102, 0.209, 0.220, 0.289, 0.084),
    "RISE@Input:samples=1000:cells=8:p=0.1": (0.197, 0.131, 0.099, 0.087, 0.091, 0.200, 0.227, 0.308, 0.110),
    "Smooth Grad-CAM++@Final:samples=4:std=0.3": (0.159, 0.102, 0.066, 0.057, 0.095, 0.217, 0.254, 0.315),
    "Grad-CAM++@Final": (0.254, 0.213, 0.152, 0.134, 0.204, 0.275, 0.321, 0.443),
    "Grad-CAM@Final": (0.285, 0.236, 0.174, 0.155, 0.224, 0.359, 0.411, 0.545),
    "XGrad-CAM@Final": (0.285, 0.236, 0.174, 0.155, 0.224, 0.359, 0.411, 0.577),
}
"""IDSDS on the 50,000 ImageNet validation images, in the order of `_MODELS`; the paper reports no CAM method for the last model."""
_OWN = {("BagNet", "bagnet33"): 0.80, ("B-cos", "bcos_resnet50"): 0.32}


def published(spec: RunSpec, classes: int) -> float | None:
    """Return the mean that the paper (Hesse et al. 2024) reports for a score.

    The setting must be that of the paper: IDSDS with its default parameters, on data with ImageNet's 1,000 classes, and on a published
    model or the same architecture with weights that were fine-tuned on deleted patches. The number of images may be smaller, since
    fewer images of the same kind estimate the same mean.

    Args:
        spec: A run of one protocol and one method.
        classes: Number of classes of the data.

    Returns:
        The mean; None if the setting is not that of the paper, or the paper does not report the value.
    """
    name = _architecture(spec.model, spec.deletion_tuned)
    if name is None or classes != CLASSES or spec.fast or create(spec.protocols[0]) != create(ProtocolSpec("idsds")):
        return None
    method = resolve(spec.methods[0])
    for text, values in _ROWS.items():
        if name in _MODELS[: len(values)] and method == resolve(MethodSpec.parse(text)):
            return values[_MODELS.index(name)]
    return _OWN.get((method.name, name)) if method == resolve(MethodSpec(method.name)) else None


def _architecture(model: ModelSpec, tuned: bool) -> str | None:
    """Return the name in the paper's table, None if weights or image size are not comparable."""
    source, _, name = model.architecture.partition(":")
    if (model.checkpoint or "").startswith(RANDOM) or model.input_size is not None:
        return None
    return name if source == "idsds" or (source in ("torchvision", "attrlib") and tuned and model.checkpoint) else None


def values_of_the_paper() -> Iterator[tuple[str, str, float]]:
    """Yield model, method and mean of each value that the paper reports on the 50,000 validation images of ImageNet."""
    for method, values in _ROWS.items():
        yield from ((model, method, value) for model, value in zip(_MODELS, values, strict=False))
    yield from ((model, method, value) for (method, model), value in _OWN.items())
