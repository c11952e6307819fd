"""Training: deletion, crops, loading, recipes, schedules, resuming and errors, against plain loops, torch and torchvision."""

import copy
import errno
import math
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812
from support.training import COLOURS, HALF, Pictures, Tiny, coloured, noise
from support.waiting import LIMIT
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import gaussian_blur

import attrlib.training.finetune
from attrlib.data.datasets import Dataset
from attrlib.errors import Cancelled, DataError, ImageError, SpecError, TrainingError
from attrlib.models.architectures import BcosResNet
from attrlib.models.preprocessing import Preprocessing
from attrlib.specs import ModelSpec
from attrlib.training import PRESETS, Recipe, Trained, Training, TrainingProgress, accuracies, train, train_checkpoint
from attrlib.training.deletion import delete_patches
from attrlib.training.family import BIRDS, LITE0, PHOTOS, TROJANED, TUNED, trainings
from attrlib.training.loader import TrainLoader, random_box

SIZE = 16
PLAIN = Recipe(epochs=4, batch=8, lr=0.1, deletion=4, scale=0.6, amp=False)
"""A short training with deleted patches."""


def numbered(count: int, side: int = 20, **options: Any) -> Pictures:
    """Noise pictures with one class each, so that a label identifies its picture."""
    return Pictures([noise(k, side) for k in range(count)], list(range(count)), count, **options)


class Flat(nn.Module):
    """logits = W x + b, which a plain loop of a few lines can train."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIZE * SIZE, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def wrapped(module: Callable[[], nn.Module] = Tiny, seed: int = 0) -> attrlib.Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return attrlib.wrap_model(module(), SIZE, HALF, HALF, crop=1.0)


DATA, SELECT = coloured(8), coloured(4, start=100, name="select")


def trained(folder: Path, recipe: Recipe = PLAIN, model: attrlib.Classifier | None = None, data: Dataset = DATA, **options: Any) -> Trained:
    return train(model or wrapped(), data, range(5), options.pop("select", SELECT), range(5), recipe, folder, **options)


def same(one: Trained, other: Trained) -> bool:
    """Compare two results bit for bit, except for their seconds."""
    bits = [{name: (t.dtype, t.numpy().tobytes()) for name, t in each.state.items()} for each in (one, other)]
    return bits[0] == bits[1] and (one.epoch, one.clean, one.deleted, one.history) == (
        other.epoch,
        other.clean,
        other.deleted,
        other.history,
    )


def deterministic(count: int, size: tuple[int, int] = (SIZE, SIZE), seed: int = 0) -> Tensor:
    """Return values that differ from every baseline."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed)) + 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Deletion --------------------------------------------------------------------------------------------------------------


def cells_of(size: tuple[int, int], grid: int) -> list[Tensor]:
    """Return the masks of all patches, row by row: nearest-neighbour upsampling of one pixel in a grid."""
    one = torch.eye(grid * grid).view(-1, 1, grid, grid)
    return list(F.interpolate(one, size=size, mode="nearest")[:, 0] > 0.5)


def deleted_cells(before: Tensor, after: Tensor, grid: int) -> list[int | None]:
    """Return the patch that each image lost, None for none. Anything but one whole patch is an error."""
    masks = cells_of((before.shape[2], before.shape[3]), grid)
    found: list[int | None] = []
    for changed in before != after:
        assert (changed == changed[:1]).all(), "all channels alike"
        which = [k for k, mask in enumerate(masks) if torch.equal(mask, changed[0])]
        assert len(which) == (1 if changed.any() else 0)
        found.append(which[0] if which else None)
    return found


@pytest.mark.parametrize(("size", "grid"), [((8, 12), 4), ((10, 7), 4), ((9, 9), 3), ((6, 6), 1), ((5, 5), 5)])
def test_half_of_the_images_lose_one_patch_and_every_patch_is_equally_likely(size: tuple[int, int], grid: int) -> None:
    images = deterministic(4000, size)
    before = images.clone()
    found = deleted_cells(images, delete_patches(images, grid, "zeros", generator()), grid)
    assert torch.equal(images, before), "the input stays"
    lost = [cell for cell in found if cell is not None]
    assert scipy.stats.binomtest(len(lost), len(found), 0.5).pvalue > 1e-3
    counts = [lost.count(k) for k in range(grid * grid)]
    if grid > 1:
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
        # Neither depends on the one before.
        pairs = np.zeros((2, 2))
        for one, two in pairwise(found):
            pairs[one is None, two is None] += 1
        assert scipy.stats.chi2_contingency(pairs).pvalue > 1e-3


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_probability_of_a_deletion_is_the_requested_one(probability: float, share: float) -> None:
    images = deterministic(200)
    found = deleted_cells(images, delete_patches(images, 4, "zeros", generator(), probability), 4)
    assert sum(cell is not None for cell in found) == share * 200


