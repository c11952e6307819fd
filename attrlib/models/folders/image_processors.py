"""Translate an image processor of transformers into a `Preprocessing`, without running it on pictures."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from attrlib.errors import AttrlibError, ModelError, reason_of
from attrlib.models.preprocessing import Preprocessing
from attrlib.specs import Size, check_size

FILE = "preprocessor_config.json"
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_KNOWN = {
    f"{family}ImageProcessor"
    for family in (
        "Beit", "Bit", "CLIP", "ConvNext", "DeiT", "EfficientNet", "Levit", "MobileNetV1", "MobileNetV2", "MobileViT", "PoolFormer", "Pvt",
        "Segformer", "Siglip", "ViT",
    )
}  # fmt: skip
"""The image processors whose resizing and cropping is known; the tests compare each with the processor itself."""
_COMPARE = "compare model.preprocess(picture) with the processor"
_WHOLE = 384
"""Size in pixels from which `ConvNextImageProcessor` squashes the whole picture instead of cropping its centre."""


@dataclass(frozen=True)
class Processing:
    """What an image processor does.

    Attributes:
        preprocessing: Resizing, cropping, and normalisation of colours in [0,1].
        reverses_channels: Whether the model gets blue, green, red instead of red, green, blue.
        notes: What was assumed, or cannot be reproduced.
    """

    preprocessing: Preprocessing
    reverses_channels: bool = False
    notes: tuple[str, ...] = ()


def processing_of(transformers: Any, values: Mapping[str, Any] | None, config: Any, name: str) -> Processing:
    """Return what the image processor of a folder does.

    Args:
        transformers: The package.
        values: Content of preprocessor_config.json. Without it, the defaults of the model's family at the input size of the model apply,
            and a note says so.
        config: Config of the model.
        name: Name of the model, for messages.

    Raises:
        ModelError: The values are not valid, or no processor is known for the model.
    """
    try:
        if values is None:
            return _default(transformers, config, name)
        found = _class_of(transformers, values.get("image_processor_type") or values.get("feature_extractor_type"), config)
        if found is None:
            raise ModelError("it names no image processor; name one of transformers as image_processor_type")
        return _translate(found(**{key: value for key, value in values.items() if key != "auto_map"}), config)
    except AttrlibError as error:
        raise ModelError(f"the {FILE} of {name} is not valid: {error}") from None
    except Exception as error:  # noqa: BLE001  processors validate their values in many ways
        raise ModelError(f"the {FILE} of {name} is not valid ({reason_of(error)}); save the image processor again") from None


def _default(transformers: Any, config: Any, name: str) -> Processing:
    """Return what the processor of the model's family does by default, at the input size that the config names."""
    found, trained = _class_of(transformers, None, config), trained_size(config)
    if found is None:
        processing, kind = Processing(Preprocessing(trained or (224, 224))), "attrlib"
    else:
        processor, kind = found(), _family(found.__name__)
        usual = _translate(processor, config).preprocessing.size
        if trained and trained != usual:
            share = min(trained) / min(usual)
            sizes = {
                key: {side: round(pixels * share) for side, pixels in dict(size).items() if pixels}
                for key in ("size", "crop_size")
                if (size := getattr(processor, key, None))
            }
            processor = found(**sizes)
        processing = _translate(processor, config)
    preprocessing = processing.preprocessing
    if trained:
        preprocessing = replace(preprocessing, size=trained)
    mean, std = ("/".join(f"{x:.3g}" for x in numbers) for numbers in (preprocessing.mean, preprocessing.std))
    note = f"{name} has no {FILE}: pictures are prepared as {kind} does by default, at {_px(preprocessing.size)} with mean {mean} and std {std}"
    return replace(processing, preprocessing=preprocessing, notes=(note, *processing.notes))


def _family(name: str) -> str:
    """Return the name of a processor without the marks of its implementation (`ViTImageProcessorFast`, `ViTFeatureExtractor`)."""
    return name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")


def _class_of(transformers: Any, named: object, config: Any) -> Any:
    """Return the class of this name, or by default that of the model's family, None if it has none."""
    if named is None:
        listed = transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type)
        named = (listed.get("torchvision") or listed.get("pil")) if isinstance(listed, Mapping) else listed
        if named is None:
            return None
    found = getattr(transformers, _family(str(named)), None)
    if not (inspect.isclass(found) and issubclass(found, transformers.image_processing_utils.BaseImageProcessor)):
        raise ModelError(f"transformers has no image processor {str(named)[:80]!r}; name one of transformers as image_processor_type")
    return found


def _vision(config: Any) -> Any:
    """Return the config of the vision part, which CLIP and others have beside one of text."""
    return getattr(config, "vision_config", None) or config


def trained_size(config: Any) -> Size | None:
    """Return height and width in pixels of the images for which a model has position embeddings, None if its config names none."""
    size = getattr(_vision(config), "image_size", None)
    return None if size is None else check_size(tuple(size) if isinstance(size, list) else size)


