"""Models of any number of channels, and what they see of pictures of other bands."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image
from support.nets import CLASSES, SIZE, Plain, made, pictures
from torch import nn

import attrlib
from attrlib.bands import Bands
from attrlib.data.datasets import load_dataset
from attrlib.data.images import open_photo
from attrlib.errors import ImageError, ModelError
from attrlib.models.cards import Card
from attrlib.models.preprocessing import Preprocessing
from attrlib.training.loader import TrainLoader
from attrlib.training.recipe import Recipe

HALF = (0.5,)


def random(bands: int, kind: str = "uint16", height: int = 50, width: int = 70) -> np.ndarray:
    rng = np.random.default_rng(bands)
    shape = (height, width, bands)
    return rng.random(shape, dtype=np.float32) if kind == "float32" else rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def preprocessing(channels: int, **options: object) -> Preprocessing:
    mean, std = (tuple(start + 0.01 * k for k in range(channels)) for start in (0.3, 0.2))
    return Preprocessing((32, 32), mean, std, **options)


def expected(values: np.ndarray, used: Preprocessing) -> torch.Tensor:
    """The input by torchvision: resized in float32, cropped, normalised. `values` are in [0,1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 2, 0)))
    mode = getattr(tv.InterpolationMode, used.interpolation.upper())
    resized = tv.resize(tensor, [int(32 / used.crop)], interpolation=mode, antialias=True)
    return tv.normalize(tv.center_crop(resized, [32, 32]), list(used.mean), list(used.std))


# Bands


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [1.0, 0.8])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [2, 4, 12])
def test_every_band_is_resized_and_normalised_as_torchvision_does(bands: int, kind: str, crop: float, interpolation: str) -> None:
    used, values = preprocessing(bands, crop=crop, interpolation=interpolation), random(bands, kind)
    scaled = values if kind == "float32" else (values / np.iinfo(kind).max).astype(np.float32)
    found = used(open_photo(values))
    assert found.shape == (bands, 32, 32)
    assert (found - expected(scaled, used)).abs().max() < 5e-5


@pytest.mark.parametrize("bands", [1, 3])
def test_16_bits_reach_the_network_without_rounding_to_8(bands: int) -> None:
    used, values = preprocessing(bands, crop=1.0), random(bands) // 64 + 1000
    found = used(open_photo(values))
    assert (found - expected((values / 65535).astype(np.float32), used)).abs().max() < 5e-5
    white = preprocessing(bands)(open_photo(np.full((40, 40, bands), 65535, np.uint16)))
    assert torch.allclose(preprocessing(bands).denormalise(white), torch.ones(bands, 32, 32), atol=1e-6)


def test_white_scales_16_bits_and_floats() -> None:
    values = random(1) // 16
    used = preprocessing(1, white=4095.0, crop=1.0)
    assert (used(open_photo(values)) - expected((values / 4095).astype(np.float32), used)).abs().max() < 5e-5
    floats = values.astype(np.float32)
    assert (used(open_photo(floats)) - expected(floats / 4095, used)).abs().max() < 5e-5
    with pytest.raises(ImageError, match=r"picture has values from 0 to 4\d+, whose scale is not known; give the preprocessing white="):
        preprocessing(1)(open_photo(floats))
    eight = random(1, "uint8")
    assert torch.equal(used(open_photo(eight)), preprocessing(1, crop=1.0)(open_photo(eight)))


# Grey and colours


def test_a_grey_model_sees_colours_as_the_mode_l_of_pillow() -> None:
    image, used = Image.fromarray(random(3, "uint8")), preprocessing(1, crop=1.0)
    grey = image.convert("L")
    levels = np.asarray(grey.resize((44, 32), Image.Resampling.BILINEAR)).astype(np.float32)
    found = used(image)
    assert found.shape == (1, 32, 32)
    assert np.abs(used.denormalise(found)[0].numpy() * 255 - levels[:, 6:38]).max() < 1e-3
    assert torch.equal(found, used(grey))


def test_colours_of_16_bits_become_grey_with_the_weights_of_bt_601() -> None:
    values, used = random(3), preprocessing(1, crop=1.0)
    grey = (values / 65535) @ np.array([0.299, 0.587, 0.114])
    assert (used(open_photo(values)) - expected(grey[..., None].astype(np.float32), used)).abs().max() < 5e-5


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_a_model_of_colours_sees_grey_three_times(kind: str) -> None:
    grey = random(1, kind)
    used = Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3)
    found = used(open_photo(grey))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found, used(open_photo(np.repeat(grey, 3, axis=2))))


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_opacity_is_a_band_for_four_channels_and_white_below_for_three(kind: str) -> None:
    values = random(4, kind)
    shares = (values / np.iinfo(kind).max).astype(np.float32)
    photo = open_photo(Image.fromarray(values)) if kind == "uint8" else None
    bands = photo or Bands(values, alpha=True)
    four, three = preprocessing(4, crop=1.0), preprocessing(3, crop=1.0)
    assert (four(bands) - expected(shares, four)).abs().max() < 5e-5
    white = shares[..., :3] * shares[..., 3:] + 1 - shares[..., 3:]
    assert (three.denormalise(three(bands)) - three.denormalise(expected(white, three))).abs().max() < (
        1.5 / 255 if kind == "uint8" else 1e-5
    )


