"""Maps of other libraries under the best conditions for them, keyed by the method of attrlib that they correspond to.

Weights have no gradients, models and images are channels_last, whole batches are explained at once, with as many rows per pass as attrlib
has. Captum's and zennit's rules for ReLU fail for activations that are in place or used twice: they get a copy of the model without
in-place activations.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import attrlib  # noqa: F401  before torchvision: it declares the operators that torchvision may lack

# isort: split
import captum.attr
import pytorch_grad_cam
import torch
import torchcam.methods
import zennit.attribution
import zennit.canonizers
import zennit.composites
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from torch import Tensor, nn

from attrlib.methods import rows_at_once
from attrlib.models import Classifier

Maps = dict[str, Callable[[], Any]]
STEPS, SAMPLES, WINDOW, REFERENCES = 16, 16, 56, [1, 2, 3]
GRAD_CAMS = {
    "Grad-CAM": "GradCAM",
    "Grad-CAM++": "GradCAMPlusPlus",
    "XGrad-CAM": "XGradCAM",
    "HiRes-CAM": "HiResCAM",
    "Layer-CAM": "LayerCAM",
    "ShapleyCAM": "ShapleyCAM",
    "Eigen-CAM": "EigenCAM",
    "Score-CAM": "ScoreCAM",
    "Ablation-CAM": "AblationCAM",
}
TORCH_CAMS = {
    "Grad-CAM": "GradCAM",
    "Grad-CAM++": "GradCAMpp",
    "XGrad-CAM": "XGradCAM",
    "Layer-CAM": "LayerCAM",
    "Smooth Grad-CAM++": "SmoothGradCAMpp",
    "Score-CAM": "ScoreCAM",
    "SS-CAM": "SSCAM",
    "IS-CAM": "ISCAM",
}
FINER_CAM = "Grad-CAM:target=contrast:k=3"
IG, SMOOTH_GRAD, OCCLUSION = f"IG:steps={STEPS}", f"SmoothGrad:samples={SAMPLES}", f"Occlusion:window={WINDOW}:stride={WINDOW}"


def libraries(model: Classifier, x: Tensor) -> Mapping[str, Maps]:
    """Return, for each library, functions that compute the maps of class 0 of images x by the method of attrlib that they correspond to."""
    module: nn.Module = copy.deepcopy(model.module).eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return {
        "Captum": _captum(model, module, x),
        "pytorch-grad-cam": _pytorch_grad_cam(model, module, x),
        "torch-cam": _torch_cam(model, module, x),
        "zennit": _zennit(model, module, x),
    }


def _captum(model: Classifier, module: nn.Module, x: Tensor) -> Maps:
    rows = rows_at_once(model, model.input_size)
    each = max(1, rows // len(x))
    noisy = captum.attr.NoiseTunnel(captum.attr.Saliency(module))
    outside = _outside(module)
    height, width = model.input_size
    down, right = ((torch.arange(side) * 4 // side) for side in (height, width))
    segments = dict(feature_mask=(4 * down[:, None] + right)[None, None], n_samples=64, perturbations_per_eval=rows)

    def by(method: Any, **options: Any) -> Callable[[], Any]:
        return lambda: method.attribute(x.clone(), target=0, **options)

    attr, window = captum.attr, (3, WINDOW, WINDOW)
    return {
        "Gradient": by(attr.Saliency(module), abs=False),
        "IxG": by(attr.InputXGradient(module)),
        IG: by(attr.IntegratedGradients(module), n_steps=STEPS, internal_batch_size=rows, return_convergence_delta=True),
        SMOOTH_GRAD: by(noisy, nt_type="smoothgrad", nt_samples=SAMPLES, nt_samples_batch_size=each),
        OCCLUSION: by(attr.Occlusion(module), sliding_window_shapes=window, strides=window, perturbations_per_eval=each),
        f"GradientSHAP:samples={SAMPLES}:baseline=zeros": by(
            attr.GradientShap(module), baselines=torch.zeros_like(x[:1]), n_samples=SAMPLES, stdevs=0.1
        ),
        "LIME:samples=64:segments=grid:cells=4": by(attr.Lime(module), **segments),
        "KernelSHAP:samples=64:segments=grid:cells=4": by(attr.KernelShap(module), **segments),
        "DeepLIFT": by(attr.DeepLift(outside)),
        "LRP": by(attr.LRP(outside)),
        "Guided Backprop": by(attr.GuidedBackprop(outside)),
        "Deconvolution": by(attr.Deconvolution(outside)),
        "Guided Grad-CAM": by(attr.GuidedGradCam(outside, outside.get_submodule(model.layer("Final").path))),
    }


def _pytorch_grad_cam(model: Classifier, module: nn.Module, x: Tensor) -> Maps:
    final = model.layer("Final")
    layer, reshape = module.get_submodule(final.path), None if final.layout.kind == "NCHW" else final.layout.spatial

    def cam(name: str, target: Any) -> Callable[[], Any]:
        def work() -> Any:
            # Made anew, because hooks of all instances would run at every call.
            with getattr(pytorch_grad_cam, name)(module, [layer], reshape_transform=reshape) as method:
                method.batch_size = rows_at_once(model, model.input_size)
                return method(input_tensor=x.clone().requires_grad_(), targets=[target] * len(x))

        return work

    maps = {name: cam(theirs, ClassifierOutputTarget(0)) for name, theirs in GRAD_CAMS.items()}
    maps[FINER_CAM] = cam("GradCAM", FinerWeightedTarget(0, REFERENCES, 1.0))
    if final.layout.kind == "NCHW":
        # Elsewhere it leaves out the biases of linear layers and norms.
        maps["FullGrad:rescale=channel"] = cam("FullGrad", ClassifierOutputTarget(0))
    return maps


def _torch_cam(model: Classifier, module: nn.Module, x: Tensor) -> Maps:
    final = model.layer("Final")
    reshape = None if final.layout.kind == "NCHW" else final.layout.spatial
    shape, rows = tuple(x.shape[1:]), rows_at_once(model, model.input_size)

    def cam(name: str, layer: Any = final.path, **options: Any) -> Callable[[], Any]:
        def work() -> Any:
            with getattr(torchcam.methods, name)(module, layer, **options) as method:
                return method(0, module(x.clone().requires_grad_()))

        return work

    at: dict[str, Any] = dict(input_shape=shape, reshape_transform=reshape)
    more: dict[str, dict[str, Any]] = {name: {"batch_size": rows} for name in ("ScoreCAM", "SSCAM", "ISCAM")}
    maps = {name: cam(theirs, **at, **more.get(theirs, {})) for name, theirs in TORCH_CAMS.items()}

    def finer() -> Any:
        with torchcam.methods.FinerCAM(module, final.path, gamma=1.0, **at) as method:
            return method(class_idx=0, scores=module(x.clone().requires_grad_()), comparison_idx=REFERENCES)

    maps[FINER_CAM] = finer
    if hasattr(module, "encoder"):
        blocks = [f"encoder.layers.{name}" for name, _ in module.encoder.layers.named_children()]  # type: ignore[union-attr]
        maps["LeGrad"] = cam("LeGrad", blocks)
    return maps


def _zennit(model: Classifier, module: nn.Module, x: Tensor) -> Maps:
    outside, one = _outside(module), torch.eye(len(model.class_names))[[0] * len(x)]
    composites, folded = zennit.composites, [zennit.canonizers.SequentialMergeBatchNorm()]

    def by(make: Callable[[nn.Module], Any]) -> Callable[[], Any]:
        def work() -> Any:
            with make(outside) as attributor:
                return attributor(x.clone(), one)

        return work

    def propagated(composite: Any) -> Callable[[], Any]:
        return by(lambda net: zennit.attribution.Gradient(net, composite))

    attribution = zennit.attribution
    maps = {
        "Gradient": by(attribution.Gradient),
        IG: by(lambda net: attribution.IntegratedGradients(net, n_iter=STEPS)),
        SMOOTH_GRAD: by(lambda net: attribution.SmoothGrad(net, n_iter=SAMPLES)),
        OCCLUSION: by(lambda net: attribution.Occlusion(net, window=WINDOW, stride=WINDOW)),
        "Guided Backprop": propagated(composites.GuidedBackprop()),
        "Deconvolution": propagated(composites.DeconvNet()),
    }
    if model.layer("Final").layout.kind == "NCHW":
        # It has no rules for attention and LayerNorm.
        maps["LRP:rule=alpha1beta0"] = propagated(composites.EpsilonPlus(canonizers=folded))
        maps["LRP:rule=alpha1beta0:first=flat"] = propagated(composites.EpsilonPlusFlat(canonizers=folded))
        maps["LRP:rule=alpha2beta1"] = propagated(composites.EpsilonAlpha2Beta1(canonizers=folded))
    return maps


def _outside(module: nn.Module) -> nn.Module:
    """Return a copy of the model without in-place activations."""
    outside = copy.deepcopy(module)
    for submodule in outside.modules():
        if "inplace" in vars(submodule):
            vars(submodule)["inplace"] = False
    return outside
