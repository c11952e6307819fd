"""Methods side by side with Captum and pytorch-grad-cam: `python -m benchmarks.rivals`.

The rivals get what serves them best: weights without gradients, channels_last, whole batches, and as many rows at once as we take.
All in turns in one process; the best of all turns counts, in CPU seconds, which other programs on the machine disturb least.
"""

import argparse
import copy
import time
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

from attrlib.methods import BATCH_SIZE, METHODS, attribute
from attrlib.models import EMBEDDED, Classifier
from attrlib.specs import MethodSpec

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
PARAMS: dict[str, dict[str, int]] = {"IG": {"steps": 16}, "SmoothGrad": {"samples": 16}, "Occlusion": {"window": 56, "stride": 56}}


def rivals(model: Classifier, images: Tensor) -> Mapping[str, tuple[str, Callable[[], Any]]]:
    """For each method who else has it, and their maps of the images for class 0."""
    module: nn.Module = copy.deepcopy(model.module).eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = images.contiguous(memory_format=torch.channels_last)
    layer = module.get_submodule(model.layer("Final").path)
    noisy = captum.attr.NoiseTunnel(captum.attr.Saliency(module))

    def cam(name: str) -> Callable[[], Any]:
        made = getattr(pytorch_grad_cam, name)(module, [layer])
        made.batch_size = BATCH_SIZE
        targets = [ClassifierOutputTarget(0)] * len(x)
        return lambda: made(input_tensor=x.clone().requires_grad_(), targets=targets)

    found: dict[str, tuple[str, Callable[[], Any]]] = {
        "Gradient": ("Captum", lambda: captum.attr.Saliency(module).attribute(x.clone(), 0, abs=False)),
        "IxG": ("Captum", lambda: captum.attr.InputXGradient(module).attribute(x.clone(), 0)),
        "IG": (
            "Captum",
            lambda: captum.attr.IntegratedGradients(module).attribute(
                x.clone(), target=0, n_steps=PARAMS["IG"]["steps"], internal_batch_size=BATCH_SIZE
            ),
        ),
        "SmoothGrad": (
            "Captum",
            lambda: noisy.attribute(x.clone(), nt_type="smoothgrad", nt_samples=16, nt_samples_batch_size=BATCH_SIZE // len(x), target=0),
        ),
        "Occlusion": (
            "Captum",
            lambda: captum.attr.Occlusion(module).attribute(
                x.clone(), (3, 56, 56), (3, 56, 56), target=0, perturbations_per_eval=BATCH_SIZE // len(x)
            ),
        ),
    }
    return found | {name: ("pytorch-grad-cam", cam(theirs)) for name, theirs in CAMS.items()}


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--slow", action="store_true", help=f"with {' and '.join(SLOW)}, a pass for every channel")
    options = parser.parse_args()
    if not 1 <= options.images <= BATCH_SIZE:
        parser.error(f"--images must be from 1 to {BATCH_SIZE}, which are rows at once")
    # It says with every call that it sets a flag of its input.
    warnings.filterwarnings("ignore", module="captum")
    model = attrlib.load_model(options.model, device="cpu")
    images = torch.randn(options.images, 3, *model.input_size, generator=torch.Generator().manual_seed(1))
    print(f"{'method':16} {'ours':>9} {'theirs':>9}   ratio   (CPU s, {options.images} images, {model.name})")
    for name, (who, theirs) in rivals(model, images).items():
        if name in SLOW and not options.slow:
            continue
        spec = MethodSpec(name, METHODS[name].default_layer, tuple(PARAMS.get(name, {}).items()))
        ours = lambda spec=spec: attribute(model, spec, images, [0] * len(images))  # noqa: E731
        turns = [(seconds(ours), seconds(theirs)) for _ in range(options.turns)]
        mine, other = (min(values) for values in zip(*turns, strict=True))
        print(f"{name:16} {mine:9.3f} {other:9.3f} {mine / other:7.2f}   {who}", flush=True)


if __name__ == "__main__":
    main()
