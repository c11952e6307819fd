"""Networks with known attributions, and the classifiers on which all methods are tested."""

from collections.abc import Callable
from functools import cache

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import timm
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from torch import Tensor, nn

from attrlib.methods import METHODS
from attrlib.models.architectures import BagNet, BcosResNet
from attrlib.registry import params_of
from attrlib.specs import MethodSpec
from support.numbers import SEED

CLASSES = 5
TARGETS = [0, 3]
"""Default targets of `maps`, for two images."""
Rectifier = Callable[[Tensor], Tensor]


def made(net: Callable[..., nn.Module], *args: object, seed: int = 0, **options: object) -> nn.Module:
    """Return the net in evaluation mode, with reproducible weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + SEED)
        return net(*args, **options).eval()


def pictures(count: int, height: int, width: int | None = None, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width or height, generator=torch.Generator().manual_seed(seed + SEED))


class Linear(nn.Module):
    """Linear: logit_k = w_k . x + b_k over all pixels."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 3, height, width))
        self.bias = nn.Parameter(torch.randn(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight) + self.bias


class Quadratic(nn.Module):
    """Quadratic: logit_k = (k+1)/2 |x|^2, with gradient (k+1) x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(1, keepdim=True) / 2 * torch.arange(1.0, CLASSES + 1)


class Rectified(nn.Module):
    """Two convolutions, each followed by the same rectifier, then average pooling and a linear head."""

    def __init__(self, rectify: Rectifier, late: Rectifier | None = None, bias: bool = True) -> None:
        super().__init__()
        self.rectify, self.late = rectify, late or rectify
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=bias)
        self.fc = nn.Linear(8, CLASSES, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rectify(self.conv1(x))
        return self.fc(self.late(self.conv2(x)).mean((2, 3)))


class Modules(nn.Sequential):
    """The computation of `Rectified` with modules only, none in place and none used twice."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        )


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, cap: float) -> Tensor:
        ctx.save_for_backward((x > 0) & (x < cap))
        return x.clamp(0, cap)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (passed,) = ctx.saved_tensors
        return torch.where(passed & (grad > 0), grad, torch.zeros_like(grad)), None


class GuidedReLU(nn.Module):
    """A rectifier with an explicit guided backward pass: an oracle for Guided Backprop."""

    def __init__(self, cap: float = float("inf")) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, x: Tensor) -> Tensor:
        return _Guided.apply(x, self.cap)


class Functional(nn.Module):
    """Functional ReLUs, in-place arithmetic and a residual connection; BatchNorm and dropout reveal training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.stage1 = nn.Conv2d(6, 8, 3, stride=4, padding=1)
        self.stage2 = nn.Conv2d(8, 8, 3, padding=1)
        self.stage3 = nn.Conv2d(8, 10, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x))
        x *= 1.5
        skip = F.relu_(self.stage1(F.relu(x)))
        x = self.stage2(skip)
        x += skip
        x = self.stage3(F.relu(x, inplace=True)).clamp_(min=0)
        return self.fc(self.drop(x.mean((2, 3))))


class Residual(nn.Module):
    """Residual block x + f(x) on (B,h,w,C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x)))


class ChannelsLast(nn.Module):
    """Patches of 4 px, then blocks on tensors (B,h,w,C)."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 10, 4, 4)
        self.blocks = nn.Sequential(*(Residual(10) for _ in range(depth)))
        self.fc = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.patch(x).permute(0, 2, 3, 1)).relu().mean((1, 2)))


def _resnet() -> attrlib.Classifier:
    return attrlib.wrap_model(made(torchvision.models.resnet18, num_classes=CLASSES), 64)


def _lite() -> attrlib.Classifier:
    return attrlib.wrap_model(attrlib.load_model(device="cpu").module, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _vit() -> attrlib.Classifier:
    return attrlib.wrap_model(made(timm.create_model, "vit_tiny_patch16_224", img_size=64, num_classes=CLASSES, depth=4), 64)


def _bagnet() -> attrlib.Classifier:
    return attrlib.wrap_model(made(BagNet, 17, (1, 1, 1, 1), 16, CLASSES), 32)


def _bcos() -> attrlib.Classifier:
    return attrlib.wrap_model(made(BcosResNet, (1, 1, 1, 1), 16, False, CLASSES), 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


MODELS: dict[str, Callable[[], attrlib.Classifier]] = {
    "resnet18": _resnet,
    "efficientnet_lite0": _lite,
    "vit_tiny": _vit,
    "functional": lambda: attrlib.wrap_model(made(Functional), 64),
    "channels_last": lambda: attrlib.wrap_model(made(ChannelsLast), 24),
    "bagnet": _bagnet,
    "bcos": _bcos,
    "not_square": lambda: attrlib.wrap_model(made(Functional), (48, 80)),
}


class Writes(nn.Module):
    """Normalises its input in place."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, stride, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).mul_(2)
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


class Unread(nn.Module):
    """Computes an auxiliary output that its logits do not depend on."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.auxiliary = nn.Conv2d(6, 6, 3, stride, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.auxiliary(x)
        return self.fc(F.relu(x).mean((2, 3)))


@cache
def model(name: str) -> attrlib.Classifier:
    """Return one of `MODELS`, built once, as no computation changes it."""
    return MODELS[name]()


def maps(
    model: attrlib.Classifier, images: Tensor, method: str, layer: str | None = None, targets: object = None, **params: object
) -> Tensor:
    """Return a method's maps of images, by default for `TARGETS`."""
    return attrlib.explain(model, images, method, TARGETS if targets is None else targets, layer, **params).maps


SMALL = {"steps": 3, "samples": 4, "designs": 2, "cells": 4, "p": 0.5, "top": 3, "segments": "grid"}
"""Parameter values that keep every method fast."""


def small(method: str, layer: str) -> MethodSpec:
    return MethodSpec(method, layer, tuple((p.name, SMALL[p.name]) for p in params_of(METHODS[method]) if p.name in SMALL))


def snapshot(module: nn.Module) -> dict[str, object]:
    """Everything of a module that a computation might change, as bytes and plain values."""
    state: dict[str, object] = {k: (v.data_ptr(), v.numpy().tobytes()) for k, v in module.state_dict().items()}
    for path, p in module.named_parameters():
        state[f"{path} grad"] = (p.requires_grad, None if p.grad is None else (p.grad.data_ptr(), p.grad.numpy().tobytes()))
    for path, m in module.named_modules():
        hooks = {k: [id(h) for h in v.values()] for k, v in vars(m).items() if "hooks" in k and isinstance(v, dict)}
        state[f"{path} module"] = (m.training, sorted(vars(m)), hooks)
    return state
