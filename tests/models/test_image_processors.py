"""The preprocessing of a folder against the image processor that it describes."""

import json
from pathlib import Path
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support.hub_models import saved

from attrlib.errors import ModelError

SIDES = [(90, 90), (97, 140), (150, 91), (40, 33)]
"""Widths and heights of pictures: square, wide, tall, and smaller than the input."""
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViT", dict(size={"height": 32, "width": 32})),
    "ViT of a flat size": ("ViT", dict(size=32, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])),
    "ViT of a rectangle": ("ViT", dict(size={"height": 32, "width": 48})),
    "ViT without normalisation": ("ViT", dict(size=32, do_normalize=False)),
    "ViT in [0,255]": ("ViT", dict(size=32, do_rescale=False, image_mean=[120, 110, 100], image_std=[60, 50, 40])),
    "ViT of another factor": ("ViT", dict(size=32, rescale_factor=1 / 127.5)),
    "ViT, bicubic": ("ViT", dict(size=32, resample=3)),
    "ViT, nearest": ("ViT", dict(size=32, resample=0)),
    "DeiT": ("DeiT", dict(size={"height": 37, "width": 37}, crop_size={"height": 32, "width": 32})),
    "DeiT without crop": ("DeiT", dict(size={"height": 32, "width": 32}, do_center_crop=False)),
    "BEiT": ("Beit", dict(size=32)),
    "BEiT, cropped": ("Beit", dict(size=36, crop_size=32, do_center_crop=True)),
    "Bit": ("Bit", dict(size={"shortest_edge": 36}, crop_size=32)),
    "Bit without margin": ("Bit", dict(size={"shortest_edge": 32}, crop_size=32)),
    "CLIP": ("CLIP", dict(size=36, crop_size=32)),
    "SigLIP": ("Siglip", dict(size={"height": 32, "width": 32})),
    "ConvNeXt below 384": ("ConvNext", dict(size={"shortest_edge": 64}, crop_pct=0.8)),
    "ConvNeXt of a flat size": ("ConvNext", dict(size=64)),
    "ConvNeXt from 384": ("ConvNext", dict(size={"shortest_edge": 384})),
    "LeViT": ("Levit", dict(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})),
    "PVT": ("Pvt", dict(size=64)),
    "SegFormer": ("Segformer", dict(size=64)),
    "PoolFormer": ("PoolFormer", dict(size={"shortest_edge": 64}, crop_size=64, crop_pct=0.9)),
    "MobileNetV1": ("MobileNetV1", dict(size={"shortest_edge": 72}, crop_size=64)),
    "MobileNetV2": ("MobileNetV2", dict(size={"shortest_edge": 72}, crop_size=64)),
    "MobileViT": ("MobileViT", dict(size={"shortest_edge": 72}, crop_size=64)),
    "MobileViT, padded": ("MobileViT", dict(size={"shortest_edge": 56}, crop_size=64)),
    "EfficientNet": ("EfficientNet", dict(size={"height": 64, "width": 64})),
    "EfficientNet, offset": ("EfficientNet", dict(size=64, rescale_offset=True, rescale_factor=1 / 127.5, include_top=False)),
    "EfficientNet, cropped": ("EfficientNet", dict(size=70, crop_size=64, do_center_crop=True, resample=0)),
}
MODELS = {"ConvNext": "ConvNeXt", "Levit": "LeViT", "Pvt": "PVT", "Segformer": "SegFormer", "PoolFormer": "ConvNeXt", "MobileNetV1": "ResNet",
          "MobileNetV2": "ResNet", "MobileViT": "MobileViT", "EfficientNet": "EfficientNet"}  # fmt: skip
"""The model in whose folder a processor is saved, ViT by default: one that takes the size."""


