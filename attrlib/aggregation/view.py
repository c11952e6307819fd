"""Aggregate a run: AggAtt, scores and example images at any smoothing, from cached maps."""

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor

from attrlib.aggregation.recent_maps import RecentMaps
from attrlib.aggregation.rows import Example, Row
from attrlib.binning import aggregate
from attrlib.data.datasets import Dataset
from attrlib.engine.cache import RunStore
from attrlib.engine.evaluations import Evaluation
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.engine.plan import make_plan
from attrlib.errors import ImageError, SpecError, unknown
from attrlib.models import Classifier, Layer
from attrlib.postprocess import resize, smooth
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Batch, Explain, ExplanationRequest
from attrlib.specs import AggregateView, MethodSpec, RunSpec
from attrlib.store import Record

PICTURES = 64
"""Maximum number of items whose images are kept in memory for reuse."""


class Aggregation:
    """The maps of a run of one protocol, which may be unfinished. Maps that are no longer cached are computed again.

    Args:
        spec: The run.
        model: The run's model.
        data: The run's data set.
        store: The store with the run's results.

    Raises:
        SpecError: If the run has several protocols or filter models, or its protocol smooths maps, which the view does instead.
    """

    def __init__(self, spec: RunSpec, model: Classifier, data: Dataset, store: RunStore):
        if len(spec.protocols) != 1 or spec.filter_models:
            raise SpecError("an aggregation takes one protocol on one model, without filter models; choose one of each")
        plan = make_plan(spec, model, data, store)
        self.spec, self.model, self.data, self.refused = spec, model, data, plan.refused
        (self._plan,) = plan.groups
        self._group = self._plan.group
        self.protocol = self._group.evaluations[0].protocol
        if getattr(self.protocol, "smoothing", 0):
            raise SpecError(f"{spec.protocols[0]}: smoothing is set in the view; remove it from the protocol")
        self._evaluations = {each.method_spec: each for each in self._group.evaluations}
        self._items = () if self._plan.unpredicted else self._plan.items
        self._maps = RecentMaps(store)
        self._evaluator = Evaluator(model, self._maps, spec.seed, spec.fast)
        self._loader = self._evaluator.loader(data, [self.protocol])
        self._tiled = lru_cache(PICTURES)(self._tile)

    @property
    def grid(self) -> int:
        """Return the number of grid cells per side, 1 for single images."""
        return self._group.grids.grid if self._group.grids else 1

    @property
    def cells(self) -> tuple[int, ...]:
        """Return the numbers of the grid cells that are targets."""
        return self._group.grids.cells if self._group.grids else (0,)

    def cached_items(self, method: MethodSpec) -> tuple[EvalItem, ...]:
        """Return the items whose score under a method is cached, in the order of the run."""
        evaluation = self._evaluation(method)
        keys = {item.key(self._group.target_choice): item for item in self._items}
        cached = self._maps.values(evaluation.key, list(keys))
        return tuple(item for key, item in keys.items() if key in cached)

    def kernel(self, method: MethodSpec, view: AggregateView) -> int:
        """Return the size of the smoothing kernel at the resolution of a method's maps, 0 for none.

        Views with the same kernel show the same maps.

        Args:
            method: The method.
            view: The view.
        """
        evaluation = self._evaluation(method)
        model = evaluation.protocol.views(self.model)[0]
        return view.kernel(model.layer(evaluation.method.layer, model.input_size).layout.height, model.input_size[0])

    def row(self, method: MethodSpec, view: AggregateView, on_progress: Progress = no_progress) -> Row:
        """Return scores and AggAtt of one method.

        Args:
            method: The method.
            view: The view.
            on_progress: The progress callback.

        Raises:
            SpecError: If the method is not in the run, the view's cell is not a target, or no score is cached yet.
            ImageError: If no item can be read any more.
        """
        evaluation, items, target = self._evaluation(method), self.cached_items(method), self._target_position(view)
        if not items:
            raise SpecError(f"no results of {method} are cached yet; start the run")
        records: list[Record] = []
        maps: list[Tensor] = []
        used: list[EvalItem] = []
        step = self._group.chunk_size
        for first in range(0, len(items), step):
            on_progress(first, len(items))
            readable, chunk, smoothed = self._smoothed(evaluation, items[first : first + step], view, on_progress)
            if readable:
                used += readable
                records += chunk
                maps.append(smoothed[:, [target]])
        if not used:
            raise ImageError(f"none of the {len(items)} items can be read: {self._loader.unreadable[items[0].id]}")
        native = torch.cat(maps)
        height, width = self.model.input_size
        size = height * self.grid, width * self.grid
        values = torch.tensor([record.value for record in records], dtype=torch.float64)
        scores = torch.tensor([_score_of_cell(record, target) for record in records], dtype=torch.float64) if self._group.grids else values
        cell = view.cell if self._group.grids else 0
        bins = aggregate(native, cell, self.grid, size=size, signed=view.average == "signed", scores=scores)
        side = (native.shape[2], native.shape[3])
        return Row(method, side, view.kernel(side[0], size[0]), values.numpy(), bins, tuple(used))

    def examples(self, row: Row, positions: Sequence[int], view: AggregateView, on_progress: Progress = no_progress) -> list[Example]:
        """Return the items at some positions of a row; unreadable items are left out.

        Args:
            row: The row.
            positions: Positions in `row.items`.
            view: The view.
            on_progress: The progress callback.
        """
        examples: list[Example] = []
        for number, position in enumerate(positions):
            on_progress(number, len(positions))
            with suppress(ImageError):
                examples.append(self.example(row, position, view, on_progress))
        return examples

    def example(self, row: Row, position: int, view: AggregateView, on_progress: Progress = no_progress) -> Example:
        """Return the item at a position of a row, with the map of the target cell.

        Args:
            row: The row.
            position: Position in `row.items`.
            view: The view.
            on_progress: The progress callback.

        Raises:
            ImageError: If one of the item's images cannot be read any more.
        """
        item, target = row.items[position], self._target_position(view)
        readable, _, smoothed = self._smoothed(self._evaluation(row.method), [item], view, on_progress)
        if not readable:
            raise ImageError(self._loader.unreadable[item.id])
        picture = self.picture(item)
        values = resize(smoothed[:, [target]], (picture.height, picture.width))[0, 0]
        names = tuple(self.model.class_names[label].split(",")[0] if label >= 0 else "" for label in item.labels)
        return Example(picture, values, float(row.aggregate.scores[position]), names, item)

    def picture(self, item: EvalItem) -> Image.Image:
        """Return an item as the model sees it."""
        return self._tiled(item)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the maps and pictures kept in memory."""
        height, width = self.model.input_size
        return self._maps.nbytes + self._tiled.cache_info().currsize * 3 * height * width * self.grid**2

    def _tile(self, item: EvalItem) -> Image.Image:
        return tiled([self.model.preprocessing.view(self.data[index]) for index in item.images])

    def _evaluation(self, method: MethodSpec) -> Evaluation:
        if method not in self._evaluations:
            reasons = [reason for _, refused, reason in self.refused if refused == method]
            raise SpecError(reasons[0] if reasons else unknown("method of the run", method, map(str, self._evaluations)))
        return self._evaluations[method]

    def _target_position(self, view: AggregateView) -> int:
        """Return the position of the target cell among the targets."""
        if self._group.grids is None:
            return 0
        if view.cell not in self.cells:
            raise SpecError(
                f"cell={view.cell} is not a target cell of {self.protocol.name}; choose one of {', '.join(map(str, self.cells))}"
            )
        return self.cells.index(view.cell)

    def _smoothed(
        self, evaluation: Evaluation, items: Sequence[EvalItem], view: AggregateView, on_progress: Progress
    ) -> tuple[Sequence[EvalItem], list[Record], Tensor]:
        """Return the readable items, their scores with smoothed maps, and the smoothed maps (B,T,h,w) of all their targets."""
        evaluator = self._evaluator.reporting_to(on_progress)
        batch: Batch | None
        if self._group.grids is not None:
            # If all maps are cached, no image is opened: the keys of maps depend only on the items and their labels.
            batch = self._blank(items)
            explain = self._from_cache(evaluator, evaluation, batch)
            if explain is not None:
                return items, *self._score(evaluator, evaluation, items, batch, explain, view)
        items, batch = self._loader.get(tuple(items))
        if batch is None:
            return (), [], torch.zeros(0, len(self.cells), 1, 1)
        return items, *self._score(evaluator, evaluation, items, batch, evaluator.explainer(evaluation.method), view)

    def _from_cache(self, evaluator: Evaluator, evaluation: Evaluation, batch: Batch) -> Explain | None:
        """Return a function that returns the cached maps that the protocol requests, None if one is missing."""
        maps: dict[str, Tensor] = {}
        for request in self.protocol.requests(evaluator.eval_batch(self.protocol, batch, evaluator.explainer(evaluation.method))):
            cached = evaluator.cached_maps(evaluation.method, request)
            if cached is None:
                return None
            maps[request.view] = cached

        def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
            return maps[request.view], request.model.layer(evaluation.method.layer, (request.images.shape[2], request.images.shape[3]))

        return explain

    def _score(
        self, evaluator: Evaluator, evaluation: Evaluation, items: Sequence[EvalItem], batch: Batch, explain: Explain, view: AggregateView
    ) -> tuple[list[Record], Tensor]:
        """Score smoothed maps, and return the records and the smoothed maps of all targets."""
        seen: list[Tensor] = []

        def smoothed(request: ExplanationRequest) -> tuple[Tensor, Layer]:
            maps, layer = explain(request)
            seen.append(smooth(maps, view.kernel(maps.shape[2], request.images.shape[2])))
            return seen[-1], layer

        records = evaluator.evaluate(evaluation.protocol, items, batch, smoothed)
        return list(records.values()), torch.cat(seen, 1)

    def _blank(self, items: Sequence[EvalItem]) -> Batch:
        """Return a batch with empty images."""
        height, width = self.model.input_size
        images = torch.zeros(1, 1, 1, 1).expand(len(items), self.model.channels, height * self.grid, width * self.grid)
        return Batch(tuple(item.id for item in items), images, torch.tensor([item.labels for item in items]))


def _score_of_cell(record: Record, target: int) -> tuple[float, float]:
    """Return the localisation score of one target's grid cell, and the positive attribution inside the cell."""
    shares, inside = (record.details[name] for name in ("shares", "inside"))
    assert isinstance(shares, Sequence)
    assert isinstance(inside, Sequence)
    return shares[target], inside[target]


def tiled(pictures: Sequence[Image.Image]) -> Image.Image:
    """Tile n x n images of one size, row by row, into one image."""
    n, (width, height) = round(len(pictures) ** 0.5), pictures[0].size
    sheet = Image.new("RGB", (n * width, n * height))
    for k, picture in enumerate(pictures):
        sheet.paste(picture, (k % n * width, k // n * height))
    return sheet
