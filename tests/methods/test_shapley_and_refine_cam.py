"""ShapleyCAM and RefineCAM against pytorch-grad-cam, differences of gradients and their formulas in NumPy."""

import copy

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM, ShapleyCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.refine_cam import RefineCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from support import method_nets
from support.method_nets import CLASSES, TARGETS, Quadratic, Rectified, made, maps, pictures
from support.numbers import close
from torch import Tensor, nn

from attrlib.errors import MethodError
from attrlib.methods import cams, refine
from attrlib.models.cells import grid_view


def images_for(name: str) -> Tensor:
    return pictures(2, *method_nets.model(name).input_size)


class Smooth(nn.Sequential):
    """A network with a Hessian everywhere, and maps of the size of the image."""

    def __init__(self) -> None:
        first = nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.SiLU()
        super().__init__(*first, nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


# ShapleyCAM --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["0", "2", "3"])
def test_shapley_cam_matches_pytorch_grad_cam(layer: str) -> None:
    module, images = made(Smooth), 3 * pictures(2, 16)
    own, expected = copy.deepcopy(module), []
    # The library differentiates the gradient of one image at a time.
    for image, number in zip(images.split(1), TARGETS, strict=True):
        targets = [ClassifierOutputTarget(number)]
        with ShapleyCAM(model=own, target_layers=[own.get_submodule(layer)]) as cam:
            kept = cam.activations_and_grads
            loss = targets[0](kept(image.clone().requires_grad_())[0])
            torch.autograd.grad(loss, kept.activations[0], create_graph=True)
            image_of = cam.get_cam_image(image, None, targets, kept.activations[0], kept.gradients[0])
        expected.append(np.maximum(image_of, 0))
    model = attrlib.wrap_model(module, 16)
    found = maps(model, images, "ShapleyCAM", layer)
    assert close(found, torch.from_numpy(np.stack(expected)), 1e-3)
    assert not close(found, maps(model, images, "Grad-CAM", layer), 1e-2)


@pytest.mark.parametrize(
    ("name", "path"), [("vit_tiny", "blocks.1"), ("channels_last", "patch"), ("bcos", "layer3"), ("functional", "stem")]
)
def test_shapley_cam_uses_the_hessian_that_differences_of_gradients_give(name: str, path: str) -> None:
    model, images, step = method_nets.model(name), images_for(name), 1e-5
    module, layout = copy.deepcopy(model.module).double(), model.layer(path).layout

    def gradient(scale: float) -> tuple[Tensor, Tensor]:
        """Activations, and the gradient at `scale` times them."""
        kept: list[Tensor] = []

        def replace(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            kept.extend([output.detach(), (scale * output.detach()).requires_grad_()])
            return kept[1].clone()

        handle = module.get_submodule(path).register_forward_hook(replace)
        logits = module(images.double())
        handle.remove()
        return kept[0], torch.autograd.grad(logits[range(len(images)), TARGETS].sum(), kept[1])[0]

    activations, at = gradient(1.0)
    product = (gradient(1 + step)[1] - gradient(1 - step)[1]) / (2 * step)
    weights = layout.spatial(at - product / 2).mean((2, 3), keepdim=True)
    expected = (weights * layout.spatial(activations)).sum(1, keepdim=True).relu()
    assert close(maps(model, images, "ShapleyCAM", path), expected.float(), 2e-3)


def test_shapley_cam_of_a_quadratic_model_has_half_of_the_gradient_as_weight() -> None:
    model, images = attrlib.wrap_model(Quadratic(), 16), pictures(2, 16)
    # The gradient and the Hessian times x are both (k + 1) x.
    slopes = images * (torch.tensor(TARGETS) + 1.0)[:, None, None, None]
    expected = (slopes.mean((2, 3), keepdim=True) / 2 * images).sum(1, keepdim=True).relu()
    assert close(maps(model, images, "ShapleyCAM", "Input"), expected, 1e-4)


@pytest.mark.parametrize("path", ["layer2", "layer4"])
def test_shapley_cam_is_grad_cam_where_the_network_is_piecewise_linear(path: str) -> None:
    model, images = method_nets.model("resnet18"), images_for("resnet18")
    assert close(maps(model, images, "ShapleyCAM", path), maps(model, images, "Grad-CAM", path), 1e-5)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient


def test_without_second_derivatives_shapley_cam_is_refused_before_anything_is_computed() -> None:
    model = attrlib.wrap_model(made(Rectified, Once.apply, torch.tanh), 16)
    for method in (cams.ShapleyCAM(), refine.RefineCAM("ShapleyCAM")):
        with pytest.raises(MethodError, match=r"ShapleyCAM needs second derivatives, but .* choose Grad-CAM or HiRes-CAM"):
            method.check(model, model.layer("conv1"))
    assert maps(model, pictures(2, 16), "Grad-CAM", "conv1").isfinite().all()


# RefineCAM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cam", "kind"), [("Grad-CAM++", GradCAMPlusPlus), ("Grad-CAM", GradCAM), ("Layer-CAM", LayerCAM)])
def test_refine_cam_matches_pytorch_grad_cam_at_a_layer_of_the_size_of_the_image(cam: str, kind: type[BaseCAM]) -> None:
    module, images = made(Smooth), pictures(2, 16)
    # Gradients large beside the constants that the library adds to denominators.
    module[-1].weight.data *= 1e4
    model = attrlib.wrap_model(module, 16, layers={"Middle": "3", "Final": "5"})
    paths = ["0", "1", "5"]
    assert refine.RefineCAM(cam)._names(model, model.layer("0")) == paths
    own = copy.deepcopy(module)
    rival = RefineCAM(own, [own.get_submodule(path) for path in paths], base_method=kind)
    expected = rival(images, [ClassifierOutputTarget(target) for target in TARGETS])
    assert close(maps(model, images, "RefineCAM", "0", cam=cam)[:, 0], torch.from_numpy(expected), 2e-3)


def scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min((2, 3), keepdims=True), values.max((2, 3), keepdims=True)
    return (values - low) / np.where(high > low, high - low, 1)


CHOSEN = {
    "resnet18": ("layer1", ["layer1", "layer2", "layer3", "layer4"]),
    "vit_tiny": ("Middle", ["Middle", "blocks.2"]),
    "channels_last": ("Input", ["Input", "blocks.0", "blocks.1", "blocks.2"]),
    "functional": ("stem", ["stem", "bn", "stage2", "stage3"]),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_refine_cam_multiplies_the_scaled_cams_of_the_last_stages(name: str) -> None:
    layer, names = CHOSEN[name]
    model, images = method_nets.model(name), images_for(name)
    assert refine.RefineCAM()._names(model, model.layer(layer)) == names
    assert refine.RefineCAM(layers=2)._names(model, model.layer(layer)) == [names[0], names[-1]]
    size = model.layer(layer).shape[1:]
    product = np.ones((2, 1, *size))
    for place in names:
        cam = maps(model, images, "Layer-CAM", place)
        product *= scaled(F.interpolate(cam, size, mode="bilinear", align_corners=False).double().numpy())
    expected = torch.from_numpy(scaled(product)).float()
    assert close(maps(model, images, "RefineCAM", layer, cam="Layer-CAM"), expected, 1e-3)


STAGES = {
    "resnet50": ("layer1", ["layer1", "layer2", "layer3", "layer4"]),
    "vit_tiny_patch16_224": ("blocks.7", ["blocks.7", "blocks.8", "blocks.9", "blocks.10"]),
    "convnext_atto": ("stages.0", ["stages.0", "stages.1", "stages.2", "stages.3"]),
    "swin_tiny_patch4_window7_224": ("layers.0", ["layers.0", "layers.1", "layers.2", "layers.3"]),
    "efficientnet_b0": ("blocks.1", ["blocks.1", "blocks.2", "blocks.4", "blocks.6"]),
}


@pytest.mark.parametrize("name", STAGES)
def test_the_layers_are_those_of_the_authors_where_they_name_them(name: str) -> None:
    layer, names = STAGES[name]
    model = attrlib.wrap_model(made(timm.create_model, name, num_classes=CLASSES), 224)
    found = refine.RefineCAM()._names(model, model.layer(layer))
    assert found[:-1] == names[:-1]
    assert model.layer(found[-1]).path == model.layer("Final").path


def test_at_final_the_map_is_the_scaled_cam() -> None:
    model, images = method_nets.model("resnet18"), images_for("resnet18")
    expected = torch.from_numpy(scaled(maps(model, images, "Grad-CAM++", "layer4").numpy()))
    assert close(maps(model, images, "RefineCAM", "layer4"), expected, 1e-5)


def test_in_difull_a_layer_without_a_map_of_the_cells_is_refused_before_anything_is_computed() -> None:
    view = grid_view(method_nets.model("vit_tiny"), "difull", 2, 0)
    with pytest.raises(attrlib.AttrlibError, match="without a position"):
        refine.RefineCAM().check(view, view.layer("Input"))
    cells = grid_view(method_nets.model("resnet18"), "difull", 2, 0)
    assert maps(cells, pictures(2, 128), "RefineCAM", "layer1").shape == (2, 1, 32, 32)