def test_baselines_replace_the_same_patches_by_the_mean_colour_noise_or_the_blurred_image() -> None:
    images = deterministic(300, (32, 32))
    results = {baseline: delete_patches(images, 4, baseline, generator(3)) for baseline in ("zeros", "random", "blur")}
    cells = {baseline: deleted_cells(images, after, 4) for baseline, after in results.items()}
    assert cells["zeros"] == cells["random"] == cells["blur"]
    where = (images != results["zeros"]).any(1, keepdim=True).expand_as(images)
    assert where.any()
    assert (results["zeros"][where] == 0).all()
    assert scipy.stats.kstest(results["random"][where].numpy()[::7], "uniform", (-1, 2)).pvalue > 1e-3
    assert torch.allclose(results["blur"][where], gaussian_blur(images, [51, 51], [58.0, 58.0])[where], atol=1e-5)


def test_deleted_patches_depend_only_on_the_generator() -> None:
    images = deterministic(64)
    first = deleted_cells(images, delete_patches(images, 4, "zeros", generator(1)), 4)
    others = deterministic(64, (32, 24), seed=9).double().contiguous(memory_format=torch.channels_last)
    assert deleted_cells(others, delete_patches(others, 4, "zeros", generator(1)), 4) == first
    assert deleted_cells(images, delete_patches(images, 4, "zeros", generator(2)), 4) != first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_device_deletes_the_same_patches() -> None:
    images = deterministic(64)
    for baseline in ("zeros", "random"):
        there = delete_patches(images.cuda(), 4, baseline, generator(1))
        assert there.is_cuda
        assert torch.equal(there.cpu(), delete_patches(images, 4, baseline, generator(1)))


# Crops -----------------------------------------------------------------------------------------------------------------


