"""A run looked at as a whole: AggAtt and scores at any smoothing, from the maps in the store, and the images behind them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.aggregate import Aggregate, aggregate
from attrlib.data.datasets import Dataset
from attrlib.engine.bench import Bench
from attrlib.engine.loading import Loader
from attrlib.engine.plan import Part, find_parts, select
from attrlib.engine.units import Unit
from attrlib.errors import SpecError, unknown
from attrlib.methods import BATCH_SIZE
from attrlib.models import Classifier
from attrlib.postprocess import resize, smooth
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Batch, Explain, Scene
from attrlib.specs import AggregateView, MethodSpec, RunSpec
from attrlib.statistics import Summary, summary
from attrlib.store import Record, Store

AT_HAND = 128 << 20
"""Bytes of maps that are kept in memory for another look at them; half of what a queue keeps of all results."""
PICTURES = 64
"""Items whose pictures are kept for another look at them."""


@dataclass(frozen=True, eq=False)
class Row:
    """One method on all items: its scores `values` (N,), NaN where undefined, at the smoothing of the view, and their AggAtt.

    `kernel` is that of the smoothing at the maps' own resolution `side` (height, width); `units` are the items.
    """

    method: MethodSpec
    side: tuple[int, int]
    kernel: int
    values: np.ndarray
    aggregate: Aggregate
    units: tuple[Unit, ...]

    @property
    def summary(self) -> Summary:
        """Mean of the scores, its 95 % interval and counts."""
        return summary(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes that the row takes."""
        return self.aggregate.nbytes


@dataclass(frozen=True, eq=False)
class Example:
    """One item: the picture as the model sees it, its smoothed map (H,W) at that size, signed, its score, and its class names."""

    picture: Image.Image
    values: Tensor
    score: float
    names: tuple[str, ...]
    unit: Unit

    @property
    def nbytes(self) -> int:
        """Bytes that the map and the picture take."""
        return self.values.nbytes + 3 * self.picture.width * self.picture.height


