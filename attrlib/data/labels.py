"""Matching of the classes of a data set to the classes of a model."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

# isort: split
from timm.data import ImageNetInfo

from attrlib.data.splits import are_splits, listed
from attrlib.errors import DataError, unknown
from attrlib.specs import CLASSES

_WNID = re.compile(r"(n\d{8})(?:[ _,-].*)?")
_SOME = 3
Candidates = list[set[int]]
"""For each class of the data, the classes of the model that it may stand for."""


def match_classes(names: Sequence[str], model_names: Sequence[str], by: str = "auto") -> tuple[int, ...]:
    """Return the model's class index of each class of the data.

    Args:
        names: Class names of the data.
        model_names: Class names of the model.
        by: How classes are matched. `wnid`: by WNID (`n01440764`, or a name that begins with one), for ImageNet models and models
            whose class names are WNIDs. `name`: by name, ignoring case, underscores and hyphens; one of several comma-separated
            synonyms is enough. `index`: by number (`0` or `0000`). `order`: the k-th class of the data is class k, and folders and CSV
            files sort their classes as text; the counts must be equal. `auto`: the first of wnid, name and index that fits all
            classes; and order if the counts are equal and the model's classes have no names, or both have two classes and no name
            is the same.

    Raises:
        DataError: If a class of the data matches no class or several classes of the model, if names of splits would be matched by
            order, or `by` is unknown. The message names classes that do not fit.
    """
    return _matched(names, model_names, by)[1]


def match_notes(names: Sequence[str], model_names: Sequence[str], by: str = "auto") -> tuple[str, ...]:
    """Return a note if classes are matched by number or by order, which names cannot confirm: which class is which, and the alternative.

    Args:
        names: Class names of the data.
        model_names: Class names of the model.
        by: How classes are matched, see `match_classes`.
    """
    if not names:
        return ()
    way, indices = _matched(names, model_names, by)
    if way not in ("index", "order"):
        return ()
    pairs = sorted(zip(indices, names, strict=True))
    titles = {k: "" if _unnamed(model_names) else f" ({model_names[k].split(',')[0][:60]})" for k in indices}
    shown = ", ".join(f"{name[:80]!r} is class {k}{titles[k]}" for k, name in pairs[:_SOME])
    matched = f"{shown}{', and so on' if pairs[_SOME:] else ''}"
    if way == "index":
        return (f"classes are matched by number: {matched}; {_instead_of_numbers(names, model_names)}",)
    reason = "" if by == "order" else f", because {_why_order(model_names)}"
    return (f"classes are matched by order{reason}: {matched}; {_instead_of_order(names, model_names)}",)


def _why_order(model_names: Sequence[str]) -> str:
    return "the model's classes have no names" if _unnamed(model_names) else "none of the two names is one of the model's"


def _instead_of_numbers(names: Sequence[str], model_names: Sequence[str]) -> str:
    """Return what to do if the number of a class is not its index in the model."""
    if len(names) != len(model_names):
        return "if the model numbers its classes in another way, name those of the data by WNID or name"
    differing = [(k, name) for k, name in enumerate(names) if int(name) != k]
    if not differing:
        return "by order, they match alike"
    k, name = differing[0]
    return (
        f"by order, {name[:80]!r} is class {k}: choose classes=order if the model was trained on these folders with ImageFolder, which "
        "sorts their names as text"
    )


def _instead_of_order(names: Sequence[str], model_names: Sequence[str]) -> str:
    """Return what to do if the order of the classes is not that of the model."""
    numbers = [min(found) if found else -1 for found in _by_index(names, model_names)]
    if min(numbers) >= 0 and numbers != list(range(len(names))):
        k, name = next((k, name) for place, (k, name) in enumerate(zip(numbers, names, strict=True)) if k != place)
        return f"by number, {name[:80]!r} is class {k}: choose classes=index if the model's classes are numbered so"
    if _unnamed(model_names):
        return "to name them, put NAME.txt beside the checkpoint NAME.pth, with one name per line"
    return "if that is wrong, name the classes of the data as the model names its own"


def _unnamed(model_names: Sequence[str]) -> bool:
    return all(name == f"class {k}" for k, name in enumerate(model_names))


def _matched(names: Sequence[str], model_names: Sequence[str], by: str) -> tuple[str, tuple[int, ...]]:
    """Return the way of matching that is used, and the class indices that it finds."""
    check_way(by)
    if by != "auto":
        return by, _unique(_WAYS[by](names, model_names), names, model_names, by)
    candidates_by = {way: _WAYS[way](names, model_names) for way in ("wnid", "name", "index")}
    # Two classes in the wrong order look right half of the time, so a single name that matches rules the order out.
    two = len(names) == 2 and not any(map(any, candidates_by.values()))
    if len(names) == len(model_names) and (_unnamed(model_names) or two) and not are_splits(names):
        candidates_by["order"] = _by_order(names, model_names)
    fits = (way for way, candidates in candidates_by.items() if all(len(c) == 1 for c in candidates))
    # If none fits, the error is most useful about the way that comes closest.
    way = next(fits, None) or max(candidates_by, key=lambda way: sum(map(bool, candidates_by[way])))
    return way, _unique(candidates_by[way], names, model_names, way)


def check_way(by: str) -> None:
    """Raise `DataError` if the way to match classes is unknown."""
    if by not in CLASSES:
        raise DataError(unknown("way to match classes", by, CLASSES))


def _unique(candidates: Candidates, names: Sequence[str], model_names: Sequence[str], way: str) -> tuple[int, ...]:
    if strange := [name for name, matches in zip(names, candidates, strict=True) if not matches]:
        if are_splits(names):
            raise DataError(f"{listed(names)} are names of splits, not of the model's classes; give the path of the split's folder")
        ordered = ", or choose classes=order" if len(names) == len(model_names) else ""
        raise DataError(
            f"{len(strange)} of the {len(names)} classes of the data match none of the model's {len(model_names)}: {_some(strange)}; "
            f"name classes by WNID (n01440764, for an ImageNet model), by one of the model's names ({model_names[0][:60]!r}) or by "
            f"index (0 to {len(model_names) - 1}), or leave them out{ordered}"
        )
    for name, matches in zip(names, candidates, strict=True):
        if len(matches) > 1:
            raise DataError(
                f"{name[:80]!r} is the {way} of classes {' and '.join(map(str, sorted(matches)[:_SOME]))} of the model; "
                f"name the classes of the data by WNID or by index"
            )
    return tuple(next(iter(matches)) for matches in candidates)


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:80]) for name in names[:_SOME]) + (", ..." if names[_SOME:] else "")


@cache
def _imagenet() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the WNIDs and descriptions of the 1000 classes."""
    info = ImageNetInfo("imagenet-1k")
    wnids = tuple(info.label_names())
    return wnids, tuple(info.index_to_description(k) for k in range(len(wnids)))


