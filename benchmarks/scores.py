"""Compare SDS of all methods with the procedure of the reference code: `python -m benchmarks.scores --data FOLDER`.

The reference code (Hesse et al., NeurIPS 2024, visinf/idsds) recomputes everything for every method: the maps (gradients by batch, CAMs and
perturbation methods one image at a time), then 17 separate forward passes with autograd enabled, in PyTorch's default memory format. Here
this procedure is implemented in plain PyTorch and Captum, and scored by SciPy, so that the scores validate each other. Both run in one
process; the time of a method is that of its maps plus its share of the rest. Methods with many passes are limited to `--passes` on both
sides, so that the benchmark ends within minutes. On a machine that other programs use, trust CPU seconds.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from captum.attr import InputXGradient, IntegratedGradients, Occlusion, Saliency
from scipy.stats import spearmanr
from torch import Tensor, nn

import attrlib
from attrlib.data.datasets import Dataset
from attrlib.data.labels import match_classes
from attrlib.engine.items import image_items
from attrlib.engine.loader import Loader
from attrlib.engine.plan import make_plan
from attrlib.engine.run import run
from attrlib.methods import METHODS, attribute, create, defined
from attrlib.models import Classifier
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec
from attrlib.store import Store
from attrlib.studies.choose import cost_of, every, is_post_hoc
from benchmarks.clock import now, timed

GOAL, GOAL_FAST, TOLERANCE = 2.5, 4.0, 0.01
Maps = Callable[[Tensor, Tensor], Tensor]


def grad_cam(module: nn.Module, layer: nn.Module, positive: bool) -> Maps:
    """Return Grad-CAM, or Layer-CAM (which clamps gradients first), computed one image at a time."""

    def maps(images: Tensor, targets: Tensor) -> Tensor:
        all_maps = []
        for image, target in zip(images, targets, strict=True):
            activations: list[Tensor] = []
            handle = layer.register_forward_hook(lambda _m, _i, output: activations.append(output))  # noqa: B023
            score = module(image[None])[0, target]
            handle.remove()
            (gradient,) = torch.autograd.grad(score, activations[0])
            weights = gradient.relu() if positive else gradient.mean((2, 3), keepdim=True)
            all_maps.append((weights * activations[0]).sum(1, keepdim=True).relu())
        return F.interpolate(torch.cat(all_maps), size=images.shape[2:], mode="bilinear")

    return maps


def reference_maps(model: Classifier, module: nn.Module, spec: MethodSpec) -> Maps:
    """Return the method as users of other libraries write it: Captum's version if it exists, else one image at a time."""
    final = module.get_submodule(model.layer("Final").path)
    method = METHODS[spec.name](**spec.values)

    def one_by_one(images: Tensor, targets: Tensor) -> Tensor:
        maps = [attribute(model, spec, image[None], [int(target)]).maps for image, target in zip(images, targets, strict=True)]
        return F.interpolate(torch.cat(maps), size=images.shape[2:], mode="bilinear")

    def integrated(images: Tensor, targets: Tensor) -> Tensor:
        captum_ig = IntegratedGradients(module)
        # All steps of one image at once: those of a whole batch would not fit.
        maps = [captum_ig.attribute(i[None], target=int(t), n_steps=method.steps) for i, t in zip(images, targets, strict=True)]  # type: ignore[attr-defined]
        return torch.cat(maps).sum(1, keepdim=True)

    def occluded(images: Tensor, targets: Tensor) -> Tensor:
        window, stride = method.window or 16, method.stride or 8  # type: ignore[attr-defined]
        maps = [
            Occlusion(module).attribute(i[None], (3, window, window), (3, stride, stride), target=int(t))
            for i, t in zip(images, targets, strict=True)
        ]
        return torch.cat(maps).sum(1, keepdim=True)

    return {
        "Gradient": lambda x, t: Saliency(module).attribute(x, target=t, abs=False).sum(1, keepdim=True),
        "IxG": lambda x, t: InputXGradient(module).attribute(x, target=t).sum(1, keepdim=True),
        "IG": integrated,
        "Grad-CAM": grad_cam(module, final, positive=False),
        "Layer-CAM": grad_cam(module, final, positive=True),
        "Occlusion": occluded,
    }.get(spec.name, one_by_one)