def traits(boxes: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the area, aspect ratio and relative position of boxes (left, top, width, height)."""
    left, top, wide, tall = boxes.T
    width, height = size
    return {
        "area": wide * tall / (width * height),
        "aspect": np.log(wide / tall),
        "left": left / np.maximum(width - wide, 1e-9),
        "top": top / np.maximum(height - tall, 1e-9),
    }


@pytest.mark.parametrize(("size", "least"), [((3000, 3000), 0.08), ((3200, 2400), 0.08), ((2400, 3600), 0.35), ((3000, 3000), 0.6)])
def test_crops_have_the_distribution_of_torchvision(size: tuple[int, int], least: float) -> None:
    width, height = size
    count, rng, blank = 1500, np.random.default_rng(5), torch.empty(3, height, width, device="meta")
    own = np.array([random_box(size, 1.0, least, rng) for _ in range(count)])
    own[:, 2:] -= own[:, :2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        drawn = [RandomResizedCrop.get_params(blank, [least, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = np.array([(left, top, wide, tall) for top, left, tall, wide in drawn], dtype=float)
    mine, expected = traits(own, size), traits(theirs, size)
    for name in mine:
        assert scipy.stats.ks_2samp(mine[name], expected[name]).pvalue > 1e-3, name
    # The test detects a difference.
    assert scipy.stats.ks_2samp(mine["area"], expected["area"] * 0.9).pvalue < 1e-3


def test_crops_have_the_aspect_ratio_of_the_input_within_a_third_and_lie_in_the_picture() -> None:
    rng = np.random.default_rng(0)
    for aspect in (0.5, 1.0, 2.0):
        ratios = []
        for _ in range(300):
            left, top, right, bottom = random_box((90, 70), aspect, 0.08, rng)
            assert 0 <= left < right <= 90 + 1e-9
            assert 0 <= top < bottom <= 70 + 1e-9
            assert (right - left) * (bottom - top) >= 0.08 * 90 * 70 - 1e-6
            ratios.append((right - left) / (bottom - top) / aspect)
        assert 3 / 4 - 1e-9 <= min(ratios) < 0.8
        assert 1.25 < max(ratios) <= 4 / 3 + 1e-9


@pytest.mark.parametrize(
    ("size", "aspect", "least", "box"),
    [
        ((100, 50), 1.0, 1.0, (25, 0, 75, 50)),
        ((50, 100), 2.0, 1.0, (0, 37.5, 50, 62.5)),
        ((60, 60), 1.0, 1.0, (0, 0, 60, 60)),
        # No crop of 8 % of the area and nearly square fits in.
        ((1000, 10), 1.0, 0.08, (495, 0, 505, 10)),
    ],
)
def test_without_cropping_or_a_fitting_crop_the_largest_centred_crop_is_used(size: Any, aspect: float, least: float, box: Any) -> None:
    assert random_box(size, aspect, least, np.random.default_rng(0)) == pytest.approx(box)


# Loading ---------------------------------------------------------------------------------------------------------------


def loader(data: Dataset, recipe: Recipe, size: int = SIZE, threads: int = 2, classes: Sequence[int] | None = None) -> TrainLoader:
    count = len(data.class_names)
    return TrainLoader(data, classes or range(count), Preprocessing((size, size), HALF, HALF), recipe, count, threads)


def order(data: Dataset, recipe: Recipe, epoch: int = 0, **options: Any) -> list[int]:
    return [int(label) for _, labels in loader(data, recipe, **options).epoch(epoch) for label in labels]


def by_label(data: Dataset, recipe: Recipe, epoch: int = 0, **options: Any) -> dict[int, bytes]:
    found = {}
    for images, labels in loader(data, recipe, **options).epoch(epoch):
        assert images.dtype == torch.uint8
        assert images.shape == (len(labels), 3, SIZE, SIZE)
        found |= {int(label): image.numpy().tobytes() for image, label in zip(images, labels, strict=True)}
    return found


def test_an_epoch_contains_every_image_once_in_an_order_drawn_from_seed_and_epoch() -> None:
    data = numbered(32)
    first = order(data, PLAIN)
    assert Counter(first) == Counter(range(32))
    assert first != list(range(32))
    assert order(data, PLAIN) == first
    assert order(data, replace(PLAIN, lr=0.5, epochs=9, deletion=0, flip=False, scale=1.0), threads=1) == first
    assert order(data, PLAIN, epoch=1) != first
    assert order(data, replace(PLAIN, seed=1)) != first
    assert order(data, replace(PLAIN, batch=16)) == first


@pytest.mark.parametrize(("count", "steps", "used"), [(32, 4, 32), (35, 4, 32), (8, 1, 8), (5, 1, 5), (1, 1, 1)])
def test_the_last_incomplete_batch_is_left_out_unless_it_is_the_only_one(count: int, steps: int, used: int) -> None:
    assert loader(numbered(count), PLAIN).steps == steps
    found = order(numbered(count), PLAIN)
    assert len(found) == len(set(found)) == used


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_all_processes_add_up_to_each_batch(world: int) -> None:
    data, own = numbered(24), loader(numbered(24), PLAIN)
    whole = [dict(zip(labels.tolist(), images.unbind(), strict=True)) for images, labels in own.epoch(3)]
    shares = [list(loader(data, PLAIN).epoch(3, rank, world)) for rank in range(world)]
    assert len(whole) == 3
    for step, batch in enumerate(whole):
        union = [pair for share in shares for pair in zip(share[step][1].tolist(), share[step][0].unbind(), strict=True)]
        assert sorted(label for label, _ in union) == sorted(batch)
        assert all(torch.equal(image, batch[label]) for label, image in union)
        sizes = [len(share[step][1]) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_a_crop_depends_only_on_the_seed_the_epoch_and_the_index() -> None:
    data = numbered(24)
    first = by_label(data, PLAIN)
    assert by_label(data, replace(PLAIN, batch=12, epochs=7), threads=1) == first
    for other in (by_label(data, PLAIN, epoch=1), by_label(data, replace(PLAIN, seed=5))):
        assert sum(other[k] == first[k] for k in first) == 0


def test_half_of_the_images_are_mirrored_unless_flip_is_off() -> None:
    data, recipe = numbered(20, side=SIZE), replace(PLAIN, scale=1.0, batch=20)
    originals = {k: np.asarray(data.images[k]).transpose(2, 0, 1) for k in range(20)}
    mirrored = count = 0
    for epoch in range(20):
        for k, found in by_label(data, recipe, epoch).items():
            if found != originals[k].tobytes():
                assert found == np.ascontiguousarray(originals[k][:, :, ::-1]).tobytes()
                mirrored += 1
            count += 1
    assert scipy.stats.binomtest(mirrored, count, 0.5).pvalue > 1e-3
    assert by_label(data, replace(recipe, flip=False)) == {k: image.tobytes() for k, image in originals.items()}


def test_labels_are_the_model_s_classes() -> None:
    data = Pictures([noise(k) for k in range(6)], [0, 1, 2, 0, 1, 2], 3)
    assert Counter(order(data, replace(PLAIN, batch=6), classes=(7, 3, 5))) == {7: 2, 3: 2, 5: 2}


def test_a_fraction_of_the_labelled_images_is_drawn_from_the_seed_and_contains_smaller_fractions() -> None:
    labels = [None if k % 4 == 0 else k for k in range(40)]
    data = Pictures([noise(k) for k in range(40)], labels, 40)
    used = {share: loader(data, replace(PLAIN, fraction=share)).indices for share in (0.2, 0.4, 0.6, 0.8, 1.0)}
    assert [len(indices) for indices in used.values()] == [6, 12, 18, 24, 30]
    shares = [set(indices) for indices in used.values()]
    assert all(small < large for small, large in pairwise(shares))
    assert shares[-1] == {k for k in range(40) if k % 4}
    assert loader(data, replace(PLAIN, fraction=0.2, seed=1)).indices != used[0.2]
    assert len(loader(data, replace(PLAIN, fraction=0.001))) == 1


def test_images_that_cannot_be_read_are_left_out_of_their_batch_and_named() -> None:
    own = loader(numbered(16, broken=(3, 11)), PLAIN)
    found = [int(label) for _, labels in own.epoch(0) for label in labels]
    assert sorted(found) == [k for k in range(16) if k not in (3, 11)]
    assert own.failed == {3: "picture 3 is broken", 11: "picture 11 is broken"}


# Recipes and schedules ---------------------------------------------------------------------------------------------------


def test_the_default_is_the_recipe_of_the_paper() -> None:
    """Momentum is tested below. Numbers: arXiv 2407.11910, and RandomResizedCrop's default for the scale."""
    paper = dict(epochs=30, batch=256, lr=0.001, optimizer="sgd", weight_decay=1e-4, schedule="step", warmup=0.0)
    paper |= dict(deletion=4, baseline="zeros", scale=0.08, flip=True, label_smoothing=0.0, clip=0.0, loss="auto", fraction=1.0)
    for recipe in (Recipe(), PRESETS["idsds"], Recipe.parse({})):
        assert {name: value for name, value in asdict(recipe).items() if name in paper} == paper
    assert set(asdict(Recipe())) - set(paper) == {"amp", "seed"}


def test_presets_are_valid_and_only_scratch_trains_without_deletion() -> None:
    for name, recipe in PRESETS.items():
        assert Recipe.parse(asdict(recipe)) == recipe, name
    assert {name: recipe.deletion for name, recipe in PRESETS.items()} == {"idsds": 4, "scratch": 0, "short": 4}


def test_text_settings_are_parsed_and_override_a_preset() -> None:
    found = Recipe.parse({"epochs": "3", "lr": "0.5", "flip": "false", "baseline": "blur"}, "scratch")
    assert found == replace(PRESETS["scratch"], epochs=3, lr=0.5, flip=False, baseline="blur")
    assert {option.name for option in Recipe.options()} == {field.name for field in fields(Recipe)}
    assert all(option.help for option in Recipe.options())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": "0"}, "epochs=0 is out of range"),
        ({"epochs": "1.5"}, "epochs='1.5' is not valid"),
        ({"lr": "-1"}, "lr=-1 is out of range"),
        ({"lr": "nan"}, "lr='nan' is not valid"),
        ({"batch": "many"}, "batch='many' is not valid"),
        ({"deletion": "33"}, "deletion=33 is out of range"),
        ({"fraction": "0"}, "fraction=0 is out of range"),
        ({"flip": "maybe"}, "flip='maybe' is not valid"),
        ({"baseline": "zero"}, "Did you mean zeros"),
        ({"optimizer": "adam"}, "Did you mean adamw"),
        ({"schedule": "linear"}, "unknown schedule"),
        ({"loss": "mse"}, "unknown loss"),
        ({"epoch": "3"}, "Did you mean epochs"),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_setting(given: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Recipe.parse(given)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(SpecError, match=r"unknown preset 'ids'.*idsds"):
        Recipe.parse({}, "ids")


def rates(monkeypatch: pytest.MonkeyPatch, folder: Path, recipe: Recipe) -> list[float]:
    """The learning rate of every step of a training."""
    found, step = [], torch.optim.SGD.step

    def recorded(self: torch.optim.SGD, *args: Any, **options: Any) -> Any:
        assert len({group["lr"] for group in self.param_groups}) == 1
        found.append(self.param_groups[0]["lr"])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    data = coloured(2)
    trained(folder, replace(recipe, batch=5), wrapped(Flat), data, select=data)
    assert len(found) == 2 * recipe.epochs
    return found


def test_the_step_schedule_is_torch_s_steplr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.001)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)
    expected = []
    for _ in range(30):
        expected += 2 * [optimizer.param_groups[0]["lr"]]
        optimizer.step()
        schedule.step()
    assert rates(monkeypatch, tmp_path, replace(Recipe(), amp=False)) == pytest.approx(expected, rel=1e-9)
    assert expected[0] == pytest.approx(100 * expected[-1])