class Aggregation:
    """The maps of a run of one protocol, as far as it came; a map that the store has lost meanwhile is made again.

    Raises `SpecError` for a run of several protocols, or of one that smooths by itself: that is up to the view.
    """

    def __init__(self, spec: RunSpec, model: Classifier, data: Dataset, store: Store):
        if len(spec.protocols) != 1 or spec.filter_models:
            raise SpecError("an aggregate view is about one protocol on one model; choose one of each")
        self.spec, self.model, self.data, self.store = spec, model, data, store
        groups, self.refused = find_parts(spec, model, data, Bench(model, store, spec.seed, spec.fast))
        self._group = groups[0]
        self.protocol = self._group.parts[0].protocol
        if getattr(self.protocol, "smoothing", 0):
            raise SpecError(f"{spec.protocols[0]}: smoothing is chosen in the view; leave it out of the setting")
        self._parts = {part.method_spec: part for part in self._group.parts}
        selection, waiting = select(self._group, spec, model, data, Bench(model, store, spec.seed, spec.fast))
        self._units = () if waiting else selection.units
        self._loader = Loader(model, data)
        self._loader.parts = self._group.parted
        self._kept = _Kept(store)
        self._tiled = lru_cache(PICTURES)(self._tile)

    @property
    def grid(self) -> int:
        """Cells in each direction, 1 for single images."""
        return self._group.grids.grid if self._group.grids else 1

    @property
    def cells(self) -> tuple[int, ...]:
        """The cells that are targets."""
        return self._group.grids.cells if self._group.grids else (0,)

    def known(self, method: MethodSpec) -> tuple[Unit, ...]:
        """The items whose score is known, in the run's order."""
        part = self._part(method)
        keys = {unit.key(part.protocol.target_choice): unit for unit in self._units}
        found = self.store.records(part.key, list(keys))
        return tuple(unit for key, unit in keys.items() if key in found)

    def kernel(self, method: MethodSpec, view: AggregateView) -> int:
        """The size of the smoothing at the resolution of a method's maps, 0 for none: views of the same kernel show the same."""
        part = self._part(method)
        own = part.protocol.views(self.model)[0]
        return view.kernel(own.layer(part.method.layer, own.input_size).layout.height, own.input_size[0])

    def row(self, method: MethodSpec, view: AggregateView, progress: Progress = no_progress) -> Row:
        """Scores and AggAtt of one method. Raises `SpecError` for a cell that is no target, and where nothing is known yet."""
        part, units, place = self._part(method), self.known(method), self._place(view)
        if not units:
            raise SpecError(f"nothing is known of {method} yet; start the run")
        bench = self._bench(view, progress, kept=self._group.grids is not None)
        records: list[Record] = []
        maps: list[Tensor] = []
        used: list[Unit] = []
        step = max(1, BATCH_SIZE // self._group.images)
        for first in range(0, len(units), step):
            progress(first, len(units))
            readable, chunk, found = self._look(part, units[first : first + step], bench)
            used += readable
            records += chunk
            maps.append(found[:, [place]])
        native = torch.cat(maps)
        height, width = self.model.input_size
        size = height * self.grid, width * self.grid
        values = torch.tensor([record.value for record in records], dtype=torch.float64)
        scores = torch.tensor([_of_cell(record, place) for record in records], dtype=torch.float64) if self._group.grids else values
        cell = view.cell if self._group.grids else 0
        found_bins = aggregate(native, cell, self.grid, size=size, signed=view.average == "signed", scores=scores)
        side = (native.shape[2], native.shape[3])
        return Row(method, side, view.kernel(side[0], size[0]), values.numpy(), found_bins, tuple(used))

    def examples(self, row: Row, positions: Sequence[int], view: AggregateView, progress: Progress = no_progress) -> list[Example]:
        """The items at some positions of a row, with the map of the target cell."""
        part, place = self._part(row.method), self._place(view)
        bench = self._bench(view, progress, kept=self._group.grids is not None)
        examples: list[Example] = []
        for position in positions:
            progress(len(examples), len(positions))
            unit = row.units[position]
            readable, _, found = self._look(part, [unit], bench)
            if readable:
                picture = self.picture(unit)
                values = resize(found[:, [place]], (picture.height, picture.width))[0, 0]
                names = tuple(self.model.class_names[label].split(",")[0] if label >= 0 else "" for label in unit.labels)
                examples.append(Example(picture, values, float(row.aggregate.scores[position]), names, unit))
        return examples

    def picture(self, unit: Unit) -> Image.Image:
        """An item as the model sees it."""
        return self._tiled(unit)

    @property
    def nbytes(self) -> int:
        """Bytes of the maps and pictures that are at hand."""
        height, width = self.model.input_size
        return self._kept.nbytes + self._tiled.cache_info().currsize * 3 * height * width * self.grid**2

    def _tile(self, unit: Unit) -> Image.Image:
        return tiled([self.model.preprocessing.view(self.data[index].image) for index in unit.images])

    def _part(self, method: MethodSpec) -> Part:
        if method not in self._parts:
            reasons = [reason for _, refused, reason in self.refused if refused == method]
            raise SpecError(reasons[0] if reasons else unknown("method of the run", method, map(str, self._parts)))
        return self._parts[method]

    def _place(self, view: AggregateView) -> int:
        """Where the target cell is among the targets."""
        if self._group.grids is None:
            return 0
        if view.cell not in self.cells:
            raise SpecError(f"cell={view.cell} is no target of {self.protocol.name}; choose one of {', '.join(map(str, self.cells))}")
        return self.cells.index(view.cell)

    def _bench(self, view: AggregateView, progress: Progress, kept: bool) -> "_SmoothBench":
        bench = _SmoothBench(self.model, self._kept if kept else self.store, self.spec.seed, self.spec.fast, progress=progress)
        bench.view = view
        return bench

    def _look(self, part: Part, units: Sequence[Unit], bench: "_SmoothBench") -> tuple[Sequence[Unit], list[Record], Tensor]:
        """Scores of some items at a smoothing, and the smoothed maps (B,T,h,w) of all their targets; only of those that can be read."""
        batch: Batch | None
        if self._group.grids is not None:
            try:
                return bench.perform_all(part, units, self._blank(units))
            except _Gone:
                bench = self._bench(bench.view, bench.setting.progress, kept=False)
        units, batch = self._loader.get(tuple(units))
        if batch is None:
            return (), [], torch.zeros(0, len(self.cells), 1, 1)
        return bench.perform_all(part, units, batch)

    def _blank(self, units: Sequence[Unit]) -> Batch:
        """A batch without pictures: the names of maps depend on the items and their labels alone."""
        height, width = self.model.input_size
        images = torch.zeros(1, 3, 1, 1).expand(len(units), 3, height * self.grid, width * self.grid)
        return Batch(tuple(unit.id for unit in units), images, torch.tensor([unit.labels for unit in units]))


def _of_cell(record: Record, place: int) -> tuple[float, float]:
    """Localisation in one of the targets' cells, and the positive attribution inside it."""
    shares, inside = (record.details[name] for name in ("shares", "inside"))
    assert isinstance(shares, Sequence)
    assert isinstance(inside, Sequence)
    return shares[place], inside[place]


def tiled(pictures: Sequence[Image.Image]) -> Image.Image:
    """n x n pictures of one size, row by row, as one; a single one as it is."""
    n, (width, height) = round(len(pictures) ** 0.5), pictures[0].size
    sheet = Image.new("RGB", (n * width, n * height))
    for k, picture in enumerate(pictures):
        sheet.paste(picture, (k % n * width, k // n * height))
    return sheet


class _SmoothBench(Bench):
    """Gives protocols smoothed maps, and remembers them."""

    view: AggregateView

    def perform_all(self, part: Part, units: Sequence[Unit], batch: Batch) -> tuple[Sequence[Unit], list[Record], Tensor]:
        """The items, their scores, and the smoothed maps (B,T,h,w) of all targets."""
        records = self.perform(part.protocol, part.method, units, batch)
        return units, list(records.values()), torch.cat(self.seen, 1)

    def explain(self, method: MethodSpec, beside: Sequence[MethodSpec] = ()) -> Explain:
        inner = super().explain(method, beside)
        self.seen: list[Tensor] = []

        def explain(scene: Scene) -> tuple[Tensor, object]:
            maps, layer = inner(scene)
            smoothed = smooth(maps, self.view.kernel(maps.shape[2], scene.images.shape[2]))
            self.seen.append(smoothed)
            return smoothed, layer

        return explain  # type: ignore[return-value]


class _Gone(Exception):
    """A map is not in the store."""


class _Kept:
    """The store without a way to make what it does not have: no image need be opened to find what it has.

    The maps read last stay at hand, so that another smoothing need not read them again.
    """

    def __init__(self, store: Store):
        self._store = store
        self.dtype = store.dtype
        self._maps: OrderedDict[str, Tensor] = OrderedDict()
        self.nbytes = 0

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Those that are known."""
        return self._store.records(key, items)

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """All of them. Raises `_Gone`."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._maps]
        read = self._store.maps(missing) if missing else {}
        if len(read) < len(missing):
            raise _Gone
        found = {key: read[key] if key in read else self._maps[key] for key in keys}
        for key, values in read.items():
            self._maps[key] = values
            self.nbytes += values.nbytes
        while self.nbytes > AT_HAND:
            self.nbytes -= self._maps.popitem(last=False)[1].nbytes
        return found

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        """Nothing is made, so nothing is added."""

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Nothing is made, so nothing is added."""

    def rounded(self, maps: Tensor) -> Tensor:
        """The maps as they come back."""
        return self._store.rounded(maps)