@pytest.mark.parametrize(
    ("bands", "channels", "reason"),
    [
        (3, 4, "is grey or RGB, but the model reads 4 channels; give pictures of that many bands"),
        (1, 4, "is grey or RGB, but the model reads 4 channels"),
        (12, 3, "has 12 bands, but the model reads 3 channels"),
        (2, 1, "has 2 bands, but the model reads one channel"),
        (4, 12, "has 4 bands, but the model reads 12 channels"),
    ],
)
def test_a_mismatch_names_both_numbers(bands: int, channels: int, reason: str) -> None:
    with pytest.raises(ImageError, match=f"x.tif {reason}"):
        preprocessing(channels)(open_photo(random(bands, "uint8"), "x.tif"))


# What is shown


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
@pytest.mark.parametrize("shown", [None, (0,), (1, 0, 1)])
def test_the_view_shows_the_chosen_channels_of_the_input(channels: int, shown: tuple[int, ...] | None) -> None:
    if shown and max(shown) >= channels:
        return
    used = preprocessing(channels, bands_shown=shown)
    photo = open_photo(random(channels))
    seen = used.denormalise(used(photo)).clamp(0, 1)
    bands = shown or ((0, 1, 2) if channels > 2 else (0,))
    view = used.view(photo)
    assert (view.mode, view.size) == ("RGB", (32, 32))
    wanted = (255 * seen[list(bands)]).expand(3, -1, -1).permute(1, 2, 0)
    assert np.abs(np.asarray(view) - wanted.numpy()).max() <= 0.51
    assert torch.allclose(255 * used.shown(used(photo)).permute(1, 2, 0), wanted, atol=1e-3)
    assert used.view(photo, scale=2).size == (64, 64)


def test_a_grey_model_s_input_is_shown_grey() -> None:
    view = np.asarray(preprocessing(1).view(Image.fromarray(random(3, "uint8"))))
    assert (view == view[..., :1]).all()


@pytest.mark.parametrize("fit", ["centre", "squash", "border"])
@pytest.mark.parametrize("channels", [1, 4])
def test_masks_and_bands_are_placed_alike(channels: int, fit: str) -> None:
    used = Preprocessing((32, 32), (0.0,) * channels, (1.0,) * channels, "nearest", fit=fit)
    mask = random(1, "uint8")[..., 0] > 127
    seen = used(open_photo(np.repeat(mask[..., None], channels, axis=2).astype(np.float32)))
    assert torch.equal(seen.amax(0) > 0, used.mask(mask, (70, 50)))


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 4, 12])
def test_a_border_has_the_mean_of_each_channel(channels: int, kind: str) -> None:
    used = preprocessing(channels, fit="border", crop=1.0)
    found = used(open_photo(random(channels, kind, 30, 60)))
    # The means of 8-bit grey are rounded to a level.
    rounding = 0.51 / 255 / min(used.std)
    assert found[:, :8].abs().max() < rounding
    assert found[:, 24:].abs().max() < rounding
    assert found[:, 8:24].abs().mean() > 0.3


# Models


class Reading(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.later = nn.Conv2d(6, 8, 3)
        self.first = nn.Conv2d(channels, 6, 3)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.later(self.first(x)).mean((2, 3)))


def chain(channels: int) -> nn.Module:
    return made(lambda: nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)))


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_the_channels_of_a_module_are_used_and_the_assumption_is_noted(channels: int) -> None:
    module = chain(channels)
    model = attrlib.wrap_model(module, SIZE)
    assert (model.channels, model.preprocessing.mean, model.preprocessing.std) == (channels, HALF * channels, HALF * channels)
    assert len(model.notes) == 1
    assert "mean and std are assumed to be 0.5" in model.notes[0]
    given = attrlib.wrap_model(module, SIZE, HALF * channels, HALF * channels)
    assert given.notes == ()
    assert given.digest == model.digest
    images = pictures(2)[:, :1].expand(-1, channels, -1, -1)
    assert torch.allclose(model(images), module(images), atol=1e-5)


def test_a_module_that_reads_three_channels_is_taken_for_rgb_whatever_is_declared_first() -> None:
    model = attrlib.wrap_model(made(lambda: Reading(3)), SIZE)
    assert (model.channels, model.notes) == (3, ())


def test_a_grey_perceptron_is_recognised() -> None:
    model = attrlib.wrap_model(made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, CLASSES))), SIZE)
    assert model.channels == 1


def test_channels_are_found_by_trial_where_another_convolution_was_assigned_first() -> None:
    model = attrlib.wrap_model(made(lambda: Reading(4)), SIZE)
    assert model.channels == 4
    assert "the model reads 4 channels" in model.notes[0]


