"""Performance information curves against the authors' code in the package `saliency`, and in closed form."""

import math

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from saliency.metrics import pic
from support.judged import evaluate, given, values
from support.method_nets import pictures
from torch import Tensor, nn

from attrlib.errors import ProtocolError
from attrlib.protocols import Batch, EvalBatch, EvalContext, create
from attrlib.protocols.information import KNOWN, SHARES, curve_area, information, interpolated
from attrlib.specs import ProtocolSpec

SIDE, COUNT = 24, 5
LABELS = (0,) * COUNT


class Contrast(nn.Module):
    """The probability of the first class grows with the contrast of the picture's centre, of which a blurred picture has little."""

    def forward(self, images: Tensor) -> Tensor:
        part = images[:, :, 6:18, 6:18]
        score = 14 * (part - part.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)) - 9
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.fixture(scope="module")
def model() -> attrlib.Classifier:
    return attrlib.wrap_model(Contrast(), SIDE, mean=[0.5, 0.4, 0.3], std=[0.25, 0.3, 0.35])


@pytest.fixture(scope="module")
def images(model: attrlib.Classifier) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    colours = torch.rand(COUNT, 3, SIDE, SIDE, generator=generator)
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (model.preprocessing.mean, model.preprocessing.std))
    return (colours - mean) / std


@pytest.fixture(scope="module")
def maps() -> Tensor:
    centre = torch.zeros(COUNT, 1, SIDE, SIDE)
    centre[:, :, 6:18, 6:18] = 1
    weight = torch.tensor([0.0, 0.3, 0.6, 1.0, -1.0]).view(-1, 1, 1, 1)
    return weight * centre + 0.5 * pictures(COUNT, SIDE, SIDE, seed=5)[:, :1]


def picture_of(model: attrlib.Classifier, image: Tensor) -> np.ndarray:
    return (model.preprocessing.denormalise(image).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def mask_of(model: attrlib.Classifier, item: str) -> np.ndarray:
    """The random pixels of an item, drawn as the protocol draws them."""
    chosen = torch.randperm(SIDE * SIDE, generator=EvalContext(model).generator(item, "information"))[: int(KNOWN * SIDE * SIDE)]
    mask = np.zeros(SIDE * SIDE, bool)
    mask[chosen.numpy()] = True
    return mask.reshape(SIDE, SIDE)


@pytest.mark.parametrize("name", ["sic", "aic"])
def test_areas_are_those_of_the_authors_code(
    name: str, model: attrlib.Classifier, images: Tensor, maps: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NumPy 2.4 has no `trapz` any more.
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)

    def predict(batch: np.ndarray) -> np.ndarray:
        colours = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (model.preprocessing.mean, model.preprocessing.std))
        probability = model.module((colours - mean) / std).softmax(1)[:, 0]
        return (probability if name == "sic" else (probability >= 0.5).float()).numpy()

    found = values(evaluate(name + ":target=label", model, images, given(maps), LABELS))
    expected = []
    for k in range(COUNT):
        try:
            result = pic.compute_pic_metric(
                picture_of(model, images[k]), maps[k, 0].double().numpy(), mask_of(model, f"image {k}"), predict, SHARES, min_pred_value=0.8
            )
            expected.append(result.auc)
        except pic.ComputePicMetricError:
            expected.append(math.nan)
    assert np.isfinite(expected).sum() >= 4
    # Theirs samples the curve at 1,000 places.
    assert found == pytest.approx(np.array(expected), abs=2e-3, nan_ok=True)
    assert np.nanstd(expected) > 0.02


def test_pictures_are_interpolated_and_measured_as_in_the_authors_code() -> None:
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    for share in (0.02, 0.4):
        known = generator.random((17, 23)) < share
        expected = pic.create_blurred_image(picture, known)
        assert np.abs(interpolated(picture, known).astype(int) - expected.astype(int)).max() <= 1
    assert np.array_equal(interpolated(picture, np.ones((17, 23), bool)), picture)
    assert information(picture) == pic.estimate_image_entropy(picture)
    grey = picture[..., :1]
    assert information(grey) == pic.estimate_image_entropy(grey[..., 0])


def test_the_area_has_a_closed_form() -> None:
    assert curve_area([0, 25, 50, 100], [0, 0.5, 0.5, 1]) == pytest.approx(0.25 * 0.25 + 0.25 * 0.5 + 0.5 * 0.75)
    # Once reached, a value is kept; sizes need not grow with the restored pixels.
    assert curve_area([0, 50, 25, 100], [0, 1, 0, 1]) == pytest.approx(0.25 * 0.5 + 0.75)
    assert math.isnan(curve_area([10, 11, 10], [0, 0.5, 1]))
    assert math.isnan(curve_area([0, 5, 10], [0.9, 0.5, 0.9]))


def test_scores_are_undefined_for_uncertain_images_and_maps_that_are_not_finite(
    model: attrlib.Classifier, images: Tensor, maps: Tensor
) -> None:
    broken = maps.clone()
    broken[0, 0, 3, 3] = math.nan
    shown = torch.cat([images[:4], 0 * images[:1]])
    for name in ("sic:target=label", "aic:target=label"):
        sound, found = (
            values(evaluate(name, model, *given_images, LABELS)) for given_images in ((images, given(maps)), (shown, given(broken)))
        )
        assert np.isnan(found[[0, 4]]).all()
        assert np.isfinite(sound).sum() >= 4
        assert np.array_equal(found[1:4], sound[1:4], equal_nan=True)
    strict = values(evaluate("sic:target=label:confidence=1", model, images[:2], given(maps[:2]), LABELS[:2]))
    assert np.isnan(strict).all()


def test_a_constant_map_restores_all_pixels_at_once(model: attrlib.Classifier, images: Tensor) -> None:
    (found,) = values(evaluate("sic:target=label", model, images[:1], given(torch.ones(1, 1, SIDE, SIDE)), LABELS[:1]))
    assert found == pytest.approx(0.5)


def test_the_accuracy_curve_reads_the_results_of_the_other(model: attrlib.Classifier, images: Tensor, maps: Tensor) -> None:
    aic, labels = create(ProtocolSpec.parse("aic:target=label")), torch.zeros(2, dtype=torch.long)
    batch = Batch(("a", "b"), images[:2], labels)
    asked: list[str] = []

    def outcomes_of(source, inputs):  # type: ignore[no-untyped-def]
        asked.append(str(source.key()))
        return source.evaluate(inputs)

    aic.evaluate(EvalBatch(EvalContext(model), batch, labels, {}, given(maps[:2]), outcomes_of))
    (only,) = asked
    assert "sic" in only


def test_images_with_other_channels_are_refused() -> None:
    model = attrlib.wrap_model(nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 3)), 8, mean=[0.0] * 4, std=[1.0] * 4)
    with pytest.raises(ProtocolError, match="sic measures the size of a picture, which has one or three channels"):
        create(ProtocolSpec("sic")).check(model)
