"""Maps made elsewhere in a run: which map belongs to which image, what is checked of them, and which protocols can judge them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attrlib.data.datasets import Dataset
from attrlib.data.folders import show
from attrlib.data.maps import MapArrays, open_maps, summed
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.errors import DataError, MethodError, ProtocolError, SpecError
from attrlib.methods import METHODS, resolve
from attrlib.models import Classifier, Layer
from attrlib.postprocess import are_finite
from attrlib.protocols import Explain, ExplanationRequest, Protocol
from attrlib.specs import MethodSpec, TargetSpec, digest
from attrlib.specs.maps import are_maps, path_of

_NUMBERED = "arr_"
"""What precedes the number of an array without a name in an .npz file."""
_names: WeakKeyDictionary[Dataset, tuple[tuple[str, ...], str]] = WeakKeyDictionary()
# The names of the images of a data set and their digest: the same for each unit of a run.
_matched: "WeakKeyDictionary[Dataset, dict[MethodSpec, Matched]]" = WeakKeyDictionary()


def resolved(spec: MethodSpec, data: Dataset) -> MethodSpec:
    """Return a method with all parameters; that of maps made elsewhere with the digest that its results depend on.

    The digest is that of the content of the file and of the names of the images in their order, which decide whose map is whose.

    Raises:
        AttrlibError: If the method is not valid, or the maps cannot be read or have changed since the digest was taken.
    """
    method = resolve(spec)
    if not are_maps(method):
        return method
    if method.layer != METHODS[method.name].default_layer or method.target != TargetSpec():
        raise SpecError(f"{spec}: maps made elsewhere have neither a layer nor a target; leave them out")
    found = digest(open_maps(path_of(method)).digest, _names_of(data)[1])
    if method.values["digest"] not in ("", found):
        raise DataError(f"the maps {show(path_of(method))[-160:]!r} or the names of the images have changed since; start the run again")
    return MethodSpec(method.name, method.layer, (("file", method.values["file"]), ("digest", found)))


def check_protocol(protocol: Protocol) -> None:
    """Raise `ProtocolError` if a protocol needs other maps than those of the images as they are."""
    if protocol.other_maps:
        raise ProtocolError(
            f"{protocol.name} needs {protocol.other_maps}, and maps made elsewhere are those of the images as they are; score the method itself, or "
            "choose another protocol"
        )


def explainer(
    evaluator: Evaluator, method: MethodSpec, items: Sequence[EvalItem], data: Dataset, together: Sequence[MethodSpec] = ()
) -> Explain:
    """Return a function from a request to maps (B,T,h,w) of a method and their layer: computed, or read if they were made elsewhere.

    Args:
        evaluator: Computes and caches maps.
        method: The method, resolved.
        items: The items for which maps will be requested.
        data: The data set that they are from.
        together: As for `Evaluator.explainer`.
    """
    if not are_maps(method):
        return evaluator.explainer(method, together)
    try:
        found = matched(resolved(method, data), data)
        place_of = {item.id: found.place(item) for item in items}
    except DataError as error:
        raise MethodError(str(error)) from None

    def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
        if request.view or request.keys is None or request.targets.shape[1] != 1 or not set(request.keys) <= place_of.keys():
            raise MethodError(f"{found.maps.name} has no maps of changed images, of grids, or of another model; choose another protocol")
        layer = request.model.layer("Input", (request.images.shape[2], request.images.shape[3]))
        try:
            maps = [found.read(place_of[key], evaluator.model) for key in request.keys]
        except DataError as error:
            raise MethodError(str(error)) from None
        return evaluator.cache.rounded(torch.stack(maps)[:, None]), layer

    return explain


def matched(method: MethodSpec, data: Dataset) -> "Matched":
    """Return the maps of a resolved method, matched to a data set once. Raises `DataError` as `Matched.of` does."""
    known = _matched.setdefault(data, {})
    if method not in known:
        known[method] = Matched.of(method, data)
    return known[method]


@dataclass(frozen=True)
class Matched:
    """Maps made elsewhere, matched to the images of a data set.

    Attributes:
        maps: The maps.
        places: The place of the map of each image by its index; None where there is none.
        by_name: Whether names were matched, rather than places.
        names: The names of the images.
    """

    maps: MapArrays
    places: Sequence[int | None]
    by_name: bool
    names: Sequence[str]

    @classmethod
    def of(cls, method: MethodSpec, data: Dataset) -> "Matched":
        """Match the maps of a method to a data set.

        Raises:
            DataError: If the number of maps or their names do not fit the images.
        """
        maps, (names, _) = open_maps(path_of(method)), _names_of(data)
        if maps.names:
            known = _by_key(maps)
            places = [next((known[key] for key in _keys(name) if key in known), None) for name in names]
            if any(place is not None for place in places):
                _check_unique(maps, places, names)
                return cls(maps, places, True, names)
            numbers = [name.removeprefix(_NUMBERED) for name in maps.names]
            if not all(number.isdecimal() and len(number) < 10 for number in numbers):
                raise DataError(
                    f"none of the names in {maps.name}, such as {maps.names[0][:60]!r}, is that of an image of {data.name}, such as "
                    f"{names[0][:60]!r}; name the maps as the images"
                )
            order = {int(number): place for place, number in enumerate(numbers)}
            if sorted(order) != list(range(len(names))):
                raise DataError(_other_count(maps, len(order), data, len(names)))
            return cls(maps, [order[k] for k in range(len(names))], False, names)
        if maps.count != len(names):
            raise DataError(_other_count(maps, maps.count, data, len(names)))
        return cls(maps, range(maps.count), False, names)

    def place(self, item: EvalItem) -> int:
        """Return the place of the map of an item. Raises `DataError` if there is none."""
        place = self.places[item.images[0]]
        if place is None:
            raise DataError(
                f"{self.maps.name} has no map of {self.names[item.images[0]][:80]!r}; add it, or score a data set of the other images"
            )
        return place

    def read(self, place: int, model: Classifier) -> Tensor:
        """Return a map (h,w), summed over channels.

        Raises:
            DataError: If it cannot be read, or its shape does not fit the input of the model.
        """
        values = self.maps.read(place)
        height, width = model.input_size
        if values.ndim == 3 and values.dtype.kind != "f" and model.channels > 1 and model.channels in (values.shape[0], values.shape[2]):
            raise DataError(
                f"{self.maps.name} holds coloured pictures ({values.dtype}, {values.shape}), not maps; save the values before colouring"
            )
        map_ = summed(values, model.channels)
        if map_ is None:
            raise DataError(
                f"a map of {self.maps.name} has shape {values.shape}, and its channels are neither 1 nor the {model.channels} of {model.name}, first "
                "or last; save (height, width), or sum over what else the axis is"
            )
        h, w = map_.shape
        # A larger map is that of the picture before it is cropped, or one with its axes in another order.
        if h > height or w > width or abs(h * width - w * height) >= max(height, width):
            raise DataError(
                f"a map of {self.maps.name} has {h} x {w} px, but {model.name} sees {height} x {width}; make the maps of the images as "
                "model.preprocess returns them, or at a lower resolution of the same shape"
            )
        return torch.from_numpy(map_)

    def check(self, items: Iterable[EvalItem], model: Classifier) -> list[str]:
        """Read the maps of all items, and return notes on how they are taken.

        Raises:
            DataError: If a map is missing or does not fit, no map is finite, or an image has several items.
        """
        chosen = list(items)
        if len({item.id for item in chosen}) < len(chosen):
            raise DataError(
                f"some images have several labels, and {self.maps.name} does not say of which class its maps are; score target=prediction"
            )
        shapes, broken, constant, negative, positive = set(), 0, 0, False, False
        for item in chosen:
            map_ = self.read(self.place(item), model)
            shapes.add(tuple(map_.shape))
            if not bool(are_finite(map_[None])):
                broken += 1
                continue
            low, high = (float(value) for value in map_.aminmax())
            constant, negative, positive = constant + (low == high), negative or low < 0, positive or high > 0
        if len(shapes) > 1:
            raise DataError(
                f"{self.maps.name} has maps of different shapes, such as {' and '.join(map(str, sorted(shapes)[:2]))}; save all at one size"
            )
        if broken == len(chosen):
            raise DataError(f"all maps of {self.maps.name} have NaN or infinite values; make them again")
        ((height, width),) = shapes
        first = self.names[0][:60]
        order = "matched by name" if self.by_name else f"matched by place: the first is {first!r}, the last {self.names[-1][:60]!r}"
        signs = "of both signs" if negative and positive else "without negative values" if not negative else "without positive values"
        notes = [f"{self.maps.name}: maps of {height} x {width}, {order}; {signs}; taken as maps of the class that a protocol explains"]
        if negative and not positive:
            notes.append(f"{self.maps.name}: no map has a positive value; if evidence for the class is negative in it, flip the sign")
        if broken:
            notes.append(f"{self.maps.name}: {broken} of {len(chosen)} maps have NaN or infinite values; their scores are undefined")
        if constant:
            notes.append(f"{self.maps.name}: {constant} of {len(chosen)} maps are constant")
        return notes


def _names_of(data: Dataset) -> tuple[tuple[str, ...], str]:
    if data not in _names:
        names = tuple(data.item_name(index) for index in range(len(data)))
        _names[data] = names, digest(list(names))
    return _names[data]


def _keys(name: str) -> list[str]:
    """Return the texts under which the map of an image is looked up: its name without suffix, then without its first folders."""
    path = PurePosixPath(name.replace(os.sep, "/"))
    parts = [*path.parts[:-1], path.stem if path.suffix else path.name]
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _by_key(maps: MapArrays) -> dict[str, int]:
    known: dict[str, int] = {}
    for place, name in enumerate(maps.names):
        key = _keys(name)[0]
        if key in known:
            raise DataError(f"{maps.name} has two maps named {key[:80]!r}; name each map as its image")
        known[key] = place
    return known


def _check_unique(maps: MapArrays, places: Sequence[int | None], names: Sequence[str]) -> None:
    owners: dict[int, str] = {}
    for place, name in zip(places, names, strict=True):
        if place is not None and owners.setdefault(place, name) != name:
            raise DataError(
                f"the map {maps.names[place][:60]!r} of {maps.name} fits both {owners[place][:60]!r} and {name[:60]!r}; name the maps with the folders "
                "of the images"
            )


def _other_count(maps: MapArrays, count: int, data: Dataset, images: int) -> str:
    return (
        f"{maps.name} has {count} maps, but {data.name} has {images} images; without names, give one map for each image in the order of the data "
        "set, or name the maps as the images"
    )