def photo(width: int, height: int) -> Image.Image:
    """Smooth structure, so that a shift by a pixel shows and a grey level of rounding does not."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 7 + c) * np.cos(y / 9 - c) for c in range(3)]
    return Image.fromarray(np.uint8(127 + 120 * np.stack(waves, -1)))


def load(folder: Path) -> attrlib.Classifier:
    return attrlib.load_model(f"hf:{folder}", device="cpu")


def write(folder: Path, processor: str, values: dict[str, Any]) -> Path:
    named = f"{processor}ImageProcessor"
    return saved(folder, MODELS.get(processor, "ViT"), dict(image_processor_type=named) | values)


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
@pytest.mark.parametrize("case", PROCESSORS)
def test_pictures_are_prepared_as_by_the_processor(case: str, backend: str, tmp_path: Path) -> None:
    """Equal to a processor that uses Pillow, as attrlib does; within two grey levels to one that uses torchvision.

    Both resize along one axis, round to whole levels, and resize along the other, each with sums of its own. The nearest neighbours
    that they choose differ by a pixel, so these are compared with Pillow's alone.
    """
    model = load(write(tmp_path, *PROCESSORS[case]))
    assert model.notes == ()
    if backend == "torchvision" and model.preprocessing.interpolation == "nearest":
        pytest.skip("torchvision chooses other nearest neighbours")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    level = 1 / 255 / min(model.preprocessing.std)
    for sides in SIDES:
        picture = photo(*sides)
        expected = torch.as_tensor(np.asarray(processor(picture, return_tensors="pt")["pixel_values"]))[0]
        found = model.preprocess(picture)
        assert found.shape == expected.shape
        difference = centred(found, expected.flip(0) if case.startswith("MobileViT") else expected)
        assert difference <= (2.01 if backend == "torchvision" else 0.01) * level


def centred(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, at the better of the two centres that an odd margin has: transformers rounds it down, torchvision to even."""
    shifts = [(y, x) for y in (0, 1) for x in (0, 1)]
    height, width = found.shape[1:]
    return min((found[:, : height - y, : width - x] - expected[:, y:, x:]).abs().max().item() for y, x in shifts)


@pytest.mark.parametrize("name", ["ViTFeatureExtractor", "ViTImageProcessorFast", "ViTImageProcessorPil"])
def test_older_names_of_processors_are_known(name: str, tmp_path: Path) -> None:
    key = "feature_extractor_type" if "Extractor" in name else "image_processor_type"
    assert load(saved(tmp_path, "ViT", {key: name, "size": 32})).preprocessing.fit == "squash"


def test_without_a_file_the_defaults_of_the_family_are_assumed_and_said(tmp_path: Path) -> None:
    model = load(saved(tmp_path))
    assert model.preprocessing == attrlib.models.Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "squash")
    (note,) = model.notes
    assert note.endswith(
        "has no preprocessor_config.json: pictures are prepared as ViTImageProcessor does by default, at 32 x 32 px with mean 0.5/0.5/0.5 and std 0.5/0.5/0.5"
    )


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (dict(image_processor_type="BitImageProcessor", size={"shortest_edge": 32}, do_center_crop=False), "keeps the whole of a picture"),
        (
            dict(image_processor_type="BitImageProcessor", size={"shortest_edge": 40}, crop_size={"height": 32, "width": 40}),
            "in the shape 32 x 40",
        ),
        (dict(image_processor_type="ViTImageProcessor", do_resize=False), "does not resize pictures to one size"),
        (dict(image_processor_type="ViTImageProcessor", size=32, resample=5), "resample=5, which is not available"),
        (dict(image_processor_type="DeiTImageProcessor", size={"height": 40, "width": 50}, crop_size=32), "reproduced in its height only"),
        (dict(image_processor_type="TextNetImageProcessor", size={"height": 32, "width": 32}), "may preprocess pictures in another way"),
        (dict(image_processor_type="ViTImageProcessor", size=32, do_pad=True), "padding of ViTImageProcessor is left out"),
    ],
)
def test_what_cannot_be_reproduced_is_said(values: dict[str, Any], note: str, tmp_path: Path) -> None:
    assert note in " ".join(load(saved(tmp_path, "ViT", values)).notes)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (dict(image_processor_type="EvilProcessor"), "no image processor 'EvilProcessor'"),
        (dict(image_processor_type="pipeline"), "no image processor 'pipeline'"),
        (dict(image_processor_type="ViTImageProcessor", size="large"), "not valid"),
        (dict(image_processor_type="ViTImageProcessor", size=100_000), "100000"),
        (dict(image_processor_type="ViTImageProcessor", size=32, image_std=[0, 0, 0]), "std"),
        (dict(image_processor_type="ViTImageProcessor", size=32, image_mean=[0.5, 0.5]), "mean and std"),
    ],
)
def test_a_file_that_is_not_valid_is_refused(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=reason) as error:
        load(saved(tmp_path, "ViT", values))
    assert "preprocessor_config.json" in str(error.value)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    for text in ("{", "[1]", json.dumps("x")):
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(ModelError, match=r"preprocessor_config\.json in .* cannot be read"):
            load(tmp_path)
