"""Choice of the images for the grids of GridPG, DiFull and DiPart (Rao et al., CVPR 2022, arXiv 2205.10435)."""

import heapq
from collections.abc import Sequence

import torch

Shares = tuple[list[int], list[int]]
"""For each class, the number of grids in which it takes both corners, and the number in which it takes a single cell."""


def compose(classes: Sequence[int], n: int, corners: bool, seed: int) -> list[tuple[int, ...]]:
    """Compose as many grids of n x n images as possible, using each image at most once.

    Images, cells and the order of the grids are drawn from the seed. The first k grids do not depend on how many are used.

    Args:
        classes: The class of each image.
        n: Cells per side of a grid.
        corners: If False, all classes of a grid differ. If True, the class of the first cell appears again in the last cell, with
            another image, and the classes in between differ from it and from each other.
        seed: Seed of the random choices.

    Returns:
        The grids, each as positions in `classes`, row by row.
    """
    generator = torch.Generator().manual_seed(seed)
    left: dict[int, list[int]] = {}
    for position in torch.randperm(len(classes), generator=generator).tolist():
        left.setdefault(classes[position], []).append(position)
    # In the random order of first occurrence, so that no class is preferred for its number.
    images = list(left.values())
    counts, cells = [len(members) for members in images], n * n - 2 if corners else n * n
    count, (pairs, singles) = _most(counts, cells, corners)
    grids = []
    for remaining in range(count, 0, -1):
        due = sorted((k for k in range(len(counts)) if pairs[k] + singles[k]), key=lambda k: -(pairs[k] + singles[k]))
        first: int | None = None
        if corners:
            # A class that needs the corners of every remaining grid cannot wait.
            urgent = [k for k in due if pairs[k] == remaining]
            first = (urgent or [k for k in due if pairs[k]])[0]
            pairs[first] -= 1
        middle = [k for k in due if singles[k] and k != first][:cells]
        for k in middle:
            singles[k] -= 1
        drawn = [images[middle[i]].pop() for i in torch.randperm(len(middle), generator=generator).tolist()]
        grids.append(tuple(drawn if first is None else [images[first].pop(), *drawn, images[first].pop()]))
    return [grids[i] for i in torch.randperm(len(grids), generator=generator).tolist()]


def _most(counts: Sequence[int], cells: int, corners: bool) -> tuple[int, Shares]:
    """Return the largest possible number of grids, and what each class contributes to them."""
    low, best = 0, ([0] * len(counts), [0] * len(counts))
    high = sum(counts) // (cells + 2 * corners)
    while low < high:
        middle = (low + high + 1) // 2
        shares = _shares(counts, middle, cells, corners)
        if shares is None:
            high = middle - 1
        else:
            low, best = middle, shares
    return low, best


def _shares(counts: Sequence[int], grids: int, cells: int, corners: bool) -> Shares | None:
    """Return what each class contributes to that many grids, or None if impossible. Only in the corners may a class appear twice."""
    pairs = [0] * len(counts)
    # Corners are taken from the class with the most images to spare, as it loses the fewest single cells.
    heap = [(-count, k) for k, count in enumerate(counts) if count >= 2]
    heapq.heapify(heap)
    for _ in range(grids if corners else 0):
        if not heap:
            return None
        spare, k = heapq.heappop(heap)
        pairs[k] += 1
        if counts[k] - 2 * pairs[k] >= 2 and pairs[k] < grids:
            heapq.heappush(heap, (spare + 1, k))
    singles = [min(count - 2 * pair, grids - pair) for count, pair in zip(counts, pairs, strict=True)]
    surplus = sum(singles) - grids * cells
    if surplus < 0:
        return None
    for k in sorted(range(len(counts)), key=lambda k: counts[k] - 2 * pairs[k] - singles[k]):
        removed = min(singles[k], surplus)
        singles[k], surplus = singles[k] - removed, surplus - removed
    return pairs, singles