def _translate(processor: Any, config: Any) -> Processing:
    family = _family(type(processor).__name__)
    size, crop, fit, notes = _geometry(_steps(processor, family), family, trained_size(config))
    if family not in _KNOWN:
        notes.append(f"{family} may preprocess pictures in another way, which is not reproduced; {_COMPARE}")
    if getattr(processor, "do_pad", None):
        notes.append(f"the padding of {family} is left out; {_COMPARE}")
    # torchvision's own default is bilinear.
    resample = 2 if processor.resample is None else int(processor.resample)
    if resample not in _RESAMPLING:
        notes.append(f"{family} resizes with resample={resample}, which is not available; bicubic is used instead")
    mean, std = _normalisation(processor, family, getattr(_vision(config), "num_channels", 3))
    preprocessing = Preprocessing(size, mean, std, _RESAMPLING.get(resample, "bicubic"), crop, fit)
    return Processing(preprocessing, bool(getattr(processor, "do_flip_channel_order", False)), tuple(notes))


@dataclass(frozen=True)
class _Steps:
    """How pictures get their size: the shortest edge or the whole is resized, then the centre is cropped; None for no such step."""

    shortest: int | None = None
    whole: Size | None = None
    window: Size | None = None


def _steps(processor: Any, family: str) -> _Steps:
    wanted = {key: value for key, value in dict(processor.size or {}).items() if value} if processor.do_resize else {}
    shortest = wanted.get("shortest_edge") if wanted.keys() == {"shortest_edge"} else None
    whole = (wanted["height"], wanted["width"]) if wanted.keys() == {"height", "width"} else None
    window = (processor.crop_size["height"], processor.crop_size["width"]) if processor.do_center_crop and processor.crop_size else None
    if family == "ConvNextImageProcessor" and shortest:
        if shortest >= _WHOLE:
            return _Steps(None, (shortest, shortest), window)
        return _Steps(int(shortest / processor.crop_pct), None, window or (shortest, shortest))
    if family == "LevitImageProcessor" and shortest:
        return _Steps(int(256 / 224 * shortest), None, window)
    if family == "PoolFormerImageProcessor" and processor.crop_pct is not None and (shortest or (whole and whole[0] == whole[1])):
        return _Steps(int((shortest or whole[0]) / processor.crop_pct), None, window)  # type: ignore[index]
    return _Steps(shortest, whole, window)


def _geometry(steps: _Steps, family: str, trained: Size | None) -> tuple[Size, float, str, list[str]]:
    """Return size, crop and fit of the preprocessing, and notes of what they do not reproduce."""
    if steps.whole:
        resized = check_size(steps.whole)
        size = check_size(steps.window or resized)
        crop = _crop(size[0], resized[0])
        exact = math.floor(size[1] / crop) == resized[1]
        note = f"{family} crops {_px(size)} of {_px(resized)}, which is reproduced in its height only; {_COMPARE}"
        return size, crop, "squash", [] if exact else [note]
    if steps.shortest:
        size = check_size(steps.window or (steps.shortest, steps.shortest))
        notes = []
        if steps.window is None:
            notes.append(f"{family} keeps the whole of a picture that is not square; here its centre is cropped to {_px(size)}")
        elif size[0] != size[1]:
            notes.append(
                f"{family} resizes the shortest edge to {steps.shortest} px, here pictures are resized in the shape {_px(size)}; {_COMPARE}"
            )
        return size, _crop(min(size), steps.shortest), "centre", notes
    size = steps.window or trained  # type: ignore[assignment]
    if size is None:
        raise ModelError("it names no size that every picture gets; set size, or crop_size and do_center_crop")
    return check_size(size), 1.0, "centre", [f"{family} does not resize pictures to one size; here they are resized to cover {_px(size)}"]


def _px(size: Size) -> str:
    return f"{size[0]} x {size[1]} px"


def _crop(window: int, resized: int) -> float:
    """Return the crop with which `Preprocessing` resizes to exactly this length in pixels."""
    crop = window / resized
    return crop if math.floor(window / crop) == resized else math.nextafter(crop, 0)


def _normalisation(processor: Any, family: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for colours in [0,1]: the processor normalises v * scale - offset by its own."""
    scale = 255 * float(processor.rescale_factor) if processor.do_rescale else 255.0
    # 255 * 0.00392156862745098 is not quite 1.
    scale = 1.0 if math.isclose(scale, 1, rel_tol=1e-6) else scale
    offset = 1.0 if processor.do_rescale and getattr(processor, "rescale_offset", False) else 0.0
    # MobileViT's processor has the settings of a normalisation, but no such step.
    normalises = processor.do_normalize and family != "MobileViTImageProcessor"
    mean = _numbers(processor.image_mean if normalises else 0.0, channels)
    std = _numbers(processor.image_std if normalises else 1.0, channels)
    again = _numbers(processor.image_std if getattr(processor, "include_top", False) else 1.0, channels)
    return tuple((m + offset) / scale for m in mean), tuple(s * t / scale for s, t in zip(std, again, strict=True))


def _numbers(values: Any, channels: int) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, list | tuple) else (float(values),) * channels