class Pooled(nn.Module):
    """Takes images of two channels, and of four."""

    def __init__(self) -> None:
        super().__init__()
        self.two, self.four = nn.Conv2d(2, 4, 1), nn.Conv2d(4, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.four(x if x.shape[1] == 4 else self.two(x)).mean((2, 3))


def test_an_ambiguous_module_is_refused() -> None:
    with pytest.raises(ModelError, match="takes images of 2 and 4 channels; give mean and std with one number for each channel"):
        attrlib.wrap_model(made(Pooled), SIZE)
    assert attrlib.wrap_model(made(Pooled), SIZE, HALF * 4, HALF * 4).channels == 4


def test_a_module_of_rgb_that_fails_for_another_reason_is_not_taken_for_other_channels() -> None:
    module = made(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(7, CLASSES)))
    with pytest.raises(ModelError, match=r"on an image of 3 x"):
        attrlib.wrap_model(module, SIZE)


@pytest.mark.parametrize(
    ("mean", "std", "reason"),
    [
        ((0.5,), (0.5,) * 3, "mean and std have 1 and 3 numbers; give one number for each channel in both"),
        ((), (), "give one number for each channel"),
        ((0.5,), (0.0,), "std above 0"),
        (0.5, 0.5, r"mean=0.5 is not valid: give one number for each channel, as in \(0.5,\)"),
    ],
)
def test_wrong_means_are_refused(mean: object, std: object, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        attrlib.wrap_model(made(Plain), SIZE, mean, std)


def test_lists_and_arrays_are_means() -> None:
    a, b = (attrlib.wrap_model(made(Plain), SIZE, m, m) for m in ([0.5] * 3, np.full(3, 0.5)))
    assert a.digest == b.digest == attrlib.wrap_model(made(Plain), SIZE, HALF * 3, HALF * 3).digest


def test_a_tensor_of_other_channels_is_refused_with_the_shape_to_give() -> None:
    model = attrlib.wrap_model(chain(4), SIZE)
    with pytest.raises(ImageError, match=r"pass a normalised tensor \(B,4,H,W\)"):
        attrlib.explain(model, pictures(1), "IxG")


def test_explain_takes_arrays_and_files_of_bands(tmp_path: Path) -> None:
    model = attrlib.wrap_model(chain(4), SIZE)
    array = random(4)
    np.save(tmp_path / "x.npy", array)
    maps = [attrlib.explain(model, source, "IxG").maps for source in (array, [array], tmp_path / "x.npy", open_photo(array))]
    assert torch.equal(model.preprocess(array), model.preprocess(open_photo(array)))
    direct = attrlib.explain(model, model.preprocess(array), "IxG").maps
    assert all(torch.equal(m, direct) for m in maps)


def test_a_card_keeps_the_preprocessing(tmp_path: Path) -> None:
    used = preprocessing(4, white=10000.0, bands_shown=(2, 1, 0), grey="after", resized_as="float32")
    (tmp_path / "x.json").write_text(Card("attrlib:x", ("a", "b"), used).text())
    assert Card.read(tmp_path / "x.json").preprocessing == used
    assert "white" not in Card("attrlib:x", ("a", "b"), preprocessing(4)).text()


def test_a_bytes_io_of_a_picture_of_bands_is_opened() -> None:
    file = io.BytesIO()
    np.save(file, random(4))
    file.seek(0)
    assert open_photo(file).bands.count == 4


# Training


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4, 12])
def test_training_batches_have_the_channels_and_the_scale_of_the_input(channels: int, kind: str, tmp_path: Path) -> None:
    """Without a random crop of a square picture, a batch is the picture resized, which torchvision does as well."""
    values = random(channels, kind, 48, 48)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "1.npy", values)
    recipe = Recipe(batch=2, flip=False, scale=1.0)
    loader = TrainLoader(load_dataset(str(tmp_path)), [0, 1], preprocessing(channels, crop=1.0), recipe, 2)
    ((images, labels),) = loader.epoch(0)
    assert loader.failed == {}
    assert sorted(labels.tolist()) == [0, 1]
    assert images.shape == (2, channels, 32, 32)
    shares = values if kind == "float32" else values / np.iinfo(kind).max
    tensor = torch.from_numpy(np.moveaxis(shares.astype(np.float32), 2, 0).copy())
    resized = tv.resize(tensor, [32, 32], antialias=True)
    rounding = 1.01 / 255 if images.dtype == torch.uint8 else 1e-5
    assert (images.dtype == torch.uint8) == (kind == "uint8" and channels in (1, 3))
    assert (images.float() / 255 - resized).abs().max() < rounding


def test_a_training_picture_of_other_bands_is_left_out_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "1.npy", random(4))
    loader = TrainLoader(load_dataset(str(tmp_path)), [0, 1], preprocessing(12), Recipe(batch=2), 2)
    ((images, _),) = loader.epoch(0)
    assert len(images) == 0
    assert all("1.npy has 4 bands, but the model reads 12 channels" in reason for reason in loader.failed.values())