def _by_wnid(names: Sequence[str], model_names: Sequence[str]) -> Candidates:
    wnids, descriptions = _imagenet()
    of_model = wnids if tuple(model_names) == descriptions else [_wnid(name) for name in model_names]
    classes = _indexed((wnid, k) for k, wnid in enumerate(of_model) if wnid)
    return [classes.get(_wnid(name), set()) for name in names]


def _wnid(name: str) -> str:
    match = _WNID.fullmatch(name.strip())
    return match[1] if match else ""


def _by_name(names: Sequence[str], model_names: Sequence[str]) -> Candidates:
    pairs = ((part, k) for k, name in enumerate(model_names) for part in (name, *name.split(",")))
    classes = _indexed((_plain(part), k) for part, k in pairs)
    found = [classes.get(_plain(name), set()) for name in names]
    if len(names) == 2 and list(model_names) == [f"not {model_names[-1]}", model_names[-1]] and {1} in found:
        # A single logit with the name of one class: whatever the other is called, it is the other.
        return [own or {0} for own in found]
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_,-]+", " ", unicodedata.normalize("NFC", name).casefold()).strip()


def _by_index(names: Sequence[str], model_names: Sequence[str]) -> Candidates:
    # int() raises an error for thousands of digits.
    numbers = [int(name) if name.isascii() and name.isdigit() and len(name) < 10 else -1 for name in names]
    return [{k} if 0 <= k < len(model_names) else set() for k in numbers]


def _by_order(names: Sequence[str], model_names: Sequence[str]) -> Candidates:
    if len(names) != len(model_names):
        raise DataError(
            f"the data have {len(names)} classes and the model {len(model_names)}: classes=order needs equal counts; match by name instead"
        )
    if are_splits(names):
        return [set() for _ in names]
    return [{k} for k in range(len(names))]


def with_description(name: str) -> str:
    """Return an ImageNet WNID followed by its description (`n01440764 tench, Tinca tinca`), any other name unchanged."""
    wnids, descriptions = _imagenet()
    return f"{name} {descriptions[wnids.index(name)]}" if name in wnids else name


def _indexed(pairs: Iterable[tuple[str, int]]) -> Mapping[str, set[int]]:
    classes: defaultdict[str, set[int]] = defaultdict(set)
    for name, k in pairs:
        classes[name].add(k)
    return classes


_WAYS: dict[str, Callable[[Sequence[str], Sequence[str]], Candidates]] = {
    "wnid": _by_wnid,
    "name": _by_name,
    "index": _by_index,
    "order": _by_order,
}
