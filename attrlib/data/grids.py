"""Which images make up the grids of GridPG, DiFull and DiPart (Rao et al., CVPR 2022, arXiv 2205.10435)."""

from collections.abc import Sequence

import torch


def compose(classes: Sequence[int], n: int, corners: bool, seed: int) -> list[tuple[int, ...]]:
    """Grids of n x n images, as positions in `classes`, row by row; each image is used once, and there are as many as possible.

    Without `corners` all classes of a grid differ. With `corners` the class of the first cell comes once more, with another
    image, in the last cell, and the classes in between differ from it and from each other. Each grid takes the classes that
    have most images left, so that none run out early; which images, which cells and the order of the grids are drawn from the
    seed. The first k grids are the same however many are used.
    """
    generator = torch.Generator().manual_seed(seed)
    left: dict[int, list[int]] = {}
    for position in torch.randperm(len(classes), generator=generator).tolist():
        left.setdefault(classes[position], []).append(position)
    others = n * n - 2 if corners else n * n
    grids = []
    while True:
        names = sorted(left)
        drawn = torch.randperm(len(names), generator=generator).tolist()
        ranked = sorted((names[i] for i in drawn), key=lambda name: -len(left[name]))
        needed = others + corners
        if len(ranked) < needed or (corners and len(left[ranked[0]]) < 2):
            break
        first, middle = (ranked[:1], ranked[1:needed]) if corners else ([], ranked[:needed])
        cells = [left[middle[i]].pop() for i in torch.randperm(len(middle), generator=generator).tolist()]
        grids.append(tuple([left[first[0]].pop(), *cells, left[first[0]].pop()] if corners else cells))
        left = {name: positions for name, positions in left.items() if positions}
    return [grids[i] for i in torch.randperm(len(grids), generator=generator).tolist()]