def test_the_cosine_schedule_follows_its_formula(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = replace(PLAIN, epochs=10, lr=0.01, schedule="cosine", warmup=0.3)
    warm = [0.01 * (k + 1) / 6 for k in range(6)]
    assert rates(monkeypatch, tmp_path, recipe) == pytest.approx(warm + [0.005 * (1 + math.cos(math.pi * k / 14)) for k in range(14)])


LOOPS = {
    "sgd": (replace(PLAIN, epochs=3, lr=0.01, weight_decay=0.01), lambda g: torch.optim.SGD(g, 0.01, 0.9, weight_decay=0.01)),
    "clip": (replace(PLAIN, epochs=3, lr=0.5, weight_decay=0.0, clip=0.1), lambda g: torch.optim.SGD(g, 0.5, 0.9)),
    "adamw": (
        replace(PLAIN, epochs=3, lr=0.01, weight_decay=0.1, optimizer="adamw"),
        # Matrices alone decay.
        lambda g: torch.optim.AdamW([{"params": g[:1]}, {"params": g[1:], "weight_decay": 0.0}], 0.01, weight_decay=0.1),
    ),
    "smoothing": (replace(PLAIN, epochs=3, lr=0.01, weight_decay=0.0, label_smoothing=0.2), lambda g: torch.optim.SGD(g, 0.01, 0.9)),
    "binary": (replace(PLAIN, epochs=3, lr=0.05, weight_decay=0.0, loss="binary"), lambda g: torch.optim.SGD(g, 0.05, 0.9)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_weights_match_a_plain_training_loop(tmp_path: Path, name: str) -> None:
    """An epoch is one batch without cropping, mirroring or deletion, so only the settings of the recipe matter."""
    recipe, make = LOOPS[name]
    recipe = replace(recipe, batch=len(DATA), deletion=0, scale=1.0, flip=False)
    model = wrapped(Flat)
    net = copy.deepcopy(model.module)
    # The whole picture, resized, is the centred crop of all of it.
    x = torch.stack([model.preprocess(image) for image in DATA.images])
    y = torch.tensor(DATA.kinds)
    optimizer = make([net.fc.weight, net.fc.bias])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    losses, states = [], []
    for _ in range(3):
        optimizer.zero_grad()
        logits = net(x)
        if recipe.loss == "binary":
            loss = F.binary_cross_entropy_with_logits(logits, F.one_hot(y, 5).float())
        else:
            loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        states.append({key: value.clone() for key, value in net.state_dict().items()})
    found = trained(tmp_path, recipe, model)
    assert [row["loss"] for row in found.history] == pytest.approx(losses, rel=1e-4)
    expected = states[found.epoch - 1]
    for key, value in found.state.items():
        assert torch.allclose(value, expected[key], rtol=1e-3, atol=1e-6), key
    assert found.deleted is None


def test_the_loss_of_a_b_cos_network_is_binary_by_default(tmp_path: Path) -> None:
    recipe = replace(PLAIN, epochs=1, batch=len(DATA), deletion=0, scale=1.0, flip=False, lr=0.0)
    model = wrapped(lambda: BcosResNet((1, 1, 1, 1), 4, False, 5))
    x = torch.stack([model.preprocess(image) for image in DATA.images])
    y = torch.tensor(DATA.kinds)
    with torch.no_grad():
        logits = copy.deepcopy(model.module).train()(x)
    expected = {
        "auto": F.binary_cross_entropy_with_logits(logits, F.one_hot(y, 5).float()),
        "binary": F.binary_cross_entropy_with_logits(logits, F.one_hot(y, 5).float()),
        "cross-entropy": F.cross_entropy(logits, y),
    }
    assert float(expected["binary"]) != pytest.approx(float(expected["cross-entropy"]), rel=0.1)
    for loss, value in expected.items():
        fresh = wrapped(lambda: BcosResNet((1, 1, 1, 1), 4, False, 5))
        found = trained(tmp_path / loss, replace(recipe, loss=loss), fresh)
        assert found.history[0]["loss"] == pytest.approx(float(value), rel=1e-4), loss


# Training ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "amp"), [("sgd", False), ("adamw", False), ("sgd", True)])
def test_colours_are_learnt_perfectly_and_progress_is_reported(tmp_path: Path, optimizer: str, amp: bool) -> None:
    recipe = replace(PLAIN, epochs=8, optimizer=optimizer, lr=0.1 if optimizer == "sgd" else 0.02, schedule="cosine", warmup=0.1)
    recipe = replace(recipe, amp=amp)
    seen: list[TrainingProgress] = []
    model = wrapped()
    found = trained(tmp_path, recipe, model, on_progress=seen.append)
    assert found.clean == 1
    assert found.deleted is not None
    assert found.deleted > 0.9
    assert {p.steps for p in seen} == {8 * 5}
    # While accuracies are measured, the last step is reported again.
    assert [p.step for p in seen] == sorted(p.step for p in seen)
    assert {p.step for p in seen} == set(range(1, 41, 5))
    assert {p.epoch for p in seen} == set(range(1, 9))
    assert seen[0].clean is None
    assert (seen[-1].clean, seen[-1].deleted) == (found.history[-2]["clean"], found.history[-2]["deleted"])
    assert seen[-1].loss < seen[0].loss
    assert all(p.seconds_left is not None and p.seconds_left >= 0 for p in seen)
    assert not model.module.training
    assert all(torch.equal(model.module.state_dict()[key], value) for key, value in found.state.items())
    with torch.no_grad():
        predicted = torch.stack([model(model.preprocess(image)[None])[0] for image in SELECT.images]).argmax(1)
    assert predicted.tolist() == SELECT.kinds


class Fading(Tiny):
    """Forgets what it learnt after a number of training steps, counted in its state."""

    def __init__(self, steps: int = 20) -> None:
        super().__init__()
        self.last = steps
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return super().forward(x) * (self.steps <= self.last)


def test_the_best_epoch_is_the_one_with_the_best_accuracies_on_the_selection_data(tmp_path: Path) -> None:
    model = wrapped(Fading)
    found = trained(tmp_path, replace(PLAIN, epochs=7, lr=0.2), model)
    merits = [(row["clean"] + row["deleted"]) / 2 for row in found.history]
    assert found.epoch == 1 + merits.index(max(merits))
    assert 1 < found.epoch <= 4
    assert merits[-1] < max(merits)
    assert (found.clean, found.deleted) == (found.history[found.epoch - 1]["clean"], found.history[found.epoch - 1]["deleted"])
    assert int(found.state["steps"]) == 5 * found.epoch
    right = accuracies(model, SELECT, range(5), PLAIN.deletion, PLAIN.baseline)
    assert (right.clean / right.count, (right.deleted or 0) / right.count) == (found.clean, found.deleted)


def test_training_depends_only_on_the_seed_and_preserves_the_global_random_state(tmp_path: Path) -> None:
    """The network draws with torch's own generator, as dropout does."""
    torch.manual_seed(1)
    one = trained(tmp_path / "one")
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    other = trained(tmp_path / "other")
    assert torch.equal(torch.rand(3), expected)
    assert same(one, other)
    assert not same(one, trained(tmp_path / "seed", replace(PLAIN, seed=1)))


class Recording(nn.Module):
    """Records its inputs; its logits predict the class of the colour."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.colours = nn.Parameter(torch.tensor(COLOURS) / 127.5 - 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return -torch.cdist(x.mean((2, 3)), self.colours)


def test_accuracies_count_correct_predictions_on_whole_images_and_with_one_patch_deleted() -> None:
    labels: list[int | None] = [k if number else (k + 1) % 5 for number in range(3) for k in range(5)]
    labels[7] = None
    data = Pictures(coloured(3).images, labels, 5, broken=(9,))
    model = wrapped(Recording)
    _ = model.behaviour
    model.module.seen.clear()
    right = accuracies(model, data, range(5), 2)
    assert (right.clean, right.count) == (8, 13)
    clean, deleted = model.module.seen
    assert len(clean) == len(deleted) == 13
    cells = deleted_cells(clean, deleted, 2)
    assert None not in cells
    assert len(set(cells)) > 1
    assert right.deleted == int(
        (model(deleted).argmax(1) == torch.tensor([c for k, c in enumerate(labels) if c is not None and k != 9])).sum()
    )
    assert accuracies(model, data, range(5), 2) == right
    assert accuracies(model, data, range(5), 0).deleted is None
    assert accuracies(model, data, (4, 0, 1, 2, 3), 0).clean == 5


# Resuming ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("uninterrupted"))


class Stop:
    """Raises in the middle of the given epoch, at its second report."""

    def __init__(self, epoch: int, error: BaseException) -> None:
        self.epoch, self.error, self.count = epoch, error, 0

    def __call__(self, found: TrainingProgress) -> None:
        self.count += found.epoch == self.epoch
        if self.count == 1:
            raise self.error


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_cancelled_training_resumes_with_the_same_result(tmp_path: Path, uninterrupted: Trained, epoch: int) -> None:
    with pytest.raises(Cancelled):
        trained(tmp_path, on_progress=Stop(epoch, Cancelled("enough")))
    begun: list[TrainingProgress] = []
    found = trained(tmp_path, on_progress=begun.append)
    assert begun[0].epoch == epoch
    assert same(found, uninterrupted)


def test_a_finished_training_is_not_repeated(tmp_path: Path, uninterrupted: Trained) -> None:
    trained(tmp_path)
    seen: list[TrainingProgress] = []
    model = wrapped(seed=5)
    assert same(trained(tmp_path, model=model, on_progress=seen.append), uninterrupted)
    assert seen == []
    assert all(torch.equal(model.module.state_dict()[key], value) for key, value in uninterrupted.state.items())


def killed(folder: str) -> None:
    """Train in a sequence of processes, each of which is killed: in an epoch, while writing, or before the state is moved."""

    def die(*_args: Any, **_options: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch_for(epoch: int) -> Callable[[TrainingProgress], None]:
        return lambda found: die() if found.epoch == epoch else None

    def half(save: Callable[..., None]) -> Callable[..., None]:
        def write(content: Any, part: Path) -> None:
            save(content, part)
            with open(part, "r+b") as file:
                file.truncate(part.stat().st_size // 2)
            die()

        return write

    for number in range(4):
        child = os.fork()
        if not child:
            if number == 1:
                torch.save = half(torch.save)  # type: ignore[assignment]
            if number == 2:
                Path.replace = die  # type: ignore[assignment, method-assign]
            try:
                trained(Path(folder), on_progress=watch_for({0: 2, 3: 3}.get(number, 99)))
            finally:
                os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes of `python`: the last bit of a sum depends on how many threads share it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python on one thread, with these tests importable."""
    path = os.pathsep.join(str(Path(__file__).parents[k]) for k in range(3))
    own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | environment
    return subprocess.run([sys.executable, *arguments], env=own, capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_training_resumes_with_the_same_result(tmp_path: Path) -> None:
    done = python("-c", f"import test_training; test_training.killed({str(tmp_path / 'state')!r})")
    assert done.stdout.split() == ["-9"] * 4, done.stdout + done.stderr
    begun: list[TrainingProgress] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = trained(tmp_path / "state", on_progress=begun.append)
        # On as many threads as the process that was killed.
        whole = trained(tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    assert begun[0].epoch == 3
    assert same(found, whole)


@pytest.mark.parametrize(
    "other",
    [
        dict(recipe=replace(PLAIN, weight_decay=0.01)),
        dict(recipe=replace(PLAIN, seed=1)),
        dict(data=coloured(7)),
        dict(data=coloured(8, name="others")),
        dict(model=attrlib.wrap_model(Flat(), SIZE)),
        dict(select=coloured(4, start=200, name="other select")),
    ],
    ids=["weight_decay", "seed", "count", "name", "model", "select"],
)
def test_the_state_of_a_different_training_is_refused_and_left_alone(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(Cancelled):
        trained(tmp_path, on_progress=Stop(2, Cancelled("enough")))
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(TrainingError, match=r"(?s)state\.pt belongs to a different training.*choose another folder, or delete it"):
        trained(tmp_path, **other)
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "half", "tensor", "list", "fields", "weights"])
def test_a_damaged_state_is_refused_with_advice_in_one_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "state.pt"
    with pytest.raises(Cancelled):
        trained(tmp_path, on_progress=Stop(2, Cancelled("enough")))
    content = torch.load(file, weights_only=True)
    raw = file.read_bytes()
    changed: dict[str, Any] = {
        "tensor": torch.zeros(3),
        "list": [1, 2],
        "fields": {"about": content["about"]},
        "weights": content | {"module": {"conv.weight": torch.zeros(2)}},
    }
    if kind in changed:
        torch.save(changed[kind], file)
    else:
        file.write_bytes({"empty": b"", "text": b"these are no weights\n", "cut": raw[:-100], "half": raw[: len(raw) // 2]}[kind])
    with pytest.raises(TrainingError, match=r"state\.pt is damaged \(\w+\); delete it to start over") as caught:
        trained(tmp_path)
    assert "\n" not in str(caught.value)


# Errors -------------------------------------------------------------------------------------------------------------


class Poisoned(Tiny):
    """Once poisoned, returns logits that are NaN, or have NaN gradients."""

    what = ""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if self.training and self.what == "loss":
            return logits * math.nan
        if self.training and self.what == "gradient":
            logits.register_hook(lambda gradient: gradient * math.nan)
        return logits


@pytest.mark.parametrize(("what", "message"), [("loss", "the loss is nan"), ("gradient", "a weight is not finite")])
def test_a_non_finite_loss_or_weight_stops_training_and_the_last_good_state_stays(tmp_path: Path, what: str, message: str) -> None:
    recipe = replace(PLAIN, batch=len(DATA))
    healthy = trained(tmp_path / "healthy", recipe, wrapped(Poisoned))
    model = wrapped(Poisoned)

    def poison(found: TrainingProgress) -> None:
        # Called after the step, so poison in the second epoch shows in the third.
        model.module.what = what if found.epoch == 2 else ""

    with pytest.raises(TrainingError, match=f"^{message} in epoch 3; the state after epoch 2 is saved. Try a lower lr .now 0.1."):
        trained(tmp_path / "state", recipe, model, on_progress=poison)
    content = torch.load(tmp_path / "state" / "state.pt", weights_only=True)
    assert content["epoch"] == 2
    assert all(bool(tensor.isfinite().all()) for tensor in content["module"].values())
    assert same(trained(tmp_path / "state", recipe, wrapped(Poisoned)), healthy)


def test_a_non_finite_loss_in_the_first_epoch(tmp_path: Path) -> None:
    model = wrapped(Poisoned)
    model.module.what = "loss"
    with pytest.raises(TrainingError, match=r"^the loss is nan in epoch 1; no epoch was finished\. Try a lower lr"):
        trained(tmp_path, PLAIN, model)


def test_a_learning_rate_that_is_too_high_stops_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"in epoch \d+; .*Try a lower lr .now 100.*clip=1"):
        trained(tmp_path, replace(PLAIN, lr=100.0, weight_decay=1.0, epochs=30), wrapped(Flat))


@pytest.mark.parametrize(
    "full", ["raised", pytest.param("device", marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux"))]
)
def test_on_a_full_disk_the_previous_state_stays_and_the_same_call_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Trained, full: str
) -> None:
    save, saved = torch.save, []

    def fails_at_the_second(content: Any, part: Any) -> None:
        saved.append(part)
        if len(saved) == 2 and full == "raised":
            Path(part).write_bytes(b"as much as there was room for")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if len(saved) == 2:
            os.symlink("/dev/full", part)
        save(content, part)

    monkeypatch.setattr(torch, "save", fails_at_the_second)
    with pytest.raises(
        TrainingError, match=r"the state cannot be written to .*state\.pt \(.+\); free disk space and run the same command again"
    ) as caught:
        trained(tmp_path)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["state.pt"], "what was begun takes no room"
    assert torch.load(tmp_path / "state.pt", weights_only=True)["epoch"] == 1
    assert same(trained(tmp_path), uninterrupted)


def test_a_folder_that_cannot_be_created_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"cannot be created .*choose another folder"):
        trained(tmp_path / "file" / "state", on_progress=Stop(1, AssertionError("it trained")))


def test_unreadable_images_are_skipped_and_an_error_is_raised_if_all_are_unreadable(tmp_path: Path) -> None:
    broken = coloured(8, broken=range(20))
    found = trained(tmp_path / "some", replace(PLAIN, epochs=6, batch=4), data=broken, select=coloured(4, start=100, broken=(0, 7)))
    assert found.clean == 1
    with pytest.raises(ImageError, match=r"none of the 40 training images can be read: picture [0-9]+ is broken"):
        trained(tmp_path / "all", data=coloured(8, broken=range(40)))
    with pytest.raises(DataError, match="no labelled image that can be read; choose another data set"):
        trained(tmp_path / "select", data=DATA, select=coloured(1, broken=range(5)))


@pytest.mark.parametrize("which", ["data", "select"])
def test_unlabelled_data_are_refused_before_training(tmp_path: Path, which: str) -> None:
    nothing = Pictures(DATA.images, [None] * len(DATA), 5, name="unlabelled")
    with pytest.raises(DataError, match=r"unlabelled has no labelled image.*choose"):
        trained(tmp_path, on_progress=Stop(1, AssertionError("it trained")), **{which: nothing})


def checkpoint(tmp_path: Path, data: Dataset, recipe: Recipe = PLAIN, **options: Any) -> attrlib.models.Card:
    training = Training(ModelSpec("attrlib:small_resnet10_w16", "random:0"), data.name, recipe, **options)
    return train_checkpoint(training, tmp_path / "out.safetensors", tmp_path / "state", "cpu", datasets={data.name: data})


def test_data_with_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    for classes in (0, 1):
        data = Pictures(DATA.images, [0 if classes else None] * len(DATA), classes)
        with pytest.raises(DataError, match=rf"p has {classes} class\(es\), but training needs at least 2.*class folders"):
            checkpoint(tmp_path, data)


def test_one_picture_per_class_leaves_no_selection_data_and_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainLoader, "epoch", lambda *_args: pytest.fail("it trained"))
    with pytest.raises(DataError, match=r"held out.*choose another data set"):
        checkpoint(tmp_path, coloured(1))


def test_a_report_on_unlabelled_data_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainLoader, "epoch", lambda *_args: pytest.fail("it trained"))
    nothing = Pictures(DATA.images, [None] * len(DATA), 0, name="unlabelled")
    training = Training(ModelSpec("attrlib:small_resnet10_w16", "random:0"), "p", PLAIN, report="unlabelled")
    with pytest.raises(DataError, match="unlabelled has no labelled image"):
        train_checkpoint(training, tmp_path / "out.safetensors", tmp_path / "state", "cpu", datasets={"p": DATA, "unlabelled": nothing})


def test_images_smaller_than_the_grid_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = attrlib.wrap_model(Tiny(), SIZE)
    monkeypatch.setattr(attrlib.training.finetune, "_model", lambda *_args: small)
    with pytest.raises(SpecError, match="images of 16 x 16 px cannot be divided into 17 x 17 patches; choose a smaller deletion"):
        checkpoint(tmp_path, DATA, replace(PLAIN, deletion=17))


# Several processes ---------------------------------------------------------------------------------------------------------


DISTRIBUTED = replace(PLAIN, deletion=0, lr=0.01, epochs=3)


def one_of_several(folder: str) -> None:
    """Train in one process of `torchrun`."""
    found = trained(Path(folder), DISTRIBUTED, wrapped(Flat))
    if os.environ["RANK"] == "0":
        torch.save({"state": found.state, "history": found.history}, Path(folder) / "found")


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_learn_the_same_weights_as_one(tmp_path: Path) -> None:
    """Without normalisation, dropout and deletions the mean of their gradients is that of the whole batch."""
    script = tmp_path / "script.py"
    script.write_text("import sys, test_training\ntest_training.one_of_several(sys.argv[1])\n")
    state = tmp_path / "state"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # With an address, because --standalone resolves the host name of the machine.
    place = ("--master-addr", "127.0.0.1", "--master-port", str(port))
    done = python("-m", "torch.distributed.run", "--nproc-per-node", "2", *place, str(script), str(state), GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr[-3000:]
    found, alone = torch.load(state / "found", weights_only=True), trained(tmp_path / "alone", DISTRIBUTED, wrapped(Flat))
    assert [row["clean"] for row in found["history"]] == pytest.approx([row["clean"] for row in alone.history], abs=0.05)
    for key, value in alone.state.items():
        assert torch.allclose(found["state"][key], value, rtol=1e-3, atol=1e-5), key
    assert not torch.allclose(alone.state["fc.weight"], wrapped(Flat).module.state_dict()["fc.weight"], atol=1e-2)


@pytest.mark.parametrize(("batch", "count"), [(2, 40), (8, 2)])
def test_more_processes_than_images_in_a_batch_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, count: int) -> None:
    """One without images would leave the others waiting for ever."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_args: pytest.fail("it began"))
    few = Pictures(DATA.images[:count], DATA.kinds[:count], 5)
    with pytest.raises(TrainingError, match="a batch of 2 is too small for 3 processes; start fewer processes, or choose a larger batch"):
        trained(tmp_path, replace(PLAIN, batch=batch), data=few)


# The family ----------------------------------------------------------------------------------------------------------------


def test_every_plain_model_of_the_family_has_a_tuned_version_that_starts_from_it(tmp_path: Path) -> None:
    known = trainings("photos", tmp_path)
    plain = [name for name in known if not name.endswith(TUNED) and name not in TROJANED]
    assert set(plain) == set(BIRDS) | set(PHOTOS) | {LITE0}
    assert {known[name].model.checkpoint for name in TROJANED} == {str(tmp_path / f"{name}.safetensors") for name in TROJANED.values()}
    assert set(known) - set(plain) - set(TROJANED) == {name + TUNED for name in plain if name not in PHOTOS}
    assert all(known[name].pair is None for name in PHOTOS)
    for name in set(plain) - set(PHOTOS):
        one, two = known[name], known[name + TUNED]
        assert (one.pair, two.pair) == (name + TUNED, name)
        assert (one.recipe.deletion, two.recipe.deletion) == (0, 4)
        assert two.model.checkpoint == str(tmp_path / f"{name}.safetensors")
        assert (two.model.architecture, two.data, two.select, two.report) == (one.model.architecture, one.data, one.select, one.report)
        assert one.report not in (one.data, one.select)
        assert list(known).index(name) < list(known).index(name + TUNED)
        for recipe in (one.recipe, two.recipe):
            assert Recipe.parse(asdict(recipe)) == recipe
        attrlib.models.check_name(one.model.architecture)
    assert len({training.id for training in known.values()}) == len(known)