def reference(model: Classifier, specs: list[MethodSpec], images: Tensor, labels: Tensor) -> dict[MethodSpec, tuple[float, np.ndarray]]:
    """Return the mean SDS of every method by the reference procedure, and its wall-clock and CPU seconds.

    Args:
        model: Model to explain.
        specs: Methods to score.
        images: Preprocessed images (N,3,H,W).
        labels: Class of each image (N,).
    """
    module = copy.deepcopy(model.module).to(memory_format=torch.contiguous_format).eval().requires_grad_(True)  # type: ignore[call-overload]
    slow = model.with_module(module)
    results = {}
    for spec in specs:
        start, values = now(), []
        maps_of = reference_maps(slow, module, spec)
        for first in range(0, len(images), 16):
            x, t = images[first : first + 16].contiguous(), labels[first : first + 16]
            maps = maps_of(x, t).detach().numpy()
            outputs = [module(x).gather(1, t[:, None]).detach()[:, 0].numpy()]
            side = x.shape[2] // 4
            patches = [(slice(side * r, side * (r + 1)), slice(side * c, side * (c + 1))) for r in range(4) for c in range(4)]
            for rows, columns in patches:
                deleted = x.clone()
                deleted[:, :, rows, columns] = 0
                outputs.append(module(deleted).gather(1, t[:, None]).detach()[:, 0].numpy())
            drops = outputs[0][:, None] - np.stack(outputs[1:], 1)
            sums = np.stack([maps[:, 0, rows, columns].sum((1, 2)) for rows, columns in patches], 1)
            values += [spearmanr(a, b).statistic for a, b in zip(drops, sums, strict=True)]
        results[spec] = (float(np.nanmean(values)), now() - start)
    return results


def ours(model: Classifier, data: Dataset, specs: list[MethodSpec], limit: int, fast: bool) -> tuple[dict[str, float], np.ndarray]:
    """Return the mean SDS of every method by a run with an empty store, and the wall-clock and CPU seconds of the whole run.

    Args:
        model: Model to explain.
        data: Data set.
        specs: Methods to score.
        limit: Number of images.
        fast: Whether to use a fast run.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder=Path(folder))
        spec = RunSpec(ModelSpec(model.name), data.name, (ProtocolSpec("sds"),), tuple(specs), limit, fast=fast)
        result, seconds = timed(lambda: run(make_plan(spec, model, data, store)))
        store.close()
    return {str(method): score.mean for (_, method), score in result.scores.items()}, seconds


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of class folders named by WNID, for example of imagenette's val")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--passes", type=int, default=64, help="maximum number of passes per map")
    options = parser.parse_args()
    model, data = attrlib.load_model(device="cpu"), attrlib.load_dataset(options.data)
    possible, _ = defined(model, every(model, options.passes, keep=is_post_hoc))
    specs = [s for s in possible if cost_of(create(s).passes(model.layer(s.layer or METHODS[s.name].default_layer))) <= options.passes]
    exact, exact_seconds = ours(model, data, specs, options.images, fast=False)
    fast, fast_seconds = ours(model, data, specs, options.images, fast=True)
    chosen = image_items(data, match_classes(data.class_names, model.class_names), options.images, seed=0, labelled=True)
    _, batch = Loader(model, data).get(chosen.items)
    assert batch is not None
    theirs = reference(model, specs, batch.images, batch.labels)
    print(f"{'method':40} reference    exact     fast   CPU seconds of the reference")
    for spec in specs:
        score, seconds = theirs[spec]
        print(f"{spec!s:40} {score:9.4f} {exact[str(spec)]:8.4f} {fast[str(spec)]:8.4f} {seconds[1]:8.1f}")
    total = sum(seconds for _, seconds in theirs.values())
    off = {
        # Patches of Gaussian tie in pairs, and the reference lets rounding decide their order.
        name: max(abs(scores[str(s)] - theirs[s][0]) for s in specs if not create(s).seeded and s.name != "Gaussian")
        for name, scores in (("exact", exact), ("fast", fast))
    }
    print(
        f"{len(specs)} methods, {options.images} images; seconds, and CPU seconds: reference {total}, exact {exact_seconds}, fast {fast_seconds}"
    )
    for name, seconds, goal in (("exact", exact_seconds, GOAL), ("fast", fast_seconds, GOAL_FAST)):
        wall, cpu = total / seconds
        print(f"{name}: {wall:.2f} times faster, {cpu:.2f} in CPU time (goal {goal}), scores within {off[name]:.4f} (goal {TOLERANCE})")


if __name__ == "__main__":
    main()
