"""Composition of grids from images, against exhaustive search and counting."""

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from attrlib.data.grids import compose
from attrlib.engine.items import EvalItem, Selection, grid_items
from attrlib.errors import DataError
from attrlib.specs import digest

both_kinds = pytest.mark.parametrize("corners", [False, True])


def shuffled(counts: Sequence[int], seed: int = 0) -> list[int]:
    """Classes with the given numbers of images, in random order."""
    classes = [label for label, count in enumerate(counts) for _ in range(count)]
    random.Random(seed).shuffle(classes)
    return classes


def random_counts(seed: int) -> tuple[int, ...]:
    """Up to seven classes with a few images each."""
    generator = random.Random(seed)
    return tuple(generator.randint(1, 4) for _ in range(generator.randint(1, 7)))


@cache
def most(counts: tuple[int, ...], n: int, corners: bool) -> int:
    """The largest number of grids that these numbers of images allow, by exhaustive search."""
    counts = tuple(sorted((count for count in counts if count), reverse=True))
    best, tried = 0, set()
    for chosen in combinations(range(len(counts)), n * n - corners):
        for twice in chosen if corners else (None,):
            left = list(counts)
            for place in (*chosen, *(() if twice is None else (twice,))):
                left[place] -= 1
            rest = tuple(sorted(left, reverse=True))
            if min(left) >= 0 and rest not in tried:
                tried.add(rest)
                best = max(best, 1 + most(rest, n, corners))
    return best


def sound(classes: Sequence[int], grids: Sequence[tuple[int, ...]], n: int, corners: bool) -> bool:
    """Whether every grid is valid, and every image is used at most once."""
    used = Counter(position for grid in grids for position in grid)
    for grid in grids:
        labels = [classes[position] for position in grid]
        assert len(grid) == n * n
        if corners:
            assert labels[0] == labels[-1]
            assert grid[0] != grid[-1]
            labels = labels[:-1]
        assert len(set(labels)) == len(labels)
    return all(count == 1 for count in used.values()) and set(used) <= set(range(len(classes)))


CASES = [
    ((1, 1, 1, 1), 2, False, 1),
    ((1, 1, 1), 2, False, 0),
    ((9, 9, 9), 2, False, 0),
    ((2, 1, 1), 2, True, 1),
    ((1, 1, 1), 2, True, 0),
    ((1, 1, 1, 1, 1, 1), 2, True, 0),
    ((9, 9), 2, True, 0),
    ((4, 1, 1, 1, 1), 2, True, 2),
    ((2, 2, 1, 1, 1, 1), 2, True, 2),
    ((2, 2, 2, 2), 2, True, 2),
    ((4, 2, 2), 2, True, 2),
    ((4, 2, 1, 1), 2, True, 2),
    ((), 2, False, 0),
    ((), 2, True, 0),
    ((3,) * 9, 3, False, 3),
    ((2, *[1] * 7), 3, True, 1),
    ((2, *[1] * 6), 3, True, 0),
    ((100, *[1] * 6), 2, False, 2),
    ((100, *[1] * 6), 2, True, 3),
]


@pytest.mark.parametrize(("counts", "n", "corners", "expected"), CASES)
def test_as_many_grids_as_possible_in_obvious_cases(counts: tuple[int, ...], n: int, corners: bool, expected: int) -> None:
    classes = shuffled(counts)
    grids = compose(classes, n, corners, seed=0)
    assert len(grids) == expected
    assert sound(classes, grids, n, corners)


@both_kinds
def test_as_many_grids_as_exhaustive_search_finds(corners: bool) -> None:
    wrong, found = [], 0
    for seed in range(600):
        counts = random_counts(seed)
        classes = shuffled(counts, seed)
        grids = compose(classes, 2, corners, seed)
        assert sound(classes, grids, 2, corners)
        best = most(counts, 2, corners)
        found += best
        if len(grids) != best:
            wrong.append((counts, len(grids), best))
    assert found > 600, "most cases allow a grid"
    assert not wrong, f"{len(wrong)} of 600 use fewer grids than possible: {wrong[:5]}"


@both_kinds
@pytest.mark.parametrize(("per_class", "count"), [(2, 100), (3, 100), (50, 10)])
def test_no_image_is_left_over_if_classes_have_equal_size(per_class: int, count: int, corners: bool) -> None:
    classes = shuffled([per_class] * count)
    grids = compose(classes, 2, corners, seed=0)
    assert sound(classes, grids, 2, corners)
    assert len(grids) == per_class * count // 4


