"""Sums over channels that cancel are refused, since their maps would be rounding errors."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from support import method_nets
from torch import Tensor, nn

from attrlib.errors import MethodError
from attrlib.methods.cancelled import cancels

SIDE, CHANNELS = 12, 8


class Normed(nn.Module):
    """A convolution, a LayerNorm over channels with weights that may differ, and a linear head at every position."""

    def __init__(self, affine: bool = True, norm: bool = True, rectified: bool = False) -> None:
        super().__init__()
        self.activation = torch.relu if rectified else torch.tanh
        self.conv, self.fc = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.Linear(CHANNELS, 4)
        self.norm = nn.LayerNorm(CHANNELS, elementwise_affine=affine) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return self.fc(self.activation(features)).mean((1, 2))


def wrapped(**options: bool) -> attrlib.Classifier:
    return attrlib.wrap_model(method_nets.made(Normed, **options), SIDE)


def explain(model: attrlib.Classifier, method: str, layer: str = "conv") -> Tensor:
    return attrlib.explain(model, method_nets.pictures(2, SIDE), method, [0, 3], layer).maps


@pytest.mark.parametrize(
    "method",
    ["Gradient", "Gradient:channels=sum-abs", "IxG", "SmoothGrad:samples=2", "SmoothGrad:of=IxG:samples=2", "HiRes-CAM"],
)
def test_a_sum_over_channels_before_a_layer_norm_is_refused_before_anything_is_computed(method):
    model = wrapped()
    with pytest.raises(MethodError, match="sums over channels to zero at every position of conv"):
        explain(model, method)
    calls: list[int] = []
    handle = model.module.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(MethodError):
        explain(model, method)
    handle.remove()
    assert not calls


@pytest.mark.parametrize(
    ("method", "instead"),
    [("Guided Backprop", "channels=abs-sum"), ("Deconvolution", "channels=abs-sum"), ("Guided Grad-CAM:cam=Middle", "Grad-CAM")],
)
def test_rules_at_the_rectifiers_leave_the_sum_zero(method: str, instead: str) -> None:
    name = method.split(":")[0]
    with pytest.raises(MethodError, match=f"^{name} sums over channels to zero at every position of conv, .*; choose {instead} or"):
        explain(wrapped(rectified=True), method)


def test_the_sum_that_is_refused_is_zero_in_double_precision():
    """The gradient before a LayerNorm has no component along ones, nor along its input."""
    module = method_nets.made(Normed).double()
    values = module.conv(method_nets.pictures(2, SIDE).double()).detach().requires_grad_()
    scores = module.fc(module.norm(values.permute(0, 2, 3, 1)).tanh()).mean((1, 2))[:, 0].sum()
    (gradient,) = torch.autograd.grad(scores, values)
    assert float(gradient.sum(1).abs().max()) < 1e-14 < float(gradient.abs().max())
    # Up to the epsilon of the norm.
    assert float((values.detach() * gradient).sum(1).abs().max()) < 1e-3 * float((values.detach() * gradient).abs().sum(1).max())


@pytest.mark.parametrize(
    "method", ["Gradient:channels=abs-sum", "IxG:channels=abs-sum", "Grad-CAM", "Layer-CAM", "IG:steps=4:baseline=black"]
)
def test_what_does_not_cancel_is_explained(method):
    assert explain(wrapped(), method).any()


@pytest.mark.parametrize("method", ["Gradient", "IxG", "HiRes-CAM", "SmoothGrad:samples=2"])
def test_without_the_norm_and_after_it_nothing_is_refused(method):
    assert explain(wrapped(norm=False), method).isfinite().all()
    assert explain(wrapped(), method, "norm").any()


def test_only_items_whose_every_sum_is_zero_cancel():
    values = torch.randn(3, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    values[1] -= values[1].mean(0)
    values[2] = 0
    assert cancels(values).tolist() == [False, True, False]
    values[1, 0, 0, 0] += 0.1
    assert cancels(values).tolist() == [False, False, False]
