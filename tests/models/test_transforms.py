"""A preprocessing read from a torchvision transform has the transform's pixels; the transform itself is the oracle."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.models
from PIL import Image
from support.nets import CLASSES, Plain, made
from torch import nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import transforms as v1

import attrlib
from attrlib.data.samples import open_sample
from attrlib.errors import ModelError
from attrlib.models.preprocessing import Preprocessing
from attrlib.models.transforms import from_transform

LEVEL = 1 / 255
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
TO_FLOAT = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
BICUBIC, LANCZOS, NEAREST = InterpolationMode.BICUBIC, InterpolationMode.LANCZOS, InterpolationMode.NEAREST


def photos() -> list[Image.Image]:
    cat = open_sample("cat").image
    return [cat, cat.transpose(Image.Transpose.ROTATE_90), cat.crop((0, 0, 101, 57)), cat.crop((10, 20, 60, 221))]


EXACT: dict[str, Callable[[], object]] = {
    "v1 classic": lambda: v1.Compose([v1.Resize(73), v1.CenterCrop(64), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    "v1 bicubic": lambda: v1.Compose([v1.Resize(80, BICUBIC), v1.CenterCrop(64), v1.ToTensor()]),
    "v1 lanczos": lambda: v1.Compose([v1.Resize((70, 90), LANCZOS), v1.CenterCrop((56, 72)), v1.ToTensor()]),
    "v1 nearest": lambda: v1.Compose([v1.Resize((70, 90), NEAREST), v1.ToTensor()]),
    "v1 squash": lambda: v1.Compose([v1.Resize((48, 80)), v1.ToTensor(), v1.Normalize((0.5,) * 3, (0.5,) * 3)]),
    "v1 crop that needs a border": lambda: v1.Compose([v1.Resize(50), v1.CenterCrop(64), v1.ToTensor()]),
    "v1 odd": lambda: v1.Compose([v1.Resize(97), v1.CenterCrop(61), v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)]),
    "v2 PIL": lambda: v2.Compose([v2.RGB(), v2.Resize([73]), v2.CenterCrop([64]), TO_FLOAT, v2.Normalize(MEAN, STD)]),
    "v2 of numbers to 255": lambda: v2.Compose(
        [v2.Resize((64, 64)), v2.ToImage(), v2.ToDtype(torch.float32), v2.Normalize([100, 110, 120], [50, 60, 70])]
    ),
    "v2 float tensors": lambda: v2.Compose([TO_FLOAT, v2.Resize(73, antialias=True), v2.CenterCrop(64), v2.Normalize(MEAN, STD)]),
    "v2 bicubic float tensors": lambda: v2.Compose([TO_FLOAT, v2.Resize((64, 48), BICUBIC), v2.Normalize(MEAN, STD)]),
    "v1 float tensors": lambda: v1.Compose([v1.ToTensor(), v1.Resize(73, antialias=True), v1.CenterCrop(64)]),
    "preset": lambda: torchvision.models.ResNet18_Weights.DEFAULT.transforms(),
    "preset of another size": lambda: torchvision.models.EfficientNet_B3_Weights.DEFAULT.transforms(),
    "grey first": lambda: v1.Compose([v1.Grayscale(), v1.Resize(73), v1.CenterCrop(64), v1.ToTensor(), v1.Normalize((0.4,), (0.2,))]),
    "grey last": lambda: v1.Compose([v1.Resize(73), v1.CenterCrop(64), v1.Grayscale(), v1.ToTensor()]),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_pixels_are_those_of_the_transform(name: str) -> None:
    transform = EXACT[name]()
    preprocessing = from_transform(transform)
    for photo in photos():
        expected = transform(photo)
        found = preprocessing(photo)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 2e-5


@pytest.mark.parametrize("mode", [InterpolationMode.BILINEAR, BICUBIC])
def test_8_bit_tensors_are_resized_up_to_two_levels(mode: InterpolationMode) -> None:
    transform = v2.Compose([v2.ToImage(), v2.Resize(73, mode), v2.CenterCrop(64), v2.ToDtype(torch.float32, scale=True)])
    for photo in photos():
        gap = (from_transform(transform)(photo) - transform(photo)).abs()
        assert gap.max() < 2.01 * LEVEL
        assert (gap > 1e-6).float().mean() < 0.02


@pytest.mark.parametrize("short", range(40, 120, 7))
@pytest.mark.parametrize("side", [33, 64])
def test_every_size_is_met_exactly(short: int, side: int) -> None:
    transform = v1.Compose([v1.Resize(short), v1.CenterCrop(side), v1.ToTensor()])
    if not 0.1 <= side / short <= 2:
        return
    for photo in photos():
        assert (from_transform(transform)(photo) - transform(photo)).abs().max() < 2e-5


REFUSED = {
    "RandomHorizontalFlip": [v1.RandomHorizontalFlip(), v1.ToTensor()],
    "RandomResizedCrop": [v1.RandomResizedCrop(64), v1.ToTensor()],
    "Lambda": [v1.Resize(64), v1.ToTensor(), v1.Lambda(lambda x: x)],
    "Pad": [v1.Pad(4), v1.ToTensor()],
    "Resize of a tensor without antialiasing": [v1.ToTensor(), v1.Resize((64, 64), antialias=False)],
    "Resize with max_size=90": [v1.Resize(64, max_size=90), v1.ToTensor()],
    "Resize comes after another": [v1.Resize(64), v1.Resize(32), v1.CenterCrop(32), v1.ToTensor()],
    "Resize comes after another Resize or CenterCrop": [v1.CenterCrop(90), v1.Resize(32), v1.ToTensor()],
    "Grayscale of a tensor": [v1.Resize((64, 64)), v1.Grayscale(3), v1.ToTensor()],
    "ToDtype to torch.float16": [v2.Resize((64, 64)), v2.ToImage(), v2.ToDtype(torch.float16, scale=True)],
    "Normalize comes before": [v2.Resize((64, 64)), v2.ToImage(), v2.Normalize(MEAN, STD)],
    "does not end in a tensor of floats": [v1.Resize((64, 64)), v1.PILToTensor()],
    r"Resize\(64\) alone keeps the shape": [v1.Resize(64), v1.ToTensor()],
    "has no Resize": [v1.ToTensor()],
    "without a Resize before it": [v1.CenterCrop(64), v1.ToTensor()],
    "Resize with CenterCrop": [v1.Resize(64), v1.CenterCrop((60, 40)), v1.ToTensor()],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_repeated_is_refused_by_name(reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        from_transform(v1.Compose(REFUSED[reason]))


def test_a_transform_of_pictures_of_one_size_takes_the_size() -> None:
    transform = v1.Compose([v1.ToTensor(), v1.Normalize((0.5,), (0.25,))])
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8))
    assert torch.allclose(from_transform(transform, (28, 28), 3)(photo), transform(photo))
    assert torch.allclose(from_transform(transform, (28, 28), 1)(photo), transform(photo.convert("L")))
    resized = v1.Compose([v1.Resize(32), transform])
    assert torch.allclose(from_transform(resized, (32, 32), 3)(photo), resized(photo))


def test_wrap_model_takes_a_transform() -> None:
    transform = EXACT["v1 classic"]()
    model = attrlib.wrap_model(made(Plain), transform=transform)
    photo = photos()[0]
    assert model.input_size == (64, 64)
    assert (model.preprocess(photo) - transform(photo)).abs().max() < 2e-5
    assert model.digest == attrlib.wrap_model(made(Plain), 64, MEAN, STD, crop=64 / 73).digest


def test_wrap_model_finds_the_channels_of_a_normalize_with_one_number() -> None:
    transform = v1.Compose([v1.ToTensor(), v1.Normalize((0.5,), (0.5,))])
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    assert attrlib.wrap_model(made(Plain), 32, transform=transform).channels == 3
    assert attrlib.wrap_model(grey, 32, transform=transform).channels == 1


def test_a_transform_and_its_parts_contradict() -> None:
    for options, reason in ((dict(mean=MEAN), "mean"), (dict(crop=1.0, fit="squash"), "crop and fit")):
        with pytest.raises(ModelError, match=f"transform and {reason} are both given"):
            attrlib.wrap_model(made(Plain), transform=EXACT["v1 classic"](), **options)
    with pytest.raises(ModelError, match=r"input_size=\(32, 32\) contradicts the transform, which gives \(64, 64\)"):
        attrlib.wrap_model(made(Plain), 32, transform=EXACT["v1 classic"]())
    with pytest.raises(ModelError, match="input_size is missing: give one number of pixels"):
        attrlib.wrap_model(made(Plain))


def test_the_digest_of_old_values_is_unchanged() -> None:
    from attrlib.specs.digest import canonical

    old = '{"crop":0.875,"fit":"centre","interpolation":"bilinear","mean":[0.485,0.456,0.406],"size":[64,64],"std":[0.229,0.224,0.225]}'
    assert canonical(Preprocessing((64, 64))) == old
    assert canonical(Preprocessing((64, 64), bands_shown=(2, 1, 0))) == old
    for changed in (dict(white=4095), dict(grey="after"), dict(resized_as="float32")):
        name, value = next(iter(changed.items()))
        assert f'"{name}":' in canonical(Preprocessing((64, 64), **changed))
        assert str(value) in canonical(Preprocessing((64, 64), **changed))