@both_kinds
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("shape", ["even", "steep", "one large"])
def test_grids_are_valid_for_any_class_sizes(shape: str, n: int, corners: bool) -> None:
    counts = {"even": [12] * 20, "steep": list(range(1, 31)), "one large": [300, *[5] * 25]}[shape]
    classes = shuffled(counts)
    grids = compose(classes, n, corners, seed=1)
    assert sound(classes, grids, n, corners)
    assert len(grids) >= 5
    used = sum(len(grid) for grid in grids)
    if shape == "even":
        assert used > 240 - n * n


def test_classes_may_have_any_numbers() -> None:
    classes = [9, 700, -5, 3] * 3
    assert sound(classes, compose(classes, 2, False, 0), 2, False)
    assert len(compose(classes, 2, False, 0)) == 3


@both_kinds
def test_grids_depend_only_on_the_seed(corners: bool) -> None:
    classes = shuffled([6] * 12)
    first = compose(classes, 2, corners, seed=5)
    assert first == compose(list(classes), 2, corners, seed=5)
    others = [compose(classes, 2, corners, seed) for seed in range(5)]
    assert all(first != other for other in others)
    assert len({tuple(sorted(grid)) for other in others for grid in other}) > 0.9 * sum(map(len, others))


@both_kinds
def test_the_global_random_state_is_neither_used_nor_changed(corners: bool) -> None:
    import torch

    classes = shuffled([6] * 12)
    before = torch.random.get_rng_state()
    expected = compose(classes, 2, corners, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    random.seed(4)
    np.random.seed(4)
    assert compose(classes, 2, corners, seed=5) == expected


LARGE = shuffled([160, *[40] * 11])
"""One class is in every grid."""


def places(classes: Sequence[int], grids: Sequence[tuple[int, ...]], label: int, cells: Sequence[int]) -> list[int]:
    """How often a class is in each cell."""
    found = Counter(cell for grid in grids for cell in cells if classes[grid[cell]] == label)
    return [found[cell] for cell in cells]


def test_every_class_is_in_every_cell_equally_often() -> None:
    grids = [grid for seed in range(100, 104) for grid in compose(LARGE, 2, False, seed)]
    for label in range(12):
        counts = places(LARGE, grids, label, range(4))
        assert label or sum(counts) == len(grids) > 500
        assert scipy.stats.chisquare(counts).pvalue > 1e-3, (label, counts)


def test_between_the_corners_every_class_is_in_every_cell_equally_often() -> None:
    classes = shuffled([60, *[20] * 9])
    grids = [grid for seed in range(12) for grid in compose(classes, 3, True, seed)]
    counts = np.array([places(classes, grids, label, range(1, 8)) for label in range(10)])
    assert counts.sum() == 7 * len(grids)
    for label, own in enumerate(counts):
        if own.sum() > 70:
            assert scipy.stats.chisquare(own).pvalue > 1e-3, (label, own)


@both_kinds
def test_the_classes_of_a_grid_are_random(corners: bool) -> None:
    classes = shuffled([2] * 12)
    together = Counter(
        frozenset(pair) for seed in range(40) for grid in compose(classes, 2, corners, seed) for pair in combinations(grid, 2)
    )
    pairs = Counter()
    for pair, count in together.items():
        pairs[frozenset(classes[position] for position in pair)] += count
    mixed = [pairs[frozenset(pair)] for pair in combinations(range(12), 2)]
    assert min(mixed) > 0
    assert max(mixed) < 4 * np.mean(mixed)


def test_every_class_takes_the_corners_equally_often() -> None:
    classes = shuffled([20] * 12)
    corners = Counter(classes[grid[0]] for seed in range(10) for grid in compose(classes, 2, True, seed))
    assert len(corners) == 12
    assert scipy.stats.chisquare([corners[label] for label in range(12)]).pvalue > 1e-3


def test_the_images_of_a_class_are_chosen_at_random() -> None:
    # 4 classes of 10, and one of 40 of which few are needed.
    classes = [0] * 40 + [label for label in range(1, 5) for _ in range(10)]
    used = Counter(position for seed in range(60) for grid in compose(classes, 2, False, seed) for position in grid if position < 40)
    assert set(used) == set(range(40))
    assert scipy.stats.chisquare([used[position] for position in range(40)]).pvalue > 1e-3


@both_kinds
def test_the_first_grids_have_the_same_distribution_as_the_last(corners: bool) -> None:
    # Grids are made from the largest classes first; a run with a limit must not see those alone.
    classes = shuffled([2] * 20 + [20] * 8 + [45])
    shares = []
    for seed in range(30):
        grids = compose(classes, 2, corners, seed)
        large = [sum(classes[position] >= 20 for position in grid) for grid in grids]
        half = len(large) // 2
        shares.append(np.mean(large[:half]) - np.mean(large[half:]))
    assert 0 < np.std(shares) < 1
    assert abs(np.mean(shares)) < 4 * np.std(shares) / 30**0.5


# As items of a run -----------------------------------------------------------------------------------------------------


def units(classes: Sequence[int]) -> list[EvalItem]:
    """Images in the order of a data set, whose places there are no positions in this list."""
    return [EvalItem(f"photo {place}", (1000 + place,), (label,)) for place, label in enumerate(classes)]


def selected(
    classes: Sequence[int], n: int = 2, corners: bool = False, limit: int | None = None, seed: int = 0, confidence: float = 0.99
) -> Selection:
    return grid_items(units(classes), 500, n, corners, f"confidence={confidence:g}", limit, seed)


@both_kinds
def test_the_items_are_the_grids_with_their_images_labels_and_contents(corners: bool) -> None:
    classes = shuffled([6] * 12)
    found = selected(classes, corners=corners, seed=3).items
    for unit, grid in zip(found, compose(classes, 2, corners, 3), strict=True):
        assert unit.images == tuple(1000 + position for position in grid)
        assert unit.labels == tuple(classes[position] for position in grid)
        assert unit.id == digest(*(f"photo {position}" for position in grid))
    assert len({unit.id for unit in found}) == len(found)


@both_kinds
def test_the_first_grids_do_not_depend_on_how_many_are_used(corners: bool) -> None:
    classes = shuffled([6] * 12)
    every = selected(classes, corners=corners).items
    for limit in (1, 3, len(every), 1000):
        assert selected(classes, corners=corners, limit=limit).items == every[:limit]


def test_the_order_of_the_cells_is_part_of_a_grid() -> None:
    (one,) = selected([0, 1, 2, 3], seed=0).items
    others = [selected([0, 1, 2, 3], seed=seed).items[0] for seed in range(20)]
    assert len({unit.images for unit in others}) > 5
    assert all((unit.id == one.id) == (unit.images == one.images) for unit in others)


def test_the_results_of_a_grid_depend_on_its_labels_if_they_are_targets() -> None:
    same = EvalItem("grid", (1, 2, 3, 4), (0, 1, 2, 3))
    other = EvalItem("grid", (1, 2, 3, 4), (0, 1, 2, 4))
    assert same.key("prediction") == other.key("prediction") == "grid"
    assert len({same.key("label"), other.key("label"), "grid"}) == 3


@pytest.mark.parametrize(
    ("counts", "n", "corners", "said"),
    [
        ((5, 5, 5), 2, False, r"15 of 500 images \(3 classes\).*0 grids.*2 x 2 grid needs images of 4 classes\. "),
        ((5, 5), 2, True, r"10 of 500 images \(2 classes\).*needs images of 3 classes, two of one of them\. "),
        ((1, 1, 1), 2, True, "two of one of them"),
        ((5,) * 8, 3, False, "3 x 3 grid needs images of 9 classes"),
        ((5,) * 7, 3, True, "3 x 3 grid needs images of 8 classes"),
        ((), 2, False, r"0 of 500 images \(0 classes\)"),
    ],
)
def test_too_few_images_are_refused_with_the_required_number(counts: tuple[int, ...], n: int, corners: bool, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        selected(shuffled(counts), n, corners)
    assert "confidence=0.99" in str(caught.value)
    assert "Lower confidence" in str(caught.value)


def test_a_note_reports_how_many_images_pass_the_filter() -> None:
    found = selected(shuffled([5] * 8), limit=2, confidence=0.9)
    assert found.notes == ("40 of 500 images (8 classes) pass the filter confidence=0.9 and allow 10 grids",)
    assert len(found.items) == 2
