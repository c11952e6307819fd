"""Imputations against dense linear algebra, SciPy's morphology, and images that each of them reproduces."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import math

import numpy as np
import pytest
import scipy.ndimage
import skimage.restoration
import torch
from torch import Tensor

from attrlib.deletion import BASELINES, FIXED_BASELINES, IMPUTED_BASELINES, Deletion, patch_masks
from attrlib.errors import ProtocolError
from attrlib.imputation import NOISE, border, inpainting, linear

assert attrlib
SIZE = (9, 13)
RNG = np.random.default_rng(3)
IMAGE = RNG.standard_normal((3, *SIZE)).astype(np.float32)


def masks() -> dict[str, np.ndarray]:
    patch, corner = np.zeros(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool)
    patch[3:6, 4:9] = True
    corner[:4, :3] = corner[8, 12] = True
    one_left = np.ones(SIZE, dtype=bool)
    one_left[4, 2] = False
    return {"patch": patch, "corner": corner, "scattered": RNG.random(SIZE) < 0.5, "most": RNG.random(SIZE) < 0.95, "one left": one_left}


MASKS = masks()
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def weights_of_neighbours(row: int, column: int) -> dict[tuple[int, int], float]:
    weights = {}
    for r in range(max(row - 1, 0), min(row + 2, SIZE[0])):
        for c in range(max(column - 1, 0), min(column + 2, SIZE[1])):
            if (r, c) != (row, column):
                weights[r, c] = 1.0 if r == row or c == column else 0.5
    total = sum(weights.values())
    return {place: weight / total for place, weight in weights.items()}


@every_mask
def test_linear_solves_the_dense_system_of_weighted_means_and_adds_noise(mask: np.ndarray) -> None:
    noise = RNG.standard_normal(IMAGE.shape)
    found = linear(IMAGE, mask, noise)
    places = [tuple(place) for place in np.argwhere(mask)]
    matrix, known = np.eye(len(places)), np.zeros((len(places), 3))
    for k, (row, column) in enumerate(places):
        for place, weight in weights_of_neighbours(row, column).items():
            if mask[place]:
                matrix[k, places.index(place)] -= weight
            else:
                known[k] += weight * IMAGE[:, place[0], place[1]]
    expected = np.linalg.solve(matrix, known).T + 0.01 * noise[:, mask]
    assert np.allclose(found[:, mask], expected, atol=1e-5)
    assert np.array_equal(found[:, ~mask], IMAGE[:, ~mask])
    assert found.dtype == IMAGE.dtype
    assert NOISE == 0.01


def test_linear_reproduces_a_ramp_inside_the_image() -> None:
    ramp = (0.3 * np.arange(9.0)[:, None] - 0.2 * np.arange(13.0) + 1)[None].astype(np.float32)
    assert np.allclose(linear(ramp, MASKS["patch"], np.zeros(ramp.shape)), ramp, atol=1e-5)


@every_mask
def test_border_is_the_mean_of_what_a_dilation_of_each_region_adds(mask: np.ndarray) -> None:
    found, square = border(IMAGE, mask), np.ones((3, 3))
    regions, count = scipy.ndimage.label(mask, square)
    for region in range(1, count + 1):
        inside = regions == region
        around = scipy.ndimage.binary_dilation(inside, square) & ~mask
        assert np.allclose(found[:, inside], IMAGE[:, around].mean(1, keepdims=True), atol=1e-5)
    assert np.array_equal(found[:, ~mask], IMAGE[:, ~mask])


@every_mask
def test_inpainting_is_biharmonic_within_the_range_of_what_remains(mask: np.ndarray) -> None:
    found = inpainting(IMAGE, mask)
    for channel, own in zip(found, IMAGE, strict=True):
        expected = skimage.restoration.inpaint_biharmonic(own.astype(np.float64), mask)
        assert np.allclose(channel[mask], np.clip(expected[mask], IMAGE[:, ~mask].min(), IMAGE[:, ~mask].max()), atol=1e-4)
        assert own[~mask].min() - 1e-5 <= channel[mask].min() <= channel[mask].max() <= own[~mask].max() + 1e-5
    assert np.array_equal(found[:, ~mask], IMAGE[:, ~mask])


def test_a_constant_image_stays_as_it_is() -> None:
    flat = np.full((3, *SIZE), -1.5, dtype=np.float32)
    for mask in MASKS.values():
        for found in (linear(flat, mask, np.zeros(flat.shape)), border(flat, mask), inpainting(flat, mask)):
            assert np.allclose(found, flat, atol=1e-4)


def deletion(baseline: str, images: Tensor, seed: int = 0) -> Deletion:
    return Deletion(baseline, images, lambda sample: sample(images.shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("baseline", IMPUTED_BASELINES)
def test_where_no_pixel_remains_imputation_is_refused_and_without_a_deleted_one_nothing_changes(baseline: str) -> None:
    images = torch.from_numpy(IMAGE[None])
    with pytest.raises(ProtocolError, match=f"baseline={baseline} imputes .* all are deleted; choose another baseline"):
        deletion(baseline, images)(torch.ones(1, 1, *SIZE, dtype=torch.bool))
    assert torch.equal(deletion(baseline, images)(torch.zeros(1, 1, *SIZE, dtype=torch.bool)), images)
    assert deletion(baseline, images).values is None


def test_an_inpainting_that_fails_says_so() -> None:
    broken = IMAGE.copy()
    broken[0, 2, 5] = math.nan
    with pytest.raises(ProtocolError, match=r"the inpainting of 15 of 117 deleted pixels failed: .*baseline=linear"):
        inpainting(broken, MASKS["patch"])


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_deletion_changes_deleted_pixels_only_image_by_image(baseline: str) -> None:
    images = torch.from_numpy(RNG.standard_normal((3, 3, *SIZE)).astype(np.float32))
    mask = torch.from_numpy(np.stack([MASKS["patch"], MASKS["scattered"], MASKS["corner"]]))[:, None]
    delete, before = deletion(baseline, images), images.clone()
    found = delete(mask)
    kept, gone = ~mask.expand_as(images), mask.expand_as(images)
    assert torch.equal(found[kept], images[kept])
    assert (found[gone] != images[gone]).float().mean() > 0.99
    assert torch.equal(images, before)
    assert torch.equal(delete(mask), found)
    if baseline not in ("random", "linear"):
        assert torch.equal(deletion(baseline, images[1:2])(mask[1:2]), found[1:2])
        assert torch.equal(deletion(baseline, images, seed=1)(mask), found)
    else:
        assert not torch.equal(deletion(baseline, images, seed=1)(mask), found)
    assert (delete.values is not None) == (baseline in FIXED_BASELINES)


def test_the_mean_is_the_colour_of_each_image() -> None:
    images = torch.from_numpy(IMAGE[None])
    found = deletion("mean", images)(torch.from_numpy(MASKS["patch"])[None, None])
    assert np.allclose(found[0, :, 4, 5], IMAGE.mean((1, 2)), atol=1e-6)


def test_the_masks_of_patches_are_equal_disjoint_and_in_reading_order() -> None:
    found = patch_masks(6, 9, 3)
    assert found.shape == (9, 1, 1, 6, 9)
    assert found.sum(0).eq(1).all()
    assert [mask.nonzero()[0].tolist()[2:] for mask in found] == [[r, c] for r in (0, 2, 4) for c in (0, 3, 6)]
    assert found.flatten(1).sum(1).eq(6).all()
