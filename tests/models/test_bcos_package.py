"""B-cos networks of the package `bcos`, against its own forward pass, weights and explanation mode."""

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import bcos.models.pretrained as package
import pytest
import torch
from support.nets import pictures
from torch import Tensor, nn

from attrlib.errors import MethodError, ModelError
from attrlib.models import bcos_package, with_classes
from attrlib.models.bcos_package import NETWORKS

CONVOLUTIONAL = ["resnet18", "densenet121", "convnext_tiny", "convnext_tiny_bnu"]
TRANSFORMERS = ["simple_vit_ti_patch16_224", "vitc_ti_patch1_14"]
CLASSES, TARGET = 7, 3


def lively(module: nn.Module) -> nn.Module:
    """Evaluation mode with weights other than the initial ones, so that no signal vanishes on the way."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if hasattr(part, "running_var"):
                part.momentum = 1.0
            if type(part).__name__ in ("LayerNorm", "DetachableLayerNorm", "DetachablePositionNorm2d") and part.weight is not None:
                part.weight.copy_(torch.rand(part.weight.shape, generator=generator) + 0.5)
            if hasattr(part, "layer_scale"):
                part.layer_scale.fill_(0.5)
        module.train()(torch.rand(4, 6, 224, 224, generator=generator) if _fixed(module) else torch.rand(4, 6, 64, 64, generator=generator))
    return module.eval()


def _fixed(module: nn.Module) -> bool:
    return any("Rearrange" in type(part).__name__ for part in module.modules())


_networks: dict[str, nn.Module] = {}


def own(name: str) -> Any:
    """The network as the package builds it, with weights that are drawn once."""
    if name not in _networks:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            _networks[name] = lively(getattr(package, name)(pretrained=False, num_classes=CLASSES))
    return _networks[name]


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(name: str) -> Path:
        torch.save(own(name).state_dict(), tmp_path / f"{name}.pth")
        return tmp_path / f"{name}.pth"

    return save


def load(name: str, file: Path) -> attrlib.Classifier:
    return attrlib.load_model(f"bcos:{name}", "cpu", checkpoint=file, input_size=64 if name in CONVOLUTIONAL else None)


def contribution(name: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """The contribution map of the package's `explain`, and the logit."""
    encoded = torch.cat([image, 1 - image], 1).requires_grad_()
    found = own(name).explain(encoded, TARGET)["contribution_map"]
    with torch.no_grad():
        return found.detach(), own(name)(encoded)[0, TARGET]


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *TRANSFORMERS])
def test_maps_are_the_contributions_of_the_package(name: str, saved: Any) -> None:
    model = load(name, saved(name))
    image = pictures(1, *model.input_size).sigmoid()
    expected, logit = contribution(name, image)
    # The package sets the bias of 1000 classes whatever their number is.
    bias = next(part.logit_bias for part in own(name).modules() if hasattr(part, "logit_bias"))
    torch.testing.assert_close(model(image)[0, TARGET], logit - bias - math.log(CLASSES - 1), rtol=1e-4, atol=1e-5)
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    found = attrlib.explain(model, image, "B-cos", target=TARGET).maps
    assert expected.abs().max() > 1e-7
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())
    assert not any(getattr(part, "detach", None) is True for part in model.module.modules())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_maps_sum_to_the_logit_minus_its_bias(name: str, saved: Any) -> None:
    model = load(name, saved(name))
    image = pictures(1, 64).sigmoid()
    total = attrlib.explain(model, image, "B-cos", target=TARGET).maps.double().sum().float()
    change = model(image)[0, TARGET] + math.log(CLASSES - 1)
    assert change.abs() > 1e-3
    torch.testing.assert_close(total, change, rtol=1e-3, atol=1e-4)


