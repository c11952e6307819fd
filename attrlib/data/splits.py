"""Names of splits, and the choice of one: folders such as `train` and `val` are splits of a data set, not its classes."""

from collections.abc import Collection, Iterable

from attrlib.errors import DataError

TRAINED = ("train", "training")
JUDGED = ("test", "testing", "val", "valid", "validation", "dev")
"""Splits to judge a model on, the preferred one first."""
SPLITS = (*JUDGED, *TRAINED)


def are_splits(names: Collection[str]) -> bool:
    """Return whether all of the names, of which there is at least one, are names of splits, in any case."""
    return bool(names) and all(name.casefold() in SPLITS for name in names)


def choose(names: Iterable[str], training: bool) -> str:
    """Return the split to use.

    Args:
        names: Names of the splits.
        training: Whether to train on it rather than to judge on it. To judge on, `train` is the last choice.

    Raises:
        DataError: If there is no split to train on.
    """
    order = TRAINED if training else SPLITS
    ranked = sorted((order.index(name.casefold()), name) for name in names if name.casefold() in order)
    if not ranked:
        raise DataError(f"the splits {listed(names)} are not for training; give the path of the folder of class folders to train on")
    return ranked[0][1]


def listed(names: Iterable[str]) -> str:
    """Return names in quotes, as in a sentence: 'a', 'b' and 'c'."""
    *others, last = [repr(name[:80]) for name in sorted(names)]
    return f"{', '.join(others)} and {last}" if others else last
