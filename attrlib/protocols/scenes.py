"""What scenes tell that can be drawn without any of their parts and background objects, and the parts that tell classes apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from attrlib.protocols.context import Batch, EvalContext, Measurement

ClassParts = tuple[tuple[int, tuple[int, ...]], ...]
"""Classes, each with its variant of every part."""


@dataclass(frozen=True)
class RemovedSets(Measurement):
    """What the model makes of each scene without several parts, and without each object of its background.

    These are the class predicted without each set of two or more parts, (B, 2^P - P - 1) in the order of `larger_sets`, and the target's
    logit without each object, (B, M), 0 for those that cannot be seen.
    """

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        assert batch.parts is not None, "check() refuses data without scenes"
        assert batch.objects is not None, "check() refuses data without scenes"
        assert batch.redraw is not None, "check() refuses data without scenes"
        parts, objects = batch.parts.shape[1], batch.objects.shape[1]
        sets = larger_sets(parts)
        predicted, logits = [], torch.zeros(len(batch), objects)
        for row, draw in enumerate(batch.redraw):
            visible = batch.objects[row].flatten(1).any(1).nonzero()[:, 0].tolist()
            pictures = [draw(without) for without in (*sets, *((parts + number,) for number in visible))]
            found = context.logits(torch.stack(pictures))
            predicted.append(context.model.outputs.predicted(found[: len(sets)]))
            logits[row, visible] = found[len(sets) :, targets[row]]
        return {"predicted": torch.stack(predicted), "objects": logits}

    def forwards(self) -> float:
        # Exact for six parts and for the mean number of objects that can be seen in a scene of the birds.
        return 57 + VISIBLE_OBJECTS


VISIBLE_OBJECTS = 13
"""Mean number of background objects that can be seen in a scene of the birds."""


@cache
def larger_sets(parts: int) -> tuple[tuple[int, ...], ...]:
    """Return all sets of two or more of some parts, the smaller ones first."""
    return tuple(chosen for size in range(2, parts + 1) for chosen in combinations(range(parts), size))


@cache
def sufficient_sets(classes: ClassParts, label: int) -> tuple[frozenset[int], ...]:
    """Return the minimal sets of parts whose variants only one class has.

    Args:
        classes: The classes.
        label: The class.
    """
    own = dict(classes)[label]
    others = [variants for other, variants in classes if other != label]
    found: list[frozenset[int]] = []
    for size in range(1, len(own) + 1):
        for chosen in map(frozenset, combinations(range(len(own)), size)):
            sufficient = not any(all(variants[part] == own[part] for part in chosen) for variants in others)
            if sufficient and not any(smaller < chosen for smaller in found):
                found.append(chosen)
    return tuple(found)


@cache
def class_pairs(classes: ClassParts, label: int) -> tuple[tuple[int, int, int, int], ...]:
    """Return pairs of other classes that each share one part with a class, but not the same one, in the order of the classes.

    Args:
        classes: The classes.
        label: The class.

    Returns:
        First class, its shared part, second class, its shared part.
    """
    own = dict(classes)[label]
    shared = [(other, [k for k, variant in enumerate(variants) if variant == own[k]]) for other, variants in classes if other != label]
    single = [(other, parts[0]) for other, parts in shared if len(parts) == 1]
    return tuple((a, part_a, b, part_b) for (a, part_a), (b, part_b) in combinations(single, 2) if part_a != part_b)


def confirmed_pair(pairs: Sequence[tuple[int, int, int, int]], logits: Tensor, shown: Sequence[bool]) -> tuple[int, int, int, int] | None:
    """Return the first pair of classes of which the model uses the shared parts, None if there is none.

    It does if each class loses more without the part that it shares than without the part that the other shares.

    Args:
        pairs: The pairs, see `class_pairs`.
        logits: Logits of the image, and without each part, (1 + P, classes).
        shown: Whether each part is visible; an invisible part confirms nothing.
    """
    without = logits[1:].tolist()
    for pair in pairs:
        a, part_a, b, part_b = pair
        if shown[part_a] and shown[part_b] and without[part_a][a] < without[part_b][a] and without[part_b][b] < without[part_a][b]:
            return pair
    return None


def as_classes(class_parts: Mapping[int, tuple[int, ...]]) -> ClassParts:
    """Return classes with their parts in a form that can be a key."""
    return tuple(class_parts.items())