def test_a_batch_has_the_maps_of_its_images(saved: Any) -> None:
    model = load("resnet18", saved("resnet18"))
    images = pictures(3, 64).sigmoid()
    maps = attrlib.explain(model, images, "B-cos", target=TARGET).maps
    for k in range(3):
        torch.testing.assert_close(maps[k : k + 1, 0], contribution("resnet18", images[k : k + 1])[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["IG@Input:steps=3", "Grad-CAM@Final", "IxG@Middle:channels=abs-sum"])
@pytest.mark.parametrize("name", ["convnext_tiny", "densenet121", "simple_vit_ti_patch16_224"])
def test_other_methods_run(name: str, method: str, saved: Any) -> None:
    model = load(name, saved(name))
    assert attrlib.explain(model, pictures(1, *model.input_size).sigmoid(), method, target=TARGET).maps.isfinite().all()


def test_pictures_are_prepared_as_by_the_package() -> None:
    from PIL import Image

    picture = Image.effect_noise((300, 260), 60).convert("RGB")
    model = attrlib.load_model("bcos:resnet18", "cpu", pretrained=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform = package.resnet18(pretrained=False).transform
    expected = transform(picture)
    image = model.preprocess(picture)
    torch.testing.assert_close(model.module.encode(image[None])[0], expected, rtol=0, atol=2.5 / 255)
    assert len(model.class_names) == 1000
    assert model.class_names[0] == "tench, Tinca tinca"


# Weights -------------------------------------------------------------------------------------------------------------------


def test_the_weights_of_each_network_are_those_that_the_package_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is asked for every network with pretrained weights; its addresses are compared, and nothing is built."""
    asked: list[tuple[str, str]] = []

    def record(experiment: str, *_args: Any, base_network: str = "bcos_final", **_options: Any) -> None:
        asked.append((base_network, experiment))

    monkeypatch.setattr(package, "_get_model", record)
    names = [name for name in package.list_available() if not name.startswith("standard_")]
    for name in names:
        getattr(package, name)(pretrained=True)
    assert dict(zip(names, asked, strict=True)) == NETWORKS
    assert all(package.URLS[recipe][experiment] for recipe, experiment in NETWORKS.values())


def test_pretrained_weights_are_read_from_the_cache_without_running_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = package.resnet18(pretrained=False)
    file = tmp_path / "checkpoints" / package.URLS["bcos_final"]["resnet_18"].rpartition("/")[2]
    file.parent.mkdir()
    torch.save(module.state_dict(), file)
    model = attrlib.load_model("bcos:resnet18", "cpu")
    image = pictures(1, 224).sigmoid()
    with torch.no_grad():
        torch.testing.assert_close(model(image), module.eval()(torch.cat([image, 1 - image], 1)))
    torch.save({"fc.linear.weight": Path("x"), "f": print}, file)
    with pytest.raises(ModelError):
        attrlib.load_model("bcos:resnet18", "cpu")


def test_without_a_connection_the_address_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: Any, **_options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        ModelError, match=r"could not be downloaded \(no route to host\); download https://github\.com/\S+resnet_18\S+ elsewhere"
    ):
        attrlib.load_model("bcos:resnet18", "cpu")


def test_a_new_head_has_the_bias_of_its_classes() -> None:
    model = attrlib.load_model("bcos:resnet18?num_classes=5", "cpu", pretrained=False, input_size=64)
    new = with_classes(model, ["a", "b", "c"], rows=[4, 0, 1])
    image = pictures(1, 64).sigmoid()
    shift = math.log(4) - math.log(2)
    torch.testing.assert_close(new(image), model(image)[:, [4, 0, 1]] + shift)


# What is refused -----------------------------------------------------------------------------------------------------------


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcos.models.pretrained", None)
    with pytest.raises(ModelError, match=r'needs the package bcos, which is not installed; pip install "attrlib\[bcos\]"'):
        attrlib.load_model("bcos:resnet18", "cpu", pretrained=False)


def test_unknown_names_and_networks_that_are_not_b_cos_are_refused() -> None:
    with pytest.raises(ModelError, match=r"unknown bcos model 'resnet19'. Did you mean resnet18"):
        attrlib.load_model("bcos:resnet19", "cpu", pretrained=False)
    with pytest.raises(ModelError, match="unknown bcos model 'standard_vitc_s_patch1_14'"):
        attrlib.load_model("bcos:standard_vitc_s_patch1_14", "cpu", pretrained=False)
    with pytest.raises(MethodError, match="B-cos is the built-in explanation of a B-cos network, which"):
        attrlib.explain(attrlib.load_model("timm:test_resnet", "cpu", pretrained=False), pictures(1, 160), "B-cos")


def test_names_are_listed() -> None:
    assert [info.name for info in attrlib.list_models("bcos:convnext*")] == [f"bcos:{name}" for name in NETWORKS if name.startswith("conv")]
    assert bcos_package.NETWORKS["vitc_ti_patch1_14"] == ("vit_final", "bcos_vitc_ti_patch1_14")
