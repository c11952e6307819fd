"""Matching of the classes of a data set to the classes of a model."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

# isort: split
from timm.data import ImageNetInfo

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
            synonyms is enough. `index`: by number (`0` or `0000`). `order`: the k-th of the sorted names is class k; the counts
            must be equal. `auto`: the first of wnid, name and index that fits all classes, and order only if the counts are equal
            and the model's classes have no names.

    Raises:
        DataError: If a class of the data matches no class or several classes of the model, or `by` is unknown. The message names
            classes that do not fit.
    """
    return _matched(names, model_names, by)[1]


def order_note(names: Sequence[str], model_names: Sequence[str], by: str = "auto") -> tuple[str, ...]:
    """Return a note if `auto` matches by order because the model's classes have no names, else nothing.

    Args:
        names: Class names of the data.
        model_names: Class names of the model.
        by: How classes are matched, see `match_classes`.
    """
    if by != "auto":
        return ()
    way, indices = _matched(names, model_names, by)
    if way != "order":
        return ()
    pairs = sorted(zip(indices, names, strict=True))
    shown = ", ".join(f"{name[:80]!r} is class {k}" for k, name in pairs[:_SOME])
    return (
        f"classes are matched by order, because the model's classes have no names: {shown}{', and so on' if pairs[_SOME:] else ''}; to name "
        "them, put a text file beside the checkpoint, of the same name with the suffix .txt, with one name per line",
    )


def _matched(names: Sequence[str], model_names: Sequence[str], by: str) -> tuple[str, tuple[int, ...]]:
    """Return the way of matching that is used, and the class indices that it finds."""
    check_way(by)
    if by != "auto":
        return by, _unique(_WAYS[by](names, model_names), names, model_names, by)
    candidates_by = {way: _WAYS[way](names, model_names) for way in ("wnid", "name", "index")}
    if all(name == f"class {k}" for k, name in enumerate(model_names)) and len(names) == len(model_names):
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
        ordered = ", or choose by='order'" if len(names) == len(model_names) else ""
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
    return [classes.get(_plain(name), set()) for name in names]


def _plain(name: str) -> str:
    return re.sub(r"[\s_,-]+", " ", unicodedata.normalize("NFC", name).casefold()).strip()


def _by_index(names: Sequence[str], model_names: Sequence[str]) -> Candidates:
    # int() raises an error for thousands of digits.
    numbers = [int(name) if name.isascii() and name.isdigit() and len(name) < 10 else -1 for name in names]
    return [{k} if 0 <= k < len(model_names) else set() for k in numbers]


def _by_order(names: Sequence[str], model_names: Sequence[str]) -> Candidates:
    if len(names) != len(model_names):
        raise DataError(
            f"the data have {len(names)} classes and the model {len(model_names)}: by='order' needs equal counts; match by name instead"
        )
    rank = {name: k for k, name in enumerate(sorted(names))}
    return [{rank[name]} for name in names]


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
