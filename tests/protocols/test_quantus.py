"""Protocols against Quantus, where it defines the same score; where it differs, the test says how."""

from collections.abc import Callable, Sequence
from functools import cache

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import quantus
import torch
from support.judged import Model, given, steep_model, values
from support.method_nets import pictures
from torch import Tensor, nn

from attrlib.protocols import Batch, EvalBatch, EvalContext, create
from attrlib.protocols.subsets import subsets
from attrlib.specs import ProtocolSpec

SIDE, COUNT = 8, 4
TARGETS = (2, 0, 4, 1)
MAPS = pictures(COUNT, SIDE, SIDE, seed=5)[:, :1]


class OneChannel(nn.Module):
    """A small net of grey images, so that a pixel is one feature, as in Quantus."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first, self.second = nn.Linear(SIDE * SIDE, 12), nn.Linear(12, 5)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.4)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(images.flatten(1))))


@cache
def grey() -> Model:
    return attrlib.wrap_model(OneChannel().eval(), SIDE, mean=[0.0], std=[1.0])


def grey_images() -> Tensor:
    return torch.randn(COUNT, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def ours(protocol: str, model: Model, images: Tensor, masks: Tensor | None = None) -> np.ndarray:
    own, context, labels = create(ProtocolSpec.parse(protocol)), EvalContext(model), torch.tensor(TARGETS)
    batch = Batch(names(), images, labels, masks)
    measured = {m: m.measure(context, batch, labels) for m in own.measurements}
    return values(own.evaluate(EvalBatch(context, batch, labels, measured, given(MAPS))))


def names() -> tuple[str, ...]:
    return tuple(f"image {i}" for i in range(COUNT))


def theirs(
    metric: "quantus.Metric", module: nn.Module, images: Tensor, maps: Tensor = MAPS, masks: Tensor | None = None, softmax: bool = False
) -> np.ndarray:
    found = metric(
        model=module, x_batch=images.numpy(), y_batch=np.array(TARGETS), a_batch=maps.numpy().copy(),
        s_batch=None if masks is None else masks[:, None].numpy(), device="cpu", softmax=softmax, channel_first=True,
    )  # fmt: skip
    return np.array(found, dtype=np.float64)


RAW = {"normalise": False, "disable_warnings": True, "display_progressbar": False}


def zeroed(arr: np.ndarray, indices: np.ndarray, **_: object) -> np.ndarray:
    changed = arr.copy()
    np.put_along_axis(changed, indices, 0.0, axis=1)
    return changed


def test_compactness_is_sparseness_and_entropy_is_complexity() -> None:
    model, images = steep_model((SIDE, SIDE)), pictures(COUNT, SIDE, SIDE)
    # Quantus adds 1e-7 to each value, and 1e-12 in the logarithm.
    assert ours("compactness", model, images) == pytest.approx(theirs(quantus.Sparseness(abs=True, **RAW), model.module, images), abs=1e-5)
    assert ours("entropy", model, images) == pytest.approx(theirs(quantus.Complexity(abs=True, **RAW), model.module, images), abs=1e-5)


@pytest.mark.parametrize(
    ("protocol", "metric", "maps"),
    [
        ("pointing", lambda: quantus.PointingGame(abs=False, **RAW), MAPS),
        # Quantus sums signed values, whose share has no bounds; the paper pools positive relevance.
        ("mass", lambda: quantus.RelevanceMassAccuracy(abs=False, **RAW), MAPS.clamp_min(0)),
        ("rank", lambda: quantus.RelevanceRankAccuracy(abs=False, **RAW), MAPS),
    ],
)
def test_localisation_on_masks(protocol: str, metric: Callable[[], "quantus.Metric"], maps: Tensor) -> None:
    model, images = steep_model((SIDE, SIDE)), pictures(COUNT, SIDE, SIDE)
    masks = torch.zeros(COUNT, SIDE, SIDE, dtype=torch.bool)
    for k, (row, column) in enumerate([(0, 0), (2, 3), (4, 1), (1, 4)]):
        masks[k, row : row + 4, column : column + 3] = True
    expected = theirs(metric(), model.module, images, maps, masks)
    assert ours(protocol, model, images, masks) == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) > 1


def test_faithfulness_correlation_on_the_same_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, samples, count = grey(), grey_images(), 20, 13
    drawn = [subsets(EvalContext(model), name, SIDE, count, samples) for name in names()]
    order = iter([drawn[image][run].nonzero()[:, 0].numpy() for run in range(samples) for image in range(COUNT)])
    monkeypatch.setattr(np.random, "choice", lambda *_arguments, **_options: next(order))
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=samples, subset_size=count, perturb_func=zeroed, return_aggregate=False, abs=False, **RAW
    )
    expected = theirs(metric, model.module, images)
    share = count / SIDE**2
    assert ours(f"faithfulness:grid={SIDE}:samples={samples}:share={share}", model, images) == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.05


def test_pixel_flipping_is_incremental_deletion_of_the_most_relevant_first() -> None:
    model, images, steps = grey(), grey_images(), SIDE**2
    metric = quantus.PixelFlipping(features_in_step=1, perturb_func=zeroed, abs=False, **RAW)
    curve = theirs(metric, model.module, images, softmax=True)
    whole = model(images).detach().double().softmax(1)[range(COUNT), TARGETS].numpy()
    # Ours begins with the whole image, and ends before the last pixel is gone.
    expected = (whole + curve[:, :-1].sum(1)) / steps
    assert ours(f"ids:order=descending:steps={steps}", model, images) == pytest.approx(expected, abs=1e-6)


def test_irof_is_the_area_over_quantus_curve_and_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = steep_model((SIDE, SIDE)), pictures(COUNT, SIDE, SIDE)
    segments = (torch.arange(SIDE)[:, None] // 4 * 4 + torch.arange(SIDE) // 2).long()
    segments = segments.unique(return_inverse=True)[1]
    count = int(segments.max()) + 1
    monkeypatch.setattr("attrlib.protocols.regions.superpixels", lambda *_arguments: segments)
    # NumPy 2.4 has no `trapz` any more.
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    monkeypatch.setattr(quantus.helpers.utils, "get_superpixel_segments", lambda **_options: segments.numpy())
    metric = quantus.IROF(perturb_func=lambda arr, mask, **_options: np.where(mask, 0, arr), return_aggregate=False, abs=False, **RAW)
    area = theirs(metric, model.module, images, softmax=True)
    first = first_steps(model, images, segments, count)
    # Quantus leaves out the step from the whole image to the first deletion, and does not divide by the number of segments.
    expected = (area - (1 + first) / 2) / count
    assert ours(f"irof:steps={count}", model, images) == pytest.approx(expected, abs=1e-5)


def first_steps(model: Model, images: Tensor, segments: Tensor, count: int) -> np.ndarray:
    """Return the probability without the most relevant segment, as a share of that of the image."""
    shares: Sequence[float] = []
    for image, map_, target in zip(images, MAPS[:, 0], TARGETS, strict=True):
        best = max(range(count), key=lambda segment: float(map_[segments == segment].mean()))
        before, after = (model(x[None]).detach().double().softmax(1)[0, target] for x in (image, torch.where(segments == best, 0, image)))
        shares = [*shares, float(after / before)]
    return np.array(shares)
