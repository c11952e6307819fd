"""Folded twins: fewer operations, the same arithmetic, the original unchanged."""

import copy
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from attrlib.models.cells import grid_view
from attrlib.models.folded import Folded


class Twice(nn.Module):
    """The output of the first convolution also bypasses its BatchNorm; that of the second does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        return self.fc((self.bn2(self.conv2(self.bn1(first).relu())).relu()).mean((2, 3)) + first.mean((2, 3)))


class Shared(nn.Module):
    """One convolution, called twice, with a BatchNorm for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn2(self.conv(self.bn1(self.conv(x)).relu())).mean((2, 3)))


def lived(module: nn.Module) -> nn.Module:
    """With statistics, scales and shifts other than the initial ones of BatchNorm."""
    generator = torch.Generator().manual_seed(1)
    for own in module.modules():
        if isinstance(own, nn.BatchNorm2d):
            for tensor, low, high in (
                (own.running_mean, -0.2, 0.2),
                (own.running_var, 0.5, 2),
                (own.weight, 0.5, 1.5),
                (own.bias, -0.2, 0.2),
            ):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module.eval()


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )  # fmt: skip


def without_statistics() -> nn.Module:
    """Its BatchNorm takes the statistics of the batch, also in evaluation mode."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )  # fmt: skip


NETS: dict[str, tuple[Any, int]] = {
    "plain": (plain, 0),
    "timm resnet10t": (lambda: timm.create_model("resnet10t", num_classes=5), 0),
    "timm tf_efficientnet_lite0": (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=5), 0),
    "torchvision vgg11_bn": (lambda: torchvision.models.vgg11_bn(num_classes=5), 0),
    "torchvision mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5), 0),
    "without statistics": (without_statistics, 1),
    "Shared": (Shared, 2),
    "Twice": (Twice, 2),
    "timm densenet121": (lambda: timm.create_model("densenet121", num_classes=5), 62),
    "torchvision vit": (lambda: torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5), 0),
}


def model_of(name: str, size: int = 32) -> attrlib.Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return attrlib.wrap_model(lived(NETS[name][0]()), size)


def logits_and_gradient(model: attrlib.Classifier) -> tuple[Tensor, Tensor]:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    logits = model(images)
    return logits.detach(), torch.autograd.grad(logits[:, 1].sum(), images)[0]


@pytest.mark.parametrize("name", NETS)
def test_the_twin_has_the_same_logits_and_gradients_and_the_original_is_unchanged(name: str) -> None:
    model = model_of(name)
    before = copy.deepcopy(model.module.state_dict())
    twin = Folded()(model)
    norms = sum(isinstance(own, nn.BatchNorm2d) for own in twin.module.modules())
    assert norms <= NETS[name][1] + 1 if name == "timm densenet121" else norms == NETS[name][1]
    for found, expected in zip(logits_and_gradient(twin), logits_and_gradient(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    assert list(before) == list(model.module.state_dict())
    assert all(torch.equal(tensor, model.module.state_dict()[key]) for key, tensor in before.items())
    assert not any(own._forward_hooks or own._forward_pre_hooks for own in (*model.module.modules(), *twin.module.modules()))


def test_other_weights_are_shared_and_a_twin_is_created_once() -> None:
    model, folded = model_of("plain"), Folded()
    twin = folded(model)
    assert folded(model) is twin is not model
    assert twin.module[5].weight is model.module[5].weight
    assert set(dict(twin.module.named_modules())) == set(dict(model.module.named_modules()))


def test_a_convolution_that_is_explained_is_not_folded() -> None:
    model, folded = model_of("plain"), Folded()
    assert folded(model, "0") is model
    assert folded(model, "1") is folded(model) is not model
    assert list(folded(model).layers) == list(model.layers)
    for path in model.layers:
        found, expected = (
            attrlib.explain(own, torch.ones(3, 32, 32), "IxG", 1, path).maps for own in (folded(model, model.layer(path).path), model)
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["timm resnet10t", "timm tf_efficientnet_lite0"])
def test_only_folded_convolutions_have_different_outputs(name: str) -> None:
    model, folded = model_of(name), Folded()
    twin = folded(model)
    assert {path for path, own in model.module.named_modules() if folded(model, path) is model} == {
        path for path, own in model.module.named_modules() if isinstance(own, nn.Conv2d) and own.bias is None
    }
    for layer in ("Middle", "Final", *(path for path in model.layers if path.endswith("bn1"))):
        found, expected = (attrlib.explain(own, torch.ones(3, 32, 32), "Gradient", 1, layer).maps for own in (twin, model))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("setting", ["gridpg", "difull", "dipart"])
def test_views_of_grids_are_folded_too(setting: str) -> None:
    model = model_of("timm tf_efficientnet_lite0", 64)
    view, folded = grid_view(model, setting, 2, 0), Folded()
    twin = folded(view)
    assert not any(isinstance(own, nn.BatchNorm2d) for own in twin.module.modules())
    grids = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    for layer in ("Input", "Final"):
        found, expected = (attrlib.explain(own, grids, "IxG", 1, layer).maps for own in (twin, view))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
