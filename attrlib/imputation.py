"""Impute the deleted pixels of an image from those that remain: noisy linear imputation, the mean of the border, and inpainting."""

import warnings
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.sparse import csc_array
from scipy.sparse.linalg import SuperLU, splu

from attrlib.errors import ProtocolError

NEIGHBOURS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column)
NOISE = 0.01
"""Standard deviation of the noise of `linear`, in normalised units."""


def linear(image: np.ndarray, deleted: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return an image whose deleted pixels are weighted means of their neighbours, plus noise (Rong et al., ICML 2022, arXiv 2202.00449).

    The means are of deleted and remaining neighbours alike, so they solve a sparse linear system. Direct neighbours weigh 1/6,
    diagonal ones 1/12; at the border of the image the weights of the neighbours that exist are scaled to a sum of 1.

    Args:
        image: Normalised image (C,H,W).
        deleted: True on deleted pixels, (H,W).
        noise: Standard normal noise (C,H,W); it is scaled by `NOISE`.

    Raises:
        ProtocolError: If no pixel remains.
    """
    _check(deleted, "linear")
    if not deleted.any():
        return image
    factor, targets, sources, weights = _system(deleted.tobytes(), deleted.shape)
    flat = image.reshape(len(image), -1).astype(np.float64)
    known = np.stack([np.bincount(targets, weights * channel[sources], int(deleted.sum())) for channel in flat], 1)
    imputed = image.copy()
    imputed[:, deleted] = factor.solve(known).T + NOISE * noise[:, deleted]
    return imputed


@lru_cache(maxsize=1)  # Single deletion deletes the same patch of each image in turn.
def _system(deleted_bytes: bytes, shape: tuple[int, int]) -> tuple[SuperLU, np.ndarray, np.ndarray, np.ndarray]:
    """Return the factorised system of a mask, and which remaining pixels count in which equation with which weight."""
    deleted = np.frombuffer(deleted_bytes, dtype=bool).reshape(shape)
    number = np.full(shape, -1)
    count = int(deleted.sum())
    number[deleted] = np.arange(count)
    rows, columns = np.nonzero(deleted)
    total = np.zeros(count)
    entries, known = [], []
    for down, right in NEIGHBOURS:
        weight = 1 / 12 if down and right else 1 / 6
        row, column = rows + down, columns + right
        exists = np.flatnonzero((row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1]))
        total[exists] += weight
        places = row[exists] * shape[1] + column[exists]
        others = number.ravel()[places]
        inner = others >= 0
        entries.append((exists[inner], others[inner], np.full(int(inner.sum()), -weight)))
        known.append((exists[~inner], places[~inner], np.full(int((~inner).sum()), weight)))
    entries.append((np.arange(count), np.arange(count), total))
    first, second, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    matrix = csc_array((values, (first, second)), shape=(count, count))
    # The matrix is symmetric and diagonally dominant, so no pivoting is needed.
    factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True})
    targets, sources, weights = (np.concatenate(parts) for parts in zip(*known, strict=True))
    return factor, targets, sources, weights


def border(image: np.ndarray, deleted: np.ndarray) -> np.ndarray:
    """Return an image whose deleted regions have the mean colour of the remaining pixels that touch them.

    Regions are connected over edges and corners, and so is what touches them.

    Args:
        image: Normalised image (C,H,W).
        deleted: True on deleted pixels, (H,W).

    Raises:
        ProtocolError: If no pixel remains.
    """
    _check(deleted, "border")
    regions, count = ndimage.label(deleted, structure=np.ones((3, 3)))
    if not count:
        return image
    height, width = deleted.shape
    around = np.pad(regions, 1)
    places = np.flatnonzero(~deleted)
    pairs = []
    for down, right in NEIGHBOURS:
        region = around[1 + down : 1 + down + height, 1 + right : 1 + right + width].ravel()[places]
        pairs.append(region[region > 0] * deleted.size + places[region > 0])
    # A pixel counts once for each region that it touches.
    region, place = np.divmod(np.unique(np.concatenate(pairs)), deleted.size)
    touching = np.bincount(region, minlength=count + 1)[1:]
    imputed = image.copy()
    for channel, values in zip(imputed, image.reshape(len(image), -1).astype(np.float64), strict=True):
        means = np.bincount(region, values[place], count + 1)[1:] / touching
        channel[deleted] = means[regions[deleted] - 1]
    return imputed


def inpainting(image: np.ndarray, deleted: np.ndarray) -> np.ndarray:
    """Return an image whose deleted pixels are inpainted by scikit-image: biharmonic, within the range of the remaining pixels.

    Args:
        image: Normalised image (C,H,W).
        deleted: True on deleted pixels, (H,W).

    Raises:
        ProtocolError: If no pixel remains, or the inpainting fails.
    """
    # The import takes long, and most runs need no inpainting.
    from skimage.restoration import inpaint_biharmonic

    _check(deleted, "inpainting")
    if not deleted.any():
        return image
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filled = inpaint_biharmonic(image.astype(np.float64), deleted, channel_axis=0)
    if not np.isfinite(filled[:, deleted]).all():
        raise ProtocolError(
            f"the inpainting of {int(deleted.sum())} of {deleted.size} deleted pixels failed: its system of equations has no finite solution; "
            "choose another baseline, such as baseline=linear"
        )
    imputed = image.copy()
    imputed[:, deleted] = filled[:, deleted]
    return imputed


def _check(deleted: np.ndarray, baseline: str) -> None:
    if deleted.all():
        raise ProtocolError(
            f"baseline={baseline} imputes deleted pixels from those that remain, but all are deleted; choose another baseline, such as "
            "baseline=zeros"
        )
