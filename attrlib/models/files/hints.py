"""Class names, and hints at the architecture and its preprocessing, that lie beside the weights in a checkpoint."""

import math
from collections.abc import Iterator, Mapping, Sequence

from attrlib.models.files.limits import MOST_CLASSES
from attrlib.models.files.stand_ins import NumPyArray, Opaque

_LONGEST = 200
_PLACES = (
    *("meta", "dataset_meta", "hyper_parameters", "hyperparameters", "hparams", "args", "opt", "config", "cfg", "data", "dataset"),
    *(
        "model_args",
        "model_kwargs",
        "model_config",
        "train_args",
        "kwargs",
        "preprocessing",
        "normalization",
        "pretrained_cfg",
        "default_cfg",
    ),
)
"""Keys of mappings, beside the weights, in which trainers keep what follows."""
_NAMES = (
    *("class_to_idx", "class_to_index", "label2id", "idx_to_class", "index_to_class", "id2label", "id_to_label"),
    *("class_names", "classes", "label_names", "names", "categories", "labels", "target_names", "vocab"),
)
_HINTS = {
    "arch": ("arch", "architecture", "model_name", "model_type", "backbone", "encoder_name", "model"),
    "num_classes": ("num_classes", "nb_classes", "n_classes", "num_labels", "nclasses"),
    "img_size": ("img_size", "image_size", "input_size", "crop_size", "imgsz"),
    "in_chans": ("in_chans", "in_channels", "input_channels", "num_channels"),
    "global_pool": ("global_pool", "gp"),
    "mean": ("mean", "norm_mean", "image_mean", "pixel_mean"),
    "std": ("std", "norm_std", "image_std", "pixel_std"),
    "interpolation": ("interpolation",),
    "crop_pct": ("crop_pct",),
}
"""Names of the hints, and the keys under which trainers keep them."""


def class_names_of(levels: Sequence[Mapping]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the class names in the mappings around the weights, or None, and notes on lists that are not valid.

    Args:
        levels: The mappings, the outermost first.
    """
    notes: list[str] = []
    for place in _places(levels):
        for key in _present(place, _NAMES):
            names = _names(_plain(place[key]))
            if names:
                return names, tuple(notes)
            if key in _NAMES[:7]:
                notes.append(f"{str(key)[:40]!r} does not number its classes 0, 1, 2, ..., so it is not used")
    return None, tuple(notes)


def hints_of(levels: Sequence[Mapping]) -> dict[str, object]:
    """Return what the mappings around the weights say of the architecture and its preprocessing.

    Args:
        levels: The mappings, the outermost first.

    Returns:
        Values of the names `arch` (text), `num_classes`, `in_chans` (numbers), `img_size` (a pair, height and width in pixels),
        `mean`, `std` (numbers per channel), `interpolation`, `global_pool` (text) and `crop_pct` (a number), as far as present.
    """
    found: dict[str, object] = {}
    for place in _places(levels):
        for name, keys in _HINTS.items():
            for key in _present(place, keys):
                value = _READERS[name](_plain(place[key]))
                if value is not None:
                    found.setdefault(name, value)
                if name == "img_size" and (channels := _channels(_plain(place[key]))):
                    found.setdefault("in_chans", channels)
    return found


def _places(levels: Sequence[Mapping]) -> Iterator[Mapping]:
    for level in levels:
        yield level
        for key in _PLACES:
            place = _attributes(level.get(key))
            if place is not None:
                yield place
                yield from (inner for key in _PLACES if (inner := _attributes(place.get(key))) is not None)


def _attributes(value: object) -> Mapping | None:
    """Return a dictionary, the items of a subclass of dict, or the attributes of a namespace."""
    if isinstance(value, Opaque):
        return value.items or value.attributes or None
    return value if isinstance(value, Mapping) else None


def _present(place: Mapping, keys: Sequence[str]) -> Iterator[str]:
    written = {key.lower(): key for key in place if isinstance(key, str) and len(key) <= _LONGEST}
    return (written[key] for key in keys if key in written)


def _plain(value: object) -> object:
    if isinstance(value, NumPyArray):
        return None if value.values is None else list(value.values) if isinstance(value.values, list) else value.values.ravel().tolist()
    return _attributes(value) if isinstance(value, Opaque) else value


def _names(value: object) -> tuple[str, ...] | None:
    """Return class names by index from a list of them, or from a mapping of them to or from indices."""
    if isinstance(value, Mapping) and 0 < len(value) <= MOST_CLASSES:
        pairs = [(_plain(key), _plain(inner)) for key, inner in value.items()]
        if all(_index(key) is not None and isinstance(inner, str) for key, inner in pairs):
            by_index = {_index(key): inner for key, inner in pairs}
        else:
            by_index = {_index(inner): key for key, inner in pairs}
        value = [by_index.get(index) for index in range(len(pairs))]
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MOST_CLASSES:
        return None
    if not all(isinstance(name, str) and name.strip() and len(name) <= _LONGEST and name.isprintable() for name in value):
        return None
    return tuple(name.strip() for name in value)


def _index(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 8:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable() else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_CLASSES else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e6 and math.isfinite(value) else None


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= 1000:
        return None
    numbers = [_number(each) for each in value]
    return tuple(each for each in numbers if each is not None) if None not in numbers else None


def _size(value: object) -> tuple[int, int] | None:
    """Return (height, width) from a number of pixels, (height, width) or (channels, height, width)."""
    sides = (
        [value, value] if isinstance(value, int) else list(value)[-2:] if isinstance(value, list | tuple) and len(value) in (2, 3) else []
    )
    counts = [_count(side) for side in sides]
    return (counts[0], counts[1]) if len(counts) == 2 and counts[0] and counts[1] else None


def _channels(value: object) -> int | None:
    return _count(value[0]) if isinstance(value, list | tuple) and len(value) == 3 else None


_READERS = {
    **dict.fromkeys(("arch", "global_pool", "interpolation"), _text),
    **dict.fromkeys(("num_classes", "in_chans"), _count),
    **dict.fromkeys(("mean", "std"), _numbers),
    "img_size": _size,
    "crop_pct": _number,
}
