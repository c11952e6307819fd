"""Compare the speed of methods with Captum and pytorch-grad-cam: `python -m benchmarks.rivals`.

The other libraries run under the best conditions for them: weights without gradients, channels_last, whole batches, and the same number of
rows per pass as attrlib. All run alternately in one process; the best of all turns counts, in CPU seconds, which other programs disturb
least. Captum's rules for ReLU do not cover ReLU6, and fail for activations that are in place or used twice: Captum gets a copy of the model
without in-place activations, and the output reports where this is not enough. For IG, both compute the convergence error.
"""

import argparse
import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import captum.attr
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from attrlib.errors import AttrlibError
from attrlib.methods import BATCH_SIZE, METHODS, attribute, rows_at_once
from attrlib.models import EMBEDDED, Classifier
from attrlib.specs import MethodSpec
from benchmarks.methods import best

CAMS = {
    "Grad-CAM": "GradCAM",
    "Grad-CAM++": "GradCAMPlusPlus",
    "XGrad-CAM": "XGradCAM",
    "HiRes-CAM": "HiResCAM",
    "Layer-CAM": "LayerCAM",
    "Eigen-CAM": "EigenCAM",
    "Score-CAM": "ScoreCAM",
    "Ablation-CAM": "AblationCAM",
}
SLOW = ("Score-CAM", "Ablation-CAM")
PARAMS: dict[str, dict[str, int | str]] = {
    "IG": {"steps": 16},
    "SmoothGrad": {"samples": 16},
    "GradientSHAP": {"samples": 16, "baseline": "zeros"},
    "Occlusion": {"window": 56, "stride": 56},
    "LIME": {"samples": 64, "segments": "grid", "cells": 4},
    "KernelSHAP": {"samples": 64, "segments": "grid", "cells": 4},
}


def rivals(model: Classifier, x: Tensor) -> Mapping[str, tuple[str, Callable[[], Any]]]:
    """Return, for each method, the library that implements it and a function that computes its maps.

    The maps explain class 0 of images x, in the memory format that convolutions prefer.
    """
    module: nn.Module = copy.deepcopy(model.module).eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer = module.get_submodule(model.layer("Final").path)
    rows = rows_at_once(model, model.input_size)
    each = max(1, rows // len(x))
    noisy = captum.attr.NoiseTunnel(captum.attr.Saliency(module))
    outside = copy.deepcopy(module)
    for submodule in outside.modules():
        if "inplace" in vars(submodule):
            vars(submodule)["inplace"] = False
    height, width = model.input_size
    down, right = ((torch.arange(side) * 4 // side) for side in (height, width))
    segments = (4 * down[:, None] + right)[None, None]

    def cam(name: str) -> Callable[[], Any]:
        method = getattr(pytorch_grad_cam, name)(module, [layer])
        method.batch_size = rows
        targets = [ClassifierOutputTarget(0)] * len(x)
        return lambda: method(input_tensor=x.clone().requires_grad_(), targets=targets)

    def by(method: Any, **options: Any) -> Callable[[], Any]:
        return lambda: method.attribute(x.clone(), target=0, **options)

    maps: dict[str, tuple[str, Callable[[], Any]]] = {
        "Gradient": ("Captum", lambda: captum.attr.Saliency(module).attribute(x.clone(), 0, abs=False)),
        "IxG": ("Captum", lambda: captum.attr.InputXGradient(module).attribute(x.clone(), 0)),
        "IG": (
            "Captum",
            lambda: captum.attr.IntegratedGradients(module).attribute(
                x.clone(), target=0, n_steps=PARAMS["IG"]["steps"], internal_batch_size=rows, return_convergence_delta=True
            ),
        ),
        "SmoothGrad": (
            "Captum",
            lambda: noisy.attribute(x.clone(), nt_type="smoothgrad", nt_samples=16, nt_samples_batch_size=each, target=0),
        ),
        "Occlusion": (
            "Captum",
            lambda: captum.attr.Occlusion(module).attribute(x.clone(), (3, 56, 56), (3, 56, 56), target=0, perturbations_per_eval=each),
        ),
        "GradientSHAP": (
            "Captum",
            lambda: captum.attr.GradientShap(module).attribute(x.clone(), torch.zeros_like(x[:1]), n_samples=16, stdevs=0.1, target=0),
        ),
    }
    rules = {"DeepLIFT": "DeepLift", "LRP": "LRP", "Guided Backprop": "GuidedBackprop", "Deconvolution": "Deconvolution"}
    for name, theirs in rules.items():
        maps[name] = "Captum", by(getattr(captum.attr, theirs)(outside))
    for name, theirs in {"LIME": "Lime", "KernelSHAP": "KernelShap"}.items():
        maps[name] = "Captum", by(getattr(captum.attr, theirs)(module), feature_mask=segments, n_samples=64, perturbations_per_eval=rows)
    maps["Guided Grad-CAM"] = "Captum", by(captum.attr.GuidedGradCam(outside, outside.get_submodule(model.layer("Final").path)))
    return maps | {name: ("pytorch-grad-cam", cam(theirs)) for name, theirs in CAMS.items()}


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call, over all threads."""
    return best(work, torch.device("cpu"))


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--slow", action="store_true", help=f"include {' and '.join(SLOW)}, which need a pass per channel")
    options = parser.parse_args()
    if not 1 <= options.images <= BATCH_SIZE:
        parser.error(f"--images must be from 1 to {BATCH_SIZE}, the number of rows per pass")
    # Captum warns at every call that it sets requires_grad of its input.
    warnings.filterwarnings("ignore", module="captum")
    model = attrlib.load_model(options.model, device="cpu")
    images = model.place(torch.randn(options.images, 3, *model.input_size, generator=torch.Generator().manual_seed(1)))
    print(f"{'method':16} {'ours':>9} {'theirs':>9}   ratio   (CPU s, {options.images} images, {model.name})")
    for name, (library, theirs) in rivals(model, images).items():
        if name in SLOW and not options.slow:
            continue
        spec = MethodSpec(name, METHODS[name].default_layer, tuple(PARAMS.get(name, {}).items()))
        ours = lambda spec=spec: attribute(model, spec, images, [0] * len(images))  # noqa: E731
        try:
            theirs()
        except (AssertionError, RuntimeError, TypeError) as error:
            print(f"{name:16} {library} fails: {str(error).splitlines()[0][:100]}")
            continue
        try:
            METHODS[name]().check(model, model.layer(spec.layer))
        except AttrlibError as error:
            print(f"{name:16} {str(error)[:120]}")
            continue
        turns = [(seconds(ours), seconds(theirs)) for _ in range(options.turns)]
        mine, other = (min(values) for values in zip(*turns, strict=True))
        print(f"{name:16} {mine:9.3f} {other:9.3f} {mine / other:7.2f}   {library}", flush=True)


if __name__ == "__main__":
    main()
