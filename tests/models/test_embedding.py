"""The features that a head reads, against the libraries' own functions for them."""

from collections.abc import Callable
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from support.nets import pictures
from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.embedding import embedding, text_embedding


def by_timm(module: Any, images: Tensor) -> Tensor:
    return module.forward_head(module.forward_features(images), pre_logits=True)


def by_bagnet(module: Any, images: Tensor) -> Tensor:
    for part in (module.stem, *module.stages):
        images = part(images)
    return images.mean((2, 3))


FEATURES: dict[str, tuple[str, Callable[[Any, Tensor], Tensor]]] = {
    "timm:test_vit": ("head", by_timm),
    "timm:test_resnet": ("fc", by_timm),
    "timm:test_convnext": ("head.fc", by_timm),
    "timm:test_efficientnet": ("classifier", by_timm),
    "timm:mobilenetv4_conv_small": ("classifier", by_timm),
    "torchvision:vgg11": ("classifier.6", lambda m, x: m.classifier[:6](m.avgpool(m.features(x)).flatten(1))),
    "attrlib:small_bagnet33_w16": ("fc", by_bagnet),
    "timm:test_vit?num_classes=0": ("", lambda m, x: m(x)),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_what_the_head_reads(name: str) -> None:
    model, (path, own) = attrlib.load_model(name, "cpu", pretrained=False), FEATURES[name]
    images, found = model.place(pictures(3, *model.input_size)).requires_grad_(), embedding(model)
    with model.session():
        features, expected = found(images), own(model.module, images)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
        one, other = (torch.autograd.grad((f * weights).sum(), images)[0] for f in (features, expected))
    assert (found.path, found.size) == (path, expected.shape[1])
    assert one.any()
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("layer", ["Input", "Middle", "Final"])
@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_resnet", "timm:test_vit?num_classes=0"])
def test_passes_that_start_at_a_layer_are_recorded(name: str, layer: str) -> None:
    model = attrlib.load_model(name, "cpu", pretrained=False)
    images, found = model.place(pictures(2, *model.input_size)), embedding(model)
    with model.session(), torch.no_grad():
        expected, split = found(images), model.split(model.layer(layer))
        inputs = split.before(images)
        with found.recorded() as features:
            for row in (0, 1):
                split.after(inputs[row : row + 1], torch.tensor([row]))
    assert len(features) == 2
    torch.testing.assert_close(torch.cat(features), expected, rtol=1e-4, atol=1e-5)


class Net(nn.Module):
    """Features, then a head of so many outputs and what follows it."""

    def __init__(self, count: int, end: nn.Module | None = None):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(24, count)
        self.end = end or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(self.body(x)))


@pytest.mark.parametrize(("count", "end"), [(3, None), (1, None), (3, nn.Softmax(1)), (1, nn.Sigmoid())])
def test_the_head_is_found_before_an_activation_and_with_one_logit(count: int, end: nn.Module | None) -> None:
    module = Net(count, end).eval()
    model, images = attrlib.wrap_model(module, 32), pictures(2, 32)
    with model.session():
        features = embedding(model)(model.place(images))
    torch.testing.assert_close(features, module.body(images))
    assert not any((*m._forward_hooks, *m._forward_pre_hooks) for m in module.modules())


def test_a_network_that_takes_one_image_at_a_time() -> None:
    class Single(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(1, 3, 32, 32))

    module = Single(3).eval()
    model, images = attrlib.wrap_model(module, 32), pictures(3, 32)
    with model.session():
        torch.testing.assert_close(embedding(model)(model.place(images)), module.body(images))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


@pytest.mark.parametrize("end", [nn.ReLU(), nn.Hardtanh(), "subclass"])
def test_logits_that_no_linear_layer_yields_are_refused(end: Any) -> None:
    module = Net(3, None if end == "subclass" else end).eval()
    if end == "subclass":
        module.head = Scaled(24, 3)
    else:
        nn.init.constant_(module.head.bias, -5.0)
    with pytest.raises(ModelError, match=r"are not the output of one linear layer, .* outputs='features'"):
        embedding(attrlib.wrap_model(module, 32))
    assert not any(m._forward_hooks for m in module.modules())


def test_a_wrapped_backbone_is_its_own_embedding() -> None:
    module = Net(3).eval().body
    model, images = attrlib.wrap_model(module, 32, outputs="features"), pictures(2, 32)
    with model.session():
        torch.testing.assert_close(embedding(model)(model.place(images)), module(images))
    assert model.class_names[:2] == ("feature 0", "feature 1")


def test_a_model_without_a_text_side_says_so() -> None:
    with pytest.raises(ModelError, match=r"has no text side; load a CLIP or SigLIP model as clip:NAME"):
        text_embedding(attrlib.wrap_model(Net(3).eval(), 32), "a cat")
